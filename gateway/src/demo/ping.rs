//! Pings from a host: ICMP echo through a raw socket, answered by the other host's kernel.

use std::io;
use std::net::SocketAddrV4;
use std::os::fd::{AsRawFd, OwnedFd};
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use dataplane::packet::{icmp, ip};
use nix::errno::Errno;
use nix::sys::socket::{
    AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, SockaddrIn, connect, recv, send, setsockopt,
    socket, sockopt,
};
use nix::sys::time::TimeVal;

use super::netns::Namespace;
use super::plan::Side;
use super::report::Pings;

/// Pings of a series.
const COUNT: u16 = 5;
/// Between two pings.
const INTERVAL: Duration = Duration::from_millis(100);
/// How long an answer may take. The first waits for the neighbour discovery of all five.
pub(super) const PATIENCE: Duration = Duration::from_secs(2);

/// A host that pings the other.
pub(super) struct Pinger {
    from: Side,
    socket: OwnedFd,
    identifier: u16,
    sequence: u16,
    marker: Vec<u8>,
}

/// A ping under way.
#[derive(Clone, Copy)]
pub(super) struct Sent {
    sequence: u16,
    at: Instant,
}

impl Pinger {
    /// Opens a socket in the host's namespace. Every ping carries the marker.
    pub(super) fn open(from: Side, namespace: &Namespace, marker: &[u8]) -> Result<Self> {
        let socket = namespace.run(|| {
            let socket =
                socket(AddressFamily::Inet, SockType::Raw, SockFlag::SOCK_CLOEXEC, SockProtocol::Icmp)?;
            let to = SockaddrIn::from(SocketAddrV4::new(from.other().host().addr(), 0));
            connect(socket.as_raw_fd(), &to)?;
            Ok(socket)
        })?;
        // Any will do: nobody else pings in the namespace.
        let identifier = std::process::id() as u16;
        Ok(Self { from, socket, identifier, sequence: 0, marker: marker.to_owned() })
    }

    /// A series of pings, one after the other.
    pub(super) fn series(&mut self) -> Result<Pings> {
        let mut times = Vec::new();
        for _ in 0..COUNT {
            let ping = self.send()?;
            times.extend(self.answer(ping, PATIENCE)?);
            sleep(INTERVAL);
        }
        times.sort_unstable();
        let ns = |time: Option<&Duration>| time.map(|time| time.as_nanos() as u64);
        Ok(Pings {
            from: self.from,
            to: self.from.other(),
            sent: COUNT.into(),
            answered: times.len() as u64,
            rtt_min_ns: ns(times.first()),
            rtt_p50_ns: ns(times.get(times.len() / 2)),
            rtt_max_ns: ns(times.last()),
        })
    }

    /// Sends one.
    pub(super) fn send(&mut self) -> Result<Sent> {
        self.sequence += 1;
        let ping = Sent { sequence: self.sequence, at: Instant::now() };
        let mut message = vec![0; icmp::HEADER_LEN];
        message.extend_from_slice(&self.marker);
        let header = icmp::Header { kind: icmp::kind::ECHO_REQUEST, code: 0, rest: self.rest(ping) };
        header.emit(&mut message);
        send(self.socket.as_raw_fd(), &message, MsgFlags::empty())
            .with_context(|| format!("host {} cannot send a ping", self.from))?;
        Ok(ping)
    }

    /// The time after which a ping was answered; `None` when it was not.
    pub(super) fn answer(&self, ping: Sent, patience: Duration) -> Result<Option<Duration>> {
        let end = Instant::now() + patience;
        let mut packet = [0; 2048];
        loop {
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(None);
            }
            // Zero would be forever.
            let micros = i64::try_from(left.as_micros()).unwrap_or(i64::MAX).max(1);
            let timeout = TimeVal::new(micros / 1_000_000, micros % 1_000_000);
            setsockopt(&self.socket, sockopt::ReceiveTimeout, &timeout)?;
            match recv(self.socket.as_raw_fd(), &mut packet, MsgFlags::empty()) {
                Ok(len) if self.is_answer(packet.get(..len).unwrap_or_default(), ping) => {
                    return Ok(Some(ping.at.elapsed()));
                }
                Ok(_) | Err(Errno::EAGAIN | Errno::EINTR) => {}
                Err(errno) => {
                    return Err(io::Error::from(errno))
                        .with_context(|| format!("host {} cannot receive", self.from));
                }
            }
        }
    }

    /// Whether a packet, IP header first, answers a ping with all that it carried.
    fn is_answer(&self, packet: &[u8], ping: Sent) -> bool {
        let Ok(info) = ip::parse(packet) else { return false };
        let message = packet.get(info.header_len.into()..info.total_len.into()).unwrap_or_default();
        icmp::Header::parse(message).is_ok_and(|(header, body)| {
            header.kind == icmp::kind::ECHO_REPLY && header.rest == self.rest(ping) && body == self.marker
        })
    }

    /// Identifier and sequence number.
    fn rest(&self, ping: Sent) -> [u8; 4] {
        let ([a, b], [c, d]) = (self.identifier.to_be_bytes(), ping.sequence.to_be_bytes());
        [a, b, c, d]
    }
}
