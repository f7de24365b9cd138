//! TAP devices: a wire between the gateway and this host's kernel.
//!
//! The kernel's end is an Ethernet interface with an address of its own; ours has another
//! ([`DeviceInfo::mac`]). A device that we make goes away when we exit; one made before with
//! `ip tuntap add NAME mode tap` (and `multi_queue` for several queues) is attached to and stays.
//! One system call a packet: for hosts, tests and low rates.

use std::ffi::{c_int, c_short};
use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::os::unix::fs::OpenOptionsExt;

use nix::sys::eventfd::{EfdFlags, EventFd};

use super::netdev::{Interface, ifreq};
use super::sys::{check, context};
use super::{Device, DeviceInfo, Mac, Port, PortCounters, QueueOpener, check_room};
use crate::buffer::{BURST, Burst, Pool};

/// A TAP port.
#[derive(Clone, Debug)]
pub struct Config {
    /// Name of the interface that the kernel gets, 1 to 15 bytes.
    pub device: String,
    /// Queue pairs.
    pub queues: usize,
    /// MTU to set on the interface; `None` leaves it as it is.
    pub mtu: Option<u32>,
    /// Our Ethernet address; `None` takes the kernel's with its last bit flipped.
    pub mac: Option<Mac>,
}

impl Config {
    /// One queue on `device`, everything else at its default.
    pub fn new(device: impl Into<String>) -> Self {
        Self { device: device.into(), queues: 1, mtu: None, mac: None }
    }
}

/// Makes a TAP device, or attaches to one, and brings it up.
///
/// # Errors
/// `PermissionDenied` without CAP_NET_ADMIN, `NotFound` without `/dev/net/tun`, `InvalidInput` for a name
/// that cannot be or that is another kind of device; else what the kernel says.
pub fn open(config: Config) -> io::Result<Box<dyn Device>> {
    let name = &config.device;
    // The kernel would cut a long name, and take an empty one or a '%' as a request to choose.
    if config.queues == 0 || name.is_empty() || name.len() >= libc::IFNAMSIZ || name.contains(['%', '/', ' '])
    {
        return Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            format!(
                "{name:?}: needs at least one queue and a name of 1 to 15 bytes without '%', '/' or blanks"
            ),
        ));
    }
    let mut files = Vec::with_capacity(config.queues);
    for _ in 0..config.queues {
        files.push(attach(name, config.queues > 1)?);
    }
    let interface = Interface::find(name)?;
    let mtu = interface.adjust_mtu(config.mtu)?;
    interface.bring_up()?;
    interface.warn_of_forwarding();
    let [rest @ .., last] = interface.mac()?;
    let [a, b, c, d, e] = rest;
    let info = DeviceInfo {
        driver: "tap",
        device: config.device,
        mac: Some(config.mac.unwrap_or([a, b, c, d, e, last ^ 1])),
        mtu,
        queues: config.queues,
        features: Vec::new(),
    };
    Ok(Box::new(Tap { info, files }))
}

struct Tap {
    info: DeviceInfo,
    files: Vec<File>,
}

impl Device for Tap {
    fn info(&self) -> &DeviceInfo {
        &self.info
    }

    fn queues(self: Box<Self>) -> Vec<QueueOpener> {
        let mtu = self.info.mtu;
        let open = |file: File| -> QueueOpener {
            Box::new(move |pool| {
                check_room(pool, mtu)?;
                let silence = EventFd::from_flags(EfdFlags::EFD_CLOEXEC)?;
                let longest = mtu as usize + super::LINK_OVERHEAD;
                Ok(Box::new(TapPort {
                    file,
                    longest,
                    silence,
                    gone: false,
                    counters: PortCounters::default(),
                }))
            })
        };
        self.files.into_iter().map(open).collect()
    }
}

struct TapPort {
    file: File,
    /// Bytes in the longest frame that the MTU allows.
    longest: usize,
    /// Never readable: stands in for the file when the device is gone and the file would wake for ever.
    silence: EventFd,
    gone: bool,
    counters: PortCounters,
}

