//! Network namespaces for tests: make them, join them with veth pairs, run code and commands inside, and
//! speak raw Ethernet on a wire. They have no name and leave nothing behind when the test ends.
//!
//! Take it into any test of the workspace with `mod netns;` (or `#[path = "..."] mod netns;`).
#![allow(dead_code)]

use std::fs::File;
use std::io::{IoSlice, IoSliceMut, Write};
use std::os::fd::{AsRawFd, OwnedFd};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use nix::sched::{CloneFlags, setns, unshare};
use nix::sys::socket::{
    AddressFamily, ControlMessageOwned, LinkAddr, MsgFlags, SockFlag, SockProtocol, SockType, bind, recvmsg,
    sendmsg, setsockopt, socket, sockopt,
};
use nix::sys::time::TimeVal;
use nix::{setsockopt_impl, sockopt_impl};

/// Runs a test that needs namespaces (root, `ip`, and `tools`). What lacks makes it print
/// `SKIPPED name: why`, or fail when CI=true.
pub fn privileged<T: FnOnce()>(tools: &[&str], test: T) {
    match missing(tools) {
        None => test(),
        // The closure is named after the test that it is in.
        Some(why) => skip(std::any::type_name::<T>().trim_end_matches("::{{closure}}"), &why),
    }
}

/// Says that a test was skipped; fails it when CI=true.
pub fn skip(name: &str, why: &str) {
    // Written past the test harness, which hides what a passing test prints.
    let _unread = writeln!(std::io::stderr(), "SKIPPED {name}: {why}");
    assert!(std::env::var("CI").as_deref() != Ok("true"), "SKIPPED {name}: {why}");
}

/// A network namespace. It goes away, with its devices, when this and everything opened in it is dropped.
pub struct Namespace {
    file: File,
}

impl Namespace {
    /// A new namespace with `lo` up and without IPv6 on other devices, so that the kernel sends nothing
    /// by itself.
    pub fn new() -> Self {
        let make = || {
            unshare(CloneFlags::CLONE_NEWNET).expect("makes a network namespace");
            Self { file: File::open("/proc/thread-self/ns/net").expect("opens the namespace") }
        };
        let namespace =
            std::thread::scope(|scope| scope.spawn(make).join()).expect("the thread did not panic");
        namespace.set("net/ipv6/conf/default/disable_ipv6", "1");
        namespace.ip("link set lo up");
        namespace
    }

    /// Runs a closure on a thread inside the namespace. Sockets and children that it makes stay there.
    pub fn run<T: Send>(&self, inside: impl FnOnce() -> T + Send) -> T {
        let enter = || {
            setns(&self.file, CloneFlags::CLONE_NEWNET).expect("enters the namespace");
            inside()
        };
        match std::thread::scope(|scope| scope.spawn(enter).join()) {
            Ok(value) => value,
            Err(panic) => std::panic::resume_unwind(panic),
        }
    }

    /// Runs a program inside, with arguments split at blanks; panics with its output when it fails.
    pub fn command(&self, program: &str, arguments: &str) -> String {
        let run = || Command::new(program).args(arguments.split_whitespace()).stdin(Stdio::null()).output();
        let output = self.run(run).unwrap_or_else(|error| panic!("{program}: {error}"));
        assert!(
            output.status.success(),
            "{program} {arguments}: {}{}",
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr)
        );
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    /// Runs `ip` inside.
    pub fn ip(&self, arguments: &str) -> String {
        self.command("ip", arguments)
    }

    /// Writes a kernel setting below `/proc/sys`.
    pub fn set(&self, path: &str, value: &str) {
        let path = format!("/proc/sys/{path}");
        self.run(|| std::fs::write(&path, value)).unwrap_or_else(|error| panic!("{path}: {error}"));
    }

    /// A path that names the namespace to `ip link ... netns` and `nsenter --net=` while `self` lives.
    pub fn path(&self) -> String {
        format!("/proc/{}/fd/{}", std::process::id(), self.file.as_raw_fd())
    }

    /// Joins two namespaces with a veth pair of `queues` queues and this MTU, both ends up.
    pub fn join(&self, name: &str, other: &Self, other_name: &str, queues: usize, mtu: usize) {
        let ends = format!("numrxqueues {queues} numtxqueues {queues} mtu {mtu}");
        self.ip(&format!(
            "link add {name} {ends} type veth peer name {other_name} {ends} netns {}",
            other.path()
        ));
        self.ip(&format!("link set {name} up"));
        other.ip(&format!("link set {other_name} up"));
    }

    /// Turns off checksum and segmentation offload of a device's sender, as AF_XDP on the other end of a veth
    /// pair needs.
    pub fn no_offload(&self, device: &str) {
        self.command("ethtool", &format!("-K {device} tx off tso off gso off gro off"));
    }
}

