//! Traffic of hosts: pings of any size, and TCP.

use std::fs;
use std::io;
use std::net::{IpAddr, SocketAddrV4, SocketAddrV6};
use std::os::fd::{AsRawFd, OwnedFd};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::sys::socket::{
    AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, SockaddrIn, SockaddrIn6, connect, recv, send,
    setsockopt, socket, sockopt,
};
use nix::sys::time::TimeVal;
use nix::{setsockopt_impl, sockopt_impl};
use serde_json::Value;

use crate::netns::Namespace;
use crate::{PATIENCE, wait_for};

/// Whether pings may be fragmented.
#[derive(Clone, Copy, PartialEq)]
pub enum Fragments {
    /// DF is clear; IPv6 is fragmented by the host.
    Allowed,
    /// DF is set, and the host does not fragment.
    Forbidden,
}

/// Why a ping had no answer.
#[derive(Debug, PartialEq)]
pub enum Unanswered {
    /// Nothing came in time.
    Silence,
    /// The host was told, or knew, that it does not fit the path.
    TooBig,
}

/// Sends echo requests from a namespace to one address.
pub struct Pinger {
    socket: OwnedFd,
    to: IpAddr,
    fragments: Fragments,
    id: u16,
    number: u16,
}

impl Pinger {
    pub fn new(namespace: &Namespace, to: IpAddr, fragments: Fragments) -> Self {
        let open = || -> nix::Result<OwnedFd> {
            let (family, protocol) = match to {
                IpAddr::V4(_) => (AddressFamily::Inet, SockProtocol::Icmp),
                IpAddr::V6(_) => (AddressFamily::Inet6, SockProtocol::IcmpV6),
            };
            let socket = socket(family, SockType::Raw, SockFlag::SOCK_CLOEXEC, Some(protocol))?;
            match (to, fragments) {
                (IpAddr::V4(_), Fragments::Allowed) => {
                    setsockopt(&socket, MtuDiscover4, &libc::IP_PMTUDISC_DONT)
                }
                (IpAddr::V4(_), Fragments::Forbidden) => {
                    setsockopt(&socket, MtuDiscover4, &libc::IP_PMTUDISC_DO)
                }
                (IpAddr::V6(_), Fragments::Allowed) => {
                    setsockopt(&socket, MtuDiscover6, &libc::IPV6_PMTUDISC_WANT)
                }
                (IpAddr::V6(_), Fragments::Forbidden) => {
                    setsockopt(&socket, MtuDiscover6, &libc::IPV6_PMTUDISC_DO)
                }
            }?;
            setsockopt(&socket, sockopt::RcvBuf, &(1 << 20))?;
            // Only a connected socket is told of ICMP errors.
            match to {
                IpAddr::V4(to) => connect(socket.as_raw_fd(), &SockaddrIn::from(SocketAddrV4::new(to, 0)))?,
                IpAddr::V6(to) => {
                    connect(socket.as_raw_fd(), &SockaddrIn6::from(SocketAddrV6::new(to, 0, 0, 0)))?
                }
            }
            Ok(socket)
        };
        let socket = namespace.run(open).expect("opens a raw socket");
        Self { socket, to, fragments, id: 0x5157, number: 0 }
    }

    /// Sends one with `size` bytes of data and waits for its answer, which must be the same.
    pub fn ping(&mut self, size: usize, patience: Duration) -> Result<(), Unanswered> {
        self.number = self.number.wrapping_add(1);
        let request = self.request(size);
        let fd = self.socket.as_raw_fd();
        // An error about an earlier packet is told once, whatever is called next.
        while let Err(error) = send(fd, &request, MsgFlags::empty()) {
            match error {
                Errno::EMSGSIZE if self.fragments == Fragments::Forbidden => return Err(Unanswered::TooBig),
                Errno::EMSGSIZE | Errno::EHOSTUNREACH => {}
                error => panic!("send: {error}"),
            }
        }
        let end = Instant::now() + patience;
        let mut buffer = vec![0; 10_000];
        loop {
            let left = end.saturating_duration_since(Instant::now()).max(Duration::from_millis(1));
            let timeout = TimeVal::new(left.as_secs() as i64, left.subsec_micros().into());
            setsockopt(&self.socket, sockopt::ReceiveTimeout, &timeout).expect("sets the timeout");
            match recv(fd, &mut buffer, MsgFlags::empty()) {
                Err(Errno::EMSGSIZE) if self.fragments == Fragments::Forbidden => {
                    return Err(Unanswered::TooBig);
                }
                Ok(len) if self.answers(&buffer[..len], &request) => return Ok(()),
                Ok(_) | Err(Errno::EAGAIN | Errno::EMSGSIZE | Errno::EHOSTUNREACH) => {}
                Err(error) => panic!("recv: {error}"),
            }
            if Instant::now() >= end {
                return Err(Unanswered::Silence);
            }
        }
    }

