//! Packets through AF_XDP sockets: a small XDP program hands them to the worker before the kernel's network
//! stack sees them. On a NIC whose driver can, without a copy (zero-copy).
//!
//! **Memory.** Where the worker's frames are chunks that the kernel takes (2,048 or 4,096 bytes) and hold the
//! MTU beside the 256 bytes that XDP keeps free in front, the worker's pool itself is registered. Every
//! AF_XDP port of the worker registers the same pool, so a packet crosses from one to another in place. Each
//! takes up to [`Config::frames`] frames of the pool. Otherwise the port has memory of its own and copies;
//! so do jumbo frames, which XDP carries in several chunks.
//!
//! **Queues.** One socket serves one queue of the device, so the device must have as many receive queues as
//! the port; the driver sets their number if it may (as `ethtool -L` does).
//!
//! **Sharing the interface.** By default every packet comes to the gateway and the kernel sees none. With
//! [`Config::share`] only those to the listed addresses and prefixes do, with the ARP and Neighbour Discovery
//! for them, and the rest is the kernel's: it keeps its own addresses on the interface. The two lists of
//! addresses must not overlap.
//!
//! **Offloads.** XDP sees packets as they are in memory. A local sender on the other end of a veth pair must
//! finish its checksums itself (`ethtool -K PEER tx off`), and VLAN tags must not be stripped, which the
//! driver turns off where it may.
//!
//! The program is attached through a link that closes with the process, however that ends.

mod bpf;
mod copied;
mod program;
mod ring;
mod shared;
mod socket;

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::Arc;

use ipnet::IpNet;

use self::bpf::{Hook, attach_xdp, load_xdp};
use self::copied::{Chunks, CopiedPort};
use self::shared::SharedPort;
use self::socket::{Binding, KERNEL_HEADROOM, LARGEST_CHUNK, Memory, SMALLEST_CHUNK, Socket};
use super::netdev::{Interface, ReceiveMode};
use super::sys::{context, until_released};
use super::{Device, DeviceInfo, LINK_OVERHEAD, Port, QueueOpener, check_room};
use crate::buffer::{BURST, Pool};

/// Where the XDP program runs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Mode {
    /// In the device's driver if it can, else in the network stack.
    #[default]
    Auto,
    /// In the device's driver.
    Native,
    /// In the network stack: any device, and slower.
    Generic,
}

/// Whether the device writes into packet memory itself.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ZeroCopy {
    /// If it can; else the kernel copies.
    #[default]
    Auto,
    /// It must.
    Require,
    /// The kernel copies.
    Off,
}

/// An AF_XDP port.
#[derive(Clone, Debug)]
pub struct Config {
    /// Name of the interface.
    pub device: String,
    /// Queue pairs: one a worker.
    pub queues: usize,
    /// MTU to set on the interface; `None` leaves it as it is.
    pub mtu: Option<u32>,
    /// Receive packets to every Ethernet address, and on most NICs with every VLAN tag.
    pub promiscuous: bool,
    /// Entries in each ring of a queue; rounded up to a power of two. A jumbo frame takes one entry for each
    /// 3,840 bytes.
    pub ring: usize,
    /// Where the XDP program runs.
    pub mode: Mode,
    /// Whether the device writes into packet memory itself.
    pub zero_copy: ZeroCopy,
    /// The gateway's own addresses and the prefixes that it carries, when the kernel is to keep the rest of
    /// the interface's packets; `None` takes everything.
    pub share: Option<Vec<IpNet>>,
}

impl Config {
    /// One queue on `device`, everything else at its default.
    pub fn new(device: impl Into<String>) -> Self {
        Self {
            device: device.into(),
            queues: 1,
            mtu: None,
            promiscuous: false,
            ring: 2048,
            mode: Mode::Auto,
            zero_copy: ZeroCopy::Auto,
            share: None,
        }
    }

    /// The most frames of a worker's pool that one queue holds at a time.
    pub fn frames(&self) -> usize {
        2 * self.ring.next_power_of_two()
    }
}

