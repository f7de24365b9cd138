//! Handshakes with a live peer: an endpoint of ours on UDP sockets, and whatever implementation at the other end.

use std::io::{ErrorKind, IoSlice};
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use anyhow::{Context, bail, ensure};
use controlplane::Endpoint;
use controlplane::config::Config;
use controlplane::crypto::SystemRandom;
use controlplane::endpoint::WallClock;
use controlplane::update::{DownReason, Event};
use dataplane::message::Datagram;
use hdrhistogram::Histogram;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{MsgFlags, SockaddrStorage, sendmsg};
use std::os::fd::{AsFd, AsRawFd};

use super::case::Plan;
use crate::measure::{Round, Samples};
use crate::report::Row;

/// The ports of IKE, without and with UDP encapsulation (RFC 7296 s2, RFC 3948).
const PORTS: [u16; 2] = [500, 4500];
/// In front of IKE on the second one (RFC 3948 s2.2).
const NON_ESP_MARKER: [u8; 4] = [0; 4];
/// How long the loop sleeps when nothing is due.
const IDLE: Duration = Duration::from_millis(100);

/// Our address, and the peer's.
#[derive(Clone, Copy, Debug)]
pub struct Ends {
    pub local: IpAddr,
    pub peer: IpAddr,
}

/// Connections to one peer, set up and taken down again and again.
pub struct Live {
    host: Host,
    connections: usize,
    in_flight: usize,
    /// From the first message to the child's being up, in nanoseconds.
    waits: Histogram<u64>,
}

impl Live {
    /// So many connections, of which so many are under way at once.
    ///
    /// # Errors
    /// When the ports of IKE cannot be had at our address.
    pub fn new(plan: &Plan, ends: Ends, connections: usize, in_flight: usize) -> anyhow::Result<Self> {
        let wire = Wire::bind(ends.local, PORTS).with_context(|| {
            format!("UDP ports 500 and 4500 of {}: they take root, and no other IKE there", ends.local)
        })?;
        let config = plan.towards(ends.local, ends.peer, connections)?;
        Self::over(wire, config, connections, in_flight)
    }

    fn over(wire: Wire, config: Config, connections: usize, in_flight: usize) -> anyhow::Result<Self> {
        let host = Host::new(wire, config);
        Ok(Self { host, connections, in_flight, waits: Histogram::new(3)? })
    }

    /// Sets every connection up once, each with its child, and takes it down again.
    ///
    /// # Errors
    /// When one does not come up: why.
    pub fn round(&mut self) -> anyhow::Result<Round> {
        let start = Instant::now();
        let mut begun = Vec::with_capacity(self.connections);
        let mut gone = 0;
        while gone < self.connections {
            while begun.len() < self.connections && begun.len() - gone < self.in_flight {
                let now = Instant::now();
                self.host.endpoint.initiate(now, &mut SystemRandom, &begun.len().to_string(), None)?;
                begun.push(now);
            }
            for event in self.host.step()? {
                match event {
                    Event::ChildUp { connection, .. } => {
                        let began = connection.parse().ok().and_then(|at: usize| begun.get(at));
                        let began = began.with_context(|| format!("no connection {connection}"))?;
                        self.waits.record(began.elapsed().as_nanos() as u64)?;
                        self.host.endpoint.terminate(Instant::now(), &mut SystemRandom, &connection, None)?;
                    }
                    Event::IkeDown { reason: DownReason::Terminated, .. } => gone += 1,
                    Event::IkeDown { reason, .. } | Event::ChildFailed { reason, .. } => {
                        bail!("a connection did not come up: {reason}")
                    }
                    _ => {}
                }
            }
        }
        Ok(Round { time: start.elapsed(), packets: self.connections as u64 })
    }

    /// Handshakes a second by the clock on the wall, one figure a round, and how long it took until a child was up.
    pub fn row(&self, labels: Vec<(&'static str, String)>, rates: &Samples) -> Row {
        let wait = |quantile| self.waits.value_at_quantile(quantile) as f64 / 1e3;
        let figures = vec![
            ("handshakes", rates.stats().median),
            ("p50_us", wait(0.5)),
            ("p99_us", wait(0.99)),
            ("max_us", wait(1.0)),
        ];
        Row::new(labels, figures)
    }
}

/// An endpoint on its sockets.
struct Host {
    endpoint: Endpoint,
    wire: Wire,
}

impl Host {
    fn new(wire: Wire, config: Config) -> Self {
        let clock = WallClock::new(Instant::now(), SystemTime::now());
        Self { endpoint: Endpoint::new(Arc::new(config), clock), wire }
    }

