//! Sending a burst through a packet socket with one system call.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::ptr;

use super::super::PortCounters;
use super::super::netdev::Interface;
use super::super::sys::{bind, set_option, socket};
use super::ring::address;
use crate::buffer::{BURST, Burst};

/// A socket that only sends.
pub(super) struct Sender {
    socket: OwnedFd,
}

impl Sender {
    /// Opens a socket that sends on the interface.
    pub(super) fn open(interface: &Interface, qdisc_bypass: bool) -> io::Result<Self> {
        let socket = socket(libc::AF_PACKET, libc::SOCK_RAW | libc::SOCK_NONBLOCK, 0)?;
        if qdisc_bypass {
            set_option(&socket, libc::SOL_PACKET, libc::PACKET_QDISC_BYPASS, &1)?;
        }
        // What waits in the device's own queue counts against this; the default holds less than two bursts.
        set_option(&socket, libc::SOL_SOCKET, libc::SO_SNDBUFFORCE, &SEND_BUFFER)
            .or_else(|_| set_option(&socket, libc::SOL_SOCKET, libc::SO_SNDBUF, &SEND_BUFFER))?;
        // Protocol 0: nothing is received.
        bind(&socket, &address(interface.index(), 0))?;
        Ok(Self { socket })
    }

    /// Sends from the front of the burst and removes what was sent or refused.
    pub(super) fn send(&mut self, burst: &mut Burst, counters: &mut PortCounters) {
        let mut messages = [EMPTY_MESSAGE; BURST];
        let mut parts = [libc::iovec { iov_base: ptr::null_mut(), iov_len: 0 }; BURST];
        for ((packet, part), message) in burst.iter_mut().zip(&mut parts).zip(&mut messages) {
            let data = packet.data_mut();
            *part = libc::iovec { iov_base: data.as_mut_ptr().cast(), iov_len: data.len() };
            message.msg_hdr.msg_iov = part;
            message.msg_hdr.msg_iovlen = 1;
        }
        let mut done = 0;
        while done < burst.len() {
            let Some(rest) = messages.get_mut(done..burst.len()) else { break };
            // SAFETY: each message points at one part and each part at the data of a packet of the burst, all
            // of which outlive the call; the kernel only reads them.
            let sent = unsafe {
                libc::sendmmsg(
                    self.socket.as_raw_fd(),
                    rest.as_mut_ptr(),
                    rest.len() as u32,
                    libc::MSG_DONTWAIT as _,
                )
            };
            if sent > 0 {
                let sent = sent as usize;
                counters.tx_packets += sent as u64;
                counters.tx_bytes +=
                    burst.iter().skip(done).take(sent).map(|packet| packet.len() as u64).sum::<u64>();
                done += sent;
                continue;
            }
            match io::Error::last_os_error().raw_os_error() {
                Some(libc::EINTR) => {}
                // The device's queue or the socket's buffer is full.
                Some(libc::EAGAIN | libc::ENOBUFS) => break,
                // Down or gone: no packet will do better.
                Some(libc::ENETDOWN | libc::ENXIO | libc::ENODEV) => {
                    counters.tx_errors += (burst.len() - done) as u64;
                    done = burst.len();
                }
                // Too long or too short: the fault of this packet alone.
                _ => {
                    counters.tx_errors += 1;
                    done += 1;
                }
            }
        }
        burst.drain(..done);
    }
}

/// Bytes of memory for packets that wait in the device's queue.
const SEND_BUFFER: i32 = 8 << 20;

const EMPTY_MESSAGE: libc::mmsghdr = libc::mmsghdr {
    msg_hdr: libc::msghdr {
        msg_name: ptr::null_mut(),
        msg_namelen: 0,
        msg_iov: ptr::null_mut(),
        msg_iovlen: 0,
        msg_control: ptr::null_mut(),
        msg_controllen: 0,
        msg_flags: 0,
    },
    msg_len: 0,
};