impl Port for TapPort {
    fn rx(&mut self, pool: &Pool, burst: &mut Burst) {
        // Lost packets fill no burst, so the number of rounds bounds the call.
        for _ in 0..BURST {
            if burst.is_full() || self.gone {
                return;
            }
            let Some(mut packet) = pool.alloc() else {
                // Read it all the same: what waits is lost, but the device does not wake us for it again.
                match self.file.read(&mut [0]) {
                    Ok(_) => self.counters.rx_no_buffer += 1,
                    Err(error) => return self.note(&error),
                }
                continue;
            };
            let room = packet.tailroom();
            let Some(data) = packet.append(room) else { return };
            match self.file.read(data) {
                // The kernel cuts a packet that is longer without a word.
                Ok(len) if len == room => self.counters.rx_too_long += 1,
                Ok(len) => {
                    packet.truncate(len);
                    self.counters.rx_packets += 1;
                    self.counters.rx_bytes += len as u64;
                    burst.push(packet);
                }
                Err(error) => return self.note(&error),
            }
        }
    }

    fn tx(&mut self, burst: &mut Burst) {
        let mut done = 0;
        for packet in burst.iter() {
            let written = if packet.len() > self.longest { Ok(0) } else { self.file.write(packet.data()) };
            match written {
                Ok(len) if len == packet.len() => {
                    self.counters.tx_packets += 1;
                    self.counters.tx_bytes += len as u64;
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                // Too long, too short, or the device is down or gone.
                Ok(_) | Err(_) => self.counters.tx_errors += 1,
            }
            done += 1;
        }
        burst.drain(..done);
    }

    fn poll_fd(&self) -> Option<BorrowedFd<'_>> {
        Some(if self.gone { self.silence.as_fd() } else { self.file.as_fd() })
    }

    fn counters(&mut self) -> PortCounters {
        self.counters
    }
}

impl TapPort {
    /// Tells an empty queue from a device that was deleted.
    fn note(&mut self, error: &io::Error) {
        self.gone = error.raw_os_error() == Some(libc::EBADFD);
    }
}

/// Opens one queue of the device `name`, which is made if it does not exist.
fn attach(name: &str, several: bool) -> io::Result<File> {
    let path = "/dev/net/tun";
    let open = || {
        let file = OpenOptions::new().read(true).write(true).custom_flags(libc::O_NONBLOCK).open(path);
        file.map_err(|error| context(&error, format_args!("cannot open {path} (is the tun module loaded?)")))
    };
    let file = open()?;
    let plain = libc::IFF_TAP | libc::IFF_NO_PI;
    let first = set_interface(&file, name, if several { plain | libc::IFF_MULTI_QUEUE } else { plain });
    let (file, result) = match first {
        // One that was made for several queues is refused without the flag.
        Err(error) if error.raw_os_error() == Some(libc::EINVAL) && !several => {
            let file = open()?;
            let result = set_interface(&file, name, plain | libc::IFF_MULTI_QUEUE);
            (file, result)
        }
        result => (file, result),
    };
    result.map_err(|error| {
        let hint = match error.raw_os_error() {
            Some(libc::EPERM) => "needs CAP_NET_ADMIN, or to be the owner of the device",
            Some(libc::EBUSY) => "another program has it open",
            Some(libc::EINVAL) if several => {
                "it exists and is no TAP device, or was made without multi_queue \
                 (ip tuntap add NAME mode tap multi_queue)"
            }
            Some(libc::EINVAL) => "it exists and is no TAP device",
            Some(libc::E2BIG) => "more queues than the kernel allows",
            _ => "TUNSETIFF failed",
        };
        context(&error, format_args!("cannot attach to the TAP device {name}: {hint}"))
    })?;
    // SAFETY: TUNSETOFFLOAD takes its flags by value.
    check(unsafe { libc::ioctl(file.as_raw_fd(), libc::TUNSETOFFLOAD as _, 0 as libc::c_ulong) })?;
    Ok(file)
}

fn set_interface(file: &File, name: &str, flags: c_int) -> io::Result<()> {
    let mut request = ifreq(name);
    request.ifr_ifru.ifru_flags = flags as c_short;
    // SAFETY: TUNSETIFF takes a `struct ifreq`, which lives through the call.
    check(unsafe { libc::ioctl(file.as_raw_fd(), libc::TUNSETIFF as _, std::ptr::from_mut(&mut request)) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_the_kernel_would_change_are_refused() {
        for name in ["", "tap%d", "a-name-that-is-too-long", "a b"] {
            assert_eq!(open(Config::new(name)).err().unwrap().kind(), io::ErrorKind::InvalidInput);
        }
        let none = Config { queues: 0, ..Config::new("tap0") };
        assert_eq!(open(none).err().unwrap().kind(), io::ErrorKind::InvalidInput);
    }
}