    /// Sends what is to be sent, waits until something comes or is due, and hears it. Returns the news.
    fn step(&mut self) -> anyhow::Result<Vec<Event>> {
        let news = self.drain()?;
        let due = self.endpoint.next_deadline();
        let wait = due.map_or(IDLE, |at| at.saturating_duration_since(Instant::now()).min(IDLE));
        if news.is_empty() {
            self.wire.wait(wait)?;
        }
        while let Some(datagram) = self.wire.receive()? {
            self.endpoint.handle_datagram(Instant::now(), datagram, &mut SystemRandom);
        }
        if due.is_some_and(|at| at <= Instant::now()) {
            self.endpoint.handle_timeout(Instant::now(), &mut SystemRandom);
        }
        Ok(news)
    }

    fn drain(&mut self) -> anyhow::Result<Vec<Event>> {
        while self.endpoint.poll_sa_update().is_some() {}
        while let Some(datagram) = self.endpoint.poll_transmit() {
            self.wire.send(&datagram)?;
        }
        Ok(std::iter::from_fn(|| self.endpoint.poll_event()).collect())
    }
}

/// The two sockets of an address.
struct Wire {
    address: IpAddr,
    sockets: [UdpSocket; 2],
    /// The ports that stand for [`PORTS`] at the other end.
    peer: [u16; 2],
    buffer: Vec<u8>,
}

impl Wire {
    fn bind(address: IpAddr, ports: [u16; 2]) -> anyhow::Result<Self> {
        let open = |port| -> std::io::Result<UdpSocket> {
            let socket = UdpSocket::bind((address, port))?;
            socket.set_nonblocking(true)?;
            Ok(socket)
        };
        let sockets = [open(ports[0])?, open(ports[1])?];
        Ok(Self { address, sockets, peer: PORTS, buffer: vec![0; 1 << 16] })
    }

    fn send(&self, datagram: &Datagram) -> anyhow::Result<()> {
        let at = |address: &SocketAddr| usize::from(address.port() == PORTS[1]);
        let (from, to) = (at(&datagram.local), at(&datagram.remote));
        let to = SockaddrStorage::from(SocketAddr::new(datagram.remote.ip(), self.peer[to]));
        let marker: &[u8] = if from == 1 { &NON_ESP_MARKER } else { &[] };
        let parts = [IoSlice::new(marker), IoSlice::new(&datagram.payload)];
        match sendmsg(self.sockets[from].as_raw_fd(), &parts, &[], MsgFlags::empty(), Some(&to)) {
            // The peer is away, or a queue is full: IKE repeats what got lost.
            Ok(_) | Err(nix::Error::ECONNREFUSED | nix::Error::EAGAIN | nix::Error::ENOBUFS) => Ok(()),
            Err(error) => Err(error).with_context(|| format!("sending to {}", datagram.remote)),
        }
    }

    fn receive(&mut self) -> anyhow::Result<Option<Datagram>> {
        for (at, socket) in self.sockets.iter().enumerate() {
            let (len, from) = match socket.recv_from(&mut self.buffer) {
                Ok(received) => received,
                Err(error)
                    if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::ConnectionRefused) =>
                {
                    continue;
                }
                Err(error) => return Err(error).context("receiving"),
            };
            let message = &self.buffer[..len];
            let payload = if at == 0 { Some(message) } else { message.strip_prefix(&NON_ESP_MARKER) };
            // What is left is ESP, or a keepalive.
            let Some(payload) = payload else { continue };
            let port =
                self.peer.iter().position(|&port| port == from.port()).map_or(from.port(), |at| PORTS[at]);
            return Ok(Some(Datagram {
                local: SocketAddr::new(self.address, PORTS[at]),
                remote: SocketAddr::new(from.ip(), port),
                payload: payload.to_vec(),
            }));
        }
        Ok(None)
    }