/// Opens an interface and attaches the XDP program. Packets are received from when a queue is opened on its
/// worker; until then those for the gateway are dropped.
///
/// # Errors
/// `NotFound` for a missing interface, `PermissionDenied` naming the capability that lacks, `ResourceBusy`
/// when another XDP program is attached, `InvalidInput` for settings that cannot be; else what the kernel
/// says.
pub fn open(config: Config) -> io::Result<Box<dyn Device>> {
    if config.queues == 0 || config.ring == 0 || config.ring > 1 << 16 {
        return Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            format!("{}: needs at least one queue, and rings of 1 to 65536 packets", config.device),
        ));
    }
    let interface = Interface::find(&config.device)?;
    let mac = interface.mac()?;
    let mtu = interface.adjust_mtu(config.mtu)?;
    interface.bring_up()?;
    interface.stop_merging();
    if !interface.keep_vlan_tags() {
        tracing::warn!(device = interface.name(), "the device strips VLAN tags: tagged packets lose them");
    }
    interface.adjust_rx_queues(config.queues as u32)?;

    let sockets = program::sockets(config.queues).map_err(|error| explain(&error, &interface))?;
    let ours = program::prefixes(config.share.as_deref().unwrap_or_default())
        .map_err(|error| explain(&error, &interface))?;
    let program = match config.share {
        Some(_) => program::shared(&sockets, &ours),
        None => program::exclusive(&sockets),
    };
    // A program that can take packets in several buffers takes those in one as well; older kernels have none.
    let several = mtu as usize + LINK_OVERHEAD + KERNEL_HEADROOM > LARGEST_CHUNK;
    let loaded = load_xdp(&program.code, several).map_err(|error| explain(&error, &interface))?;
    let (link, hook) = attach(&loaded, &interface, config.mode)?;
    let mode = ReceiveMode::enter(&interface, config.promiscuous)?;
    let attachment = Arc::new(Attachment { sockets, _link: link, _mode: mode });

    let mut flags = match config.zero_copy {
        ZeroCopy::Auto => 0,
        ZeroCopy::Require => libc::XDP_ZEROCOPY,
        ZeroCopy::Off => libc::XDP_COPY,
    };
    if several {
        flags |= libc::XDP_USE_SG;
    }
    let mut queues = Vec::with_capacity(config.queues);
    for queue in 0..config.queues as u32 {
        // Opened here, because a socket belongs to the network namespace of the thread that opens it.
        let socket = socket::open().map_err(|error| explain(&error, &interface))?;
        let binding = Binding { interface: interface.index() as u32, queue, flags };
        queues.push((socket, binding));
    }
    let info = DeviceInfo {
        driver: "af_xdp",
        device: config.device,
        mac: Some(mac),
        mtu,
        queues: config.queues,
        features: vec![
            ("mode", format!("{hook:?}").to_lowercase()),
            ("zero_copy", format!("{:?}", config.zero_copy).to_lowercase()),
            ("ring", config.ring.next_power_of_two().to_string()),
            ("share", config.share.is_some().to_string()),
        ],
    };
    Ok(Box::new(AfXdp { info, ring: config.ring.next_power_of_two() as u32, queues, attachment }))
}

/// What stays attached to the interface while any queue is open.
struct Attachment {
    /// Sockets by queue, where the program finds them.
    sockets: OwnedFd,
    _link: OwnedFd,
    _mode: ReceiveMode,
}

#[cfg(test)]
impl Attachment {
    /// One to nothing, for tests of a queue without a device.
    fn detached() -> Arc<Self> {
        let null = || std::fs::File::open("/dev/null").unwrap().into();
        Arc::new(Self { sockets: null(), _link: null(), _mode: ReceiveMode::detached() })
    }
}

struct AfXdp {
    info: DeviceInfo,
    ring: u32,
    queues: Vec<(OwnedFd, Binding)>,
    attachment: Arc<Attachment>,
}

impl Device for AfXdp {
    fn info(&self) -> &DeviceInfo {
        &self.info
    }

    fn queues(self: Box<Self>) -> Vec<QueueOpener> {
        let Self { info, ring, queues, attachment } = *self;
        let open = |(socket, binding): (OwnedFd, Binding)| -> QueueOpener {
            let (device, mtu, attachment) = (info.device.clone(), info.mtu, Arc::clone(&attachment));
            Box::new(move |pool| {
                open_queue(socket, binding, pool, ring, mtu, &device, attachment)
                    .map_err(|error| context(&error, device))
            })
        };
        queues.into_iter().map(open).collect()
    }
}