    /// Pings with all sizes, one after the other, again when nothing comes back; returns how often.
    pub fn ping_all(&mut self, sizes: impl Iterator<Item = usize>) -> usize {
        let mut lost = 0;
        for size in sizes {
            let end = Instant::now() + PATIENCE;
            while let Err(why) = self.ping(size, Duration::from_secs(2)) {
                lost += 1;
                assert!(Instant::now() < end, "{size} bytes to {}: {why:?}", self.to);
            }
        }
        lost
    }

    /// Pings until there is an answer; returns how long that took.
    pub fn ping_until_answered(&mut self, size: usize, patience: Duration) -> Duration {
        let since = Instant::now();
        while self.ping(size, Duration::from_millis(200)).is_err() {
            assert!(since.elapsed() < patience, "no answer from {}", self.to);
        }
        since.elapsed()
    }

    fn request(&self, size: usize) -> Vec<u8> {
        let kind = if self.to.is_ipv4() { 8 } else { 128 };
        let mut request = vec![kind, 0, 0, 0];
        request.extend(self.id.to_be_bytes());
        request.extend(self.number.to_be_bytes());
        request.extend((0..size).map(|at| (at as u32 * 31 + u32::from(self.number)) as u8));
        // The kernel fills in the checksum of ICMPv6.
        if self.to.is_ipv4() {
            let sum = checksum(&request);
            request[2..4].copy_from_slice(&sum.to_be_bytes());
        }
        request
    }

    fn answers(&self, packet: &[u8], request: &[u8]) -> bool {
        let (message, kind) = match self.to {
            // IPv4 comes with its header.
            IpAddr::V4(_) => (packet.get(20..).unwrap_or_default(), 0),
            IpAddr::V6(_) => (packet, 129),
        };
        message.first() == Some(&kind) && message.get(4..) == request.get(4..)
    }
}

sockopt_impl!(
    /// IP_MTU_DISCOVER
    MtuDiscover4,
    SetOnly,
    libc::IPPROTO_IP,
    libc::IP_MTU_DISCOVER,
    i32
);
sockopt_impl!(
    /// IPV6_MTU_DISCOVER
    MtuDiscover6,
    SetOnly,
    libc::IPPROTO_IPV6,
    libc::IPV6_MTU_DISCOVER,
    i32
);

fn checksum(bytes: &[u8]) -> u16 {
    let word = |pair: &[u8]| u32::from(pair[0]) << 8 | pair.get(1).map_or(0, |&low| u32::from(low));
    let mut sum: u32 = bytes.chunks(2).map(word).sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}

/// Which way TCP's data goes.
#[derive(Clone, Copy, Debug)]
pub enum Direction {
    FromClient,
    FromServer,
}

/// Runs iperf3 over TCP for a second; returns the bytes that arrived.
pub fn iperf3(
    client: &Namespace,
    server: &Namespace,
    to: IpAddr,
    direction: Direction,
    streams: usize,
) -> u64 {
    run_iperf3(client, server, to, direction, &format!("-t 1 -P {streams}"))
}

/// Runs iperf3 over TCP until so many bytes are sent; returns the bytes that arrived.
#[allow(dead_code, reason = "not all tests that share this need it")]
pub fn iperf3_bytes(
    client: &Namespace,
    server: &Namespace,
    to: IpAddr,
    direction: Direction,
    bytes: u64,
) -> u64 {
    run_iperf3(client, server, to, direction, &format!("-n {bytes}"))
}

fn run_iperf3(client: &Namespace, server: &Namespace, to: IpAddr, direction: Direction, amount: &str) -> u64 {
    let mut serving = server.run(|| {
        let mut command = Command::new("iperf3");
        command.args(["-s", "-1"]).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        command.spawn().expect("iperf3 starts")
    });
    wait_for("iperf3 to listen", || server.run(|| is_listening(5201)).then_some(()));
    let reverse = if matches!(direction, Direction::FromServer) { "-R" } else { "" };
    // Without an end of its own it would wait for a tunnel that is gone as long as TCP does.
    let arguments = format!("30 iperf3 -c {to} {amount} -J --connect-timeout 5000 {reverse}");
    let report = client.command("timeout", &arguments);
    let _gone = serving.kill();
    let _status = serving.wait();
    let report: Value = serde_json::from_str(&report).expect("JSON");
    report["end"]["sum_received"]["bytes"].as_u64().unwrap_or_else(|| panic!("no result in {report}"))
}

/// Whether a TCP socket listens on a port, in the namespace of this thread.
pub fn is_listening(port: u16) -> bool {
    let listens = |table: io::Result<String>| {
        let wanted = format!(":{port:04X}");
        table.is_ok_and(|table| {
            table.lines().any(|line| {
                let mut fields = line.split_whitespace().skip(1);
                fields.next().is_some_and(|local| local.ends_with(&wanted)) && fields.nth(1) == Some("0A")
            })
        })
    };
    ["tcp", "tcp6"].iter().any(|name| listens(fs::read_to_string(format!("/proc/thread-self/net/{name}"))))
}