    fn wait(&self, at_most: Duration) -> anyhow::Result<()> {
        let mut sockets =
            self.sockets.each_ref().map(|socket| PollFd::new(socket.as_fd(), PollFlags::POLLIN));
        // A millisecond more, so that what is due is due then.
        let timeout = PollTimeout::try_from(at_most + Duration::from_millis(1)).unwrap_or(PollTimeout::MAX);
        match poll(&mut sockets, timeout) {
            Ok(_) | Err(nix::Error::EINTR) => Ok(()),
            Err(error) => Err(error).context("waiting for a datagram"),
        }
    }
}

/// Checks what the options say of the live peer.
///
/// # Errors
/// When something lacks.
pub fn ends(local: Option<IpAddr>, peer: Option<IpAddr>) -> anyhow::Result<Ends> {
    let (Some(local), Some(peer)) = (local, peer) else {
        bail!("--parts live: --peer and --local, the addresses of both ends");
    };
    ensure!(local.is_ipv4() == peer.is_ipv4(), "--peer {peer} and --local {local} are not of one family");
    Ok(Ends { local, peer })
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, Ordering};

    use super::super::case::Kind;
    use super::*;

    const OURS: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(127, 0, 0, 1));
    const THEIRS: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(127, 0, 0, 2));

    /// Connections of one plan to a peer of another on loopback, on ports that anybody may have.
    fn with_live(ours: Kind, theirs: Kind, test: impl FnOnce(Live)) {
        const CONNECTIONS: usize = 5;
        let [ours, theirs] = [ours, theirs].map(|kind| Plan::new(kind, "aes256gcm16-prfsha384").unwrap());
        let mut wires = [OURS, THEIRS].map(|address| Wire::bind(address, [0, 0]).unwrap());
        let port = |socket: &UdpSocket| socket.local_addr().unwrap().port();
        let [at_ours, at_theirs] = wires.each_ref().map(|wire| wire.sockets.each_ref().map(port));
        wires[0].peer = at_theirs;
        wires[1].peer = at_ours;
        let [wire, peer] = wires;
        let mut peer = Host::new(peer, theirs.answering(THEIRS).unwrap());
        let stopped = AtomicBool::new(false);
        std::thread::scope(|scope| {
            let stop = Stop(&stopped);
            scope.spawn(|| {
                while !stopped.load(Ordering::Relaxed) {
                    peer.step().unwrap();
                }
            });
            let config = ours.towards(OURS, THEIRS, CONNECTIONS).unwrap();
            test(Live::over(wire, config, CONNECTIONS, 2).unwrap());
            drop(stop);
        });
    }

    /// Ends the peer's thread, also when the test fails.
    struct Stop<'a>(&'a AtomicBool);

    impl Drop for Stop<'_> {
        fn drop(&mut self) {
            self.0.store(true, Ordering::Relaxed);
        }
    }

    #[test]
    fn a_live_peer_is_connected_to_again_and_again() {
        for kind in [Kind::Psk, Kind::Hybrid] {
            with_live(kind, kind, |mut live| {
                for rounds in 1..3 {
                    assert_eq!(live.round().unwrap().packets, 5);
                    assert_eq!(live.waits.len(), 5 * rounds);
                }
                let row = live.row(Vec::new(), &[250.0].into_iter().collect());
                assert_eq!(row.figures[0], ("handshakes", 250.0));
                assert!(row.figures[1].0 == "p50_us" && row.figures[1].1 > 0.0);
            });
        }
    }

    #[test]
    fn a_peer_that_refuses_is_told() {
        with_live(Kind::Hybrid, Kind::Psk, |mut live| {
            let error = live.round().map(|_| ()).expect_err("the peer has no ML-KEM").to_string();
            assert!(error.contains("NO_PROPOSAL_CHOSEN"), "{error}");
        });
    }

    #[test]
    fn both_addresses_are_needed() {
        assert!(ends(Some(OURS), None).is_err() && ends(None, Some(THEIRS)).is_err());
        assert!(ends(Some(OURS), Some(IpAddr::from([0; 16]))).is_err());
        assert!(ends(Some(OURS), Some(THEIRS)).is_ok());
    }
}