/// A raw socket on a device: whole Ethernet frames in and out.
pub struct Wire {
    socket: OwnedFd,
    address: LinkAddr,
}

impl Wire {
    /// Opens a socket on a device of the namespace.
    pub fn open(namespace: &Namespace, device: &str) -> Self {
        namespace.run(|| {
            let address = link_address(device);
            let socket = socket(
                AddressFamily::Packet,
                SockType::Raw,
                SockFlag::SOCK_CLOEXEC,
                Some(SockProtocol::EthAll),
            )
            .expect("opens a packet socket");
            // Past the system's limit only where that is allowed; a user namespace makes do with less.
            setsockopt(&socket, sockopt::RcvBufForce, &(64 << 20))
                .or_else(|_| setsockopt(&socket, sockopt::RcvBuf, &(64 << 20)))
                .expect("grows the receive buffer");
            setsockopt(&socket, sockopt::SndBuf, &(4 << 20)).expect("grows the send buffer");
            setsockopt(&socket, AuxiliaryData, &true).expect("asks for VLAN tags");
            bind(socket.as_raw_fd(), &address).expect("binds to the device");
            Self { socket, address }
        })
    }

    /// The device's Ethernet address.
    pub fn mac(&self) -> [u8; 6] {
        self.address.addr().expect("an Ethernet device has an address")
    }

    /// Sends a frame.
    pub fn send(&self, frame: &[u8]) {
        let parts = [IoSlice::new(frame)];
        let sent = sendmsg::<LinkAddr>(self.socket.as_raw_fd(), &parts, &[], MsgFlags::empty(), None);
        assert_eq!(sent, Ok(frame.len()), "sends a frame of {} bytes", frame.len());
    }

    /// The next frame; `None` when none comes in time. A VLAN tag that the kernel took out is put back.
    pub fn recv(&self, patience: Duration) -> Option<Vec<u8>> {
        let patience = patience.max(Duration::from_micros(1));
        let timeout = TimeVal::new(patience.as_secs() as i64, patience.subsec_micros().into());
        setsockopt(&self.socket, sockopt::ReceiveTimeout, &timeout).expect("sets the timeout");
        let mut frame = vec![0; 70_000];
        let mut parts = [IoSliceMut::new(&mut frame)];
        let mut control = [0; 64];
        let message =
            recvmsg::<LinkAddr>(self.socket.as_raw_fd(), &mut parts, Some(&mut control), MsgFlags::empty())
                .ok()?;
        let len = message.bytes;
        let tag = message.cmsgs().ok().and_then(|mut all| all.find_map(|one| vlan_tag(&one)));
        frame.truncate(len);
        if let Some(tag) = tag {
            frame.splice(12..12, tag);
        }
        Some(frame)
    }

    /// Receives frames until there are `count`; fewer when no more come in time.
    pub fn collect(&self, count: usize, patience: Duration) -> Vec<Vec<u8>> {
        let end = Instant::now() + patience;
        let next = || self.recv(end.saturating_duration_since(Instant::now()));
        std::iter::from_fn(next).take(count).collect()
    }
}

sockopt_impl!(
    /// PACKET_AUXDATA
    AuxiliaryData,
    SetOnly,
    libc::SOL_PACKET,
    libc::PACKET_AUXDATA,
    bool
);

/// The tag in a `struct tpacket_auxdata`: status, len, snaplen, mac, net, vlan_tci, vlan_tpid.
fn vlan_tag(message: &ControlMessageOwned) -> Option<[u8; 4]> {
    let ControlMessageOwned::Unknown(message) = message else { return None };
    let word =
        |at| message.data_bytes.get(at..at + 2).map(|w| u16::from_ne_bytes([w[0], w[1]]).to_be_bytes());
    let status = u32::from_ne_bytes(message.data_bytes.get(..4)?.try_into().ok()?);
    let ([c, d], [a, b]) = (word(16)?, word(18)?);
    (status & libc::TP_STATUS_VLAN_VALID != 0).then_some([a, b, c, d])
}

fn link_address(device: &str) -> LinkAddr {
    let all = nix::ifaddrs::getifaddrs().expect("lists the interfaces");
    all.filter(|entry| entry.interface_name == device)
        .find_map(|entry| entry.address.and_then(|address| address.as_link_addr().copied()))
        .unwrap_or_else(|| panic!("no device {device} in the namespace"))
}

fn missing(tools: &[&str]) -> Option<String> {
    for tool in ["ip"].iter().chain(tools) {
        let found = Command::new(tool).arg("--version").stdout(Stdio::null()).stderr(Stdio::null()).status();
        if found.is_err() {
            return Some(format!("{tool} is not installed"));
        }
    }
    let allowed = std::thread::spawn(|| unshare(CloneFlags::CLONE_NEWNET)).join().expect("does not panic");
    allowed.err().map(|error| format!("cannot make a network namespace ({error}); run as root"))
}