/// Binds a socket over the worker's pool if the kernel takes its frames, else over memory of its own.
fn open_queue(
    fd: OwnedFd,
    binding: Binding,
    pool: &Pool,
    ring: u32,
    mtu: u32,
    device: &str,
    attachment: Arc<Attachment>,
) -> io::Result<Box<dyn Port>> {
    check_room(pool, mtu)?;
    let longest = mtu as usize + LINK_OVERHEAD;
    let number = fd.as_raw_fd();
    let (base, len) = pool.region();
    let frame = Memory { base, len, chunk: pool.frame_size() };
    let fits = frame.chunk.is_power_of_two() && longest + KERNEL_HEADROOM <= frame.chunk;
    let shared = fits
        && match socket::register(&fd, frame) {
            Ok(()) => true,
            // Frames larger than a page: some kernels take them from huge pages, others not at all.
            Err(error) if error.kind() == io::ErrorKind::InvalidInput => false,
            Err(error) => return Err(explain_memory(&error)),
        };
    let (socket, port): (_, Box<dyn Port>) = if shared {
        let needed = 2 * ring as usize + 2 * BURST;
        if pool.capacity() < needed {
            return Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                format!(
                    "rings of {ring} packets need a pool of {needed} frames; this has {}",
                    pool.capacity()
                ),
            ));
        }
        let socket = Socket::bind(fd, ring, binding)?;
        let zero_copy = socket.is_zero_copy();
        (zero_copy, Box::new(SharedPort::new(socket, *pool, ring, longest, Arc::clone(&attachment))))
    } else {
        let several = binding.flags & libc::XDP_USE_SG != 0;
        let small = longest + KERNEL_HEADROOM <= SMALLEST_CHUNK && !several;
        let size = if small { SMALLEST_CHUNK } else { LARGEST_CHUNK };
        let chunks = Chunks::new(2 * ring as usize, size)?;
        socket::register(&fd, chunks.memory()).map_err(|error| explain_memory(&error))?;
        let socket = Socket::bind(fd, ring, binding)?;
        let zero_copy = socket.is_zero_copy();
        (zero_copy, Box::new(CopiedPort::new(socket, chunks, ring, longest, Arc::clone(&attachment))))
    };
    bpf::set(&attachment.sockets, &binding.queue, &number)?;
    tracing::info!(device, queue = binding.queue, zero_copy = socket, own_memory = !shared, "queue open");
    Ok(port)
}

/// Attaches the program where the configuration wants it.
fn attach(program: &OwnedFd, interface: &Interface, mode: Mode) -> io::Result<(OwnedFd, Hook)> {
    let attach =
        |hook| until_released(|| attach_xdp(program, interface.index(), hook)).map(|link| (link, hook));
    let result = match mode {
        Mode::Native => attach(Hook::Native),
        Mode::Generic => attach(Hook::Generic),
        Mode::Auto => attach(Hook::Native).or_else(|error| match error.raw_os_error() {
            Some(libc::EBUSY | libc::EPERM) => Err(error),
            _ => {
                tracing::info!(device = interface.name(), %error, "no native XDP; the generic one is used");
                attach(Hook::Generic)
            }
        }),
    };
    result.map_err(|error| explain(&error, interface))
}

/// Says what would mend an error of attaching.
fn explain(error: &io::Error, interface: &Interface) -> io::Error {
    let hint = match error.raw_os_error() {
        Some(libc::EPERM | libc::EACCES) => {
            "needs CAP_NET_ADMIN, CAP_NET_RAW and CAP_BPF outside of any user namespace (run as root)"
        }
        Some(libc::EBUSY) => {
            "another XDP program is attached (see `ip link show`; `ip link set DEVICE xdp off` removes it)"
        }
        Some(libc::EAFNOSUPPORT) => "this kernel has no AF_XDP (CONFIG_XDP_SOCKETS)",
        Some(libc::EOPNOTSUPP) => "the driver has no native XDP; use mode generic",
        Some(libc::ERANGE) => "the MTU is too large for XDP on this device",
        Some(libc::ENOSPC) => "the device has fewer receive queues than its veth peer has transmit queues",
        _ => "the kernel refuses",
    };
    context(error, format_args!("cannot use XDP on {}: {hint}", interface.name()))
}

/// Says what would mend an error of registering packet memory.
fn explain_memory(error: &io::Error) -> io::Error {
    let hint = match error.raw_os_error() {
        Some(libc::ENOBUFS | libc::ENOMEM | libc::EPERM) => {
            ": out of locked memory; raise LimitMEMLOCK (ulimit -l) or grant CAP_IPC_LOCK"
        }
        _ => "",
    };
    context(error, format_args!("cannot register packet memory{hint}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_that_cannot_be_are_refused() {
        for (queues, ring) in [(0, 64), (1, 0), (1, usize::MAX)] {
            let error = open(Config { queues, ring, ..Config::new("lo") }).err().unwrap();
            assert_eq!(error.kind(), io::ErrorKind::InvalidInput);
        }
        let error = open(Config::new("nothing0")).err().unwrap();
        assert_eq!(error.kind(), io::ErrorKind::NotFound);
    }

    #[test]
    fn frames_count_both_directions() {
        assert_eq!(Config { ring: 1000, ..Config::new("lo") }.frames(), 2048);
    }
}
