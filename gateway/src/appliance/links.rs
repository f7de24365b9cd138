//! Which ports have a link, as the kernel tells by rtnetlink(7).
//!
//! Nothing reads `/sys`, which shows the network namespace that mounted it.

use std::io;

use netlink_packet_core::{NLM_F_DUMP, NLM_F_REQUEST, NetlinkBuffer, NetlinkHeader, NetlinkMessage};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::link::{LinkFlags, LinkMessage};
use netlink_sys::protocols::NETLINK_ROUTE;
use netlink_sys::{Socket, SocketAddr};
use nix::errno::Errno;
use nix::net::if_::if_nametoindex;

use crate::config::{Config, Driver};

/// News of links (`RTNLGRP_LINK`), and their message types (rtnetlink(7)).
const GROUP: u32 = 1;
const NEW_LINK: u16 = 16;
const DELETED_LINK: u16 = 17;

/// Which ports have a link. `None` is a port that nobody knows it of: files, and devices that the kernel does not see.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct LinkStates(pub(super) Vec<Option<bool>>);

impl LinkStates {
    /// Whether a port has its link.
    pub(super) fn of(&self, port: usize) -> Option<bool> {
        self.0.get(port).copied().flatten()
    }

    /// A port may carry packets: it has its link, or nobody knows better.
    pub(super) fn usable(&self, port: usize) -> bool {
        self.of(port) != Some(false)
    }
}

/// Listens to the kernel.
pub(super) struct LinkWatch {
    socket: Socket,
    /// Names of the ports, and the interfaces of those that have one.
    ports: Vec<(String, Option<u32>)>,
    states: LinkStates,
}

impl LinkWatch {
    /// Opens a socket in this thread's namespace, where the devices of the ports are open already.
    ///
    /// # Errors
    /// When the kernel has no such socket to give.
    pub(super) fn open(config: &Config) -> io::Result<Self> {
        let interface = |driver: &Driver| match driver {
            Driver::AfPacket { device } | Driver::AfXdp { device, .. } | Driver::Tap { device } => {
                if_nametoindex(device.as_str()).ok()
            }
            Driver::Pcap { .. } | Driver::Dpdk { .. } => None,
        };
        let ports: Vec<_> =
            config.ports.iter().map(|(name, port)| (name.clone(), interface(&port.driver))).collect();
        let mut socket = Socket::new(NETLINK_ROUTE)?;
        socket.bind(&SocketAddr::new(0, 0))?;
        socket.add_membership(GROUP)?;
        socket.set_non_blocking(true)?;
        let states = LinkStates(vec![None; ports.len()]);
        let mut watch = Self { socket, ports, states };
        watch.ask()?;
        watch.look();
        Ok(watch)
    }

    /// How things stood at the last look.
    pub(super) fn states(&self) -> &LinkStates {
        &self.states
    }

    /// Reads what the kernel has told since the last look, and logs it. Whether anything is different now.
    pub(super) fn look(&mut self) -> bool {
        let before = self.states.clone();
        loop {
            match self.socket.recv_from_full() {
                // Only the kernel has port 0.
                Ok((bytes, from)) if from.port_number() == 0 => self.hear(&bytes),
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                // Some of it was lost: all of it again.
                Err(error) if error.raw_os_error() == Some(Errno::ENOBUFS as i32) => {
                    if let Err(error) = self.ask() {
                        tracing::warn!(%error, "cannot ask the kernel for the state of links");
                        break;
                    }
                }
                Err(error) => {
                    tracing::warn!(%error, "the kernel does not tell the state of links");
                    break;
                }
            }
        }
        for (index, (name, _)) in self.ports.iter().enumerate() {
            match (before.of(index), self.states.of(index)) {
                (Some(true) | None, Some(false)) => tracing::warn!(port = name, "the port has no link"),
                (Some(false), Some(true)) => tracing::info!(port = name, "the port has its link"),
                _ => {}
            }
        }
        before != self.states
    }

    /// Asks for all interfaces.
    fn ask(&self) -> io::Result<()> {
        let mut header = NetlinkHeader::default();
        header.flags = NLM_F_REQUEST | NLM_F_DUMP;
        let request = RouteNetlinkMessage::GetLink(LinkMessage::default());
        let mut message = NetlinkMessage::new(header, request.into());
        message.finalize();
        let mut bytes = vec![0; message.buffer_len()];
        message.serialize(&mut bytes);
        self.socket.send_to(&bytes, &SocketAddr::new(0, 0), 0).map(drop)
    }

    /// Takes in one datagram, which may hold several messages.
    fn hear(&mut self, mut bytes: &[u8]) {
        while let Ok(message) = NetlinkBuffer::new_checked(bytes) {
            if let Some((interface, up)) = link_of(message.message_type(), message.payload()) {
                let ports = self.ports.iter().zip(&mut self.states.0);
                let its = ports.filter(|((_, index), _)| *index == Some(interface));
                its.for_each(|(_, state)| *state = Some(up));
            }
            // Messages are aligned to four bytes (netlink(7)).
            let length = (message.length() as usize).max(1).next_multiple_of(4);
            bytes = bytes.get(length..).unwrap_or_default();
        }
    }
}

/// The interface that a message is about, and whether it can carry packets now: it is on, and the other end of the
/// wire is there. The message begins with family, padding, type, index and flags (rtnetlink(7), `struct ifinfomsg`).
fn link_of(kind: u16, message: &[u8]) -> Option<(u32, bool)> {
    let word = |at: usize| message.get(at..)?.first_chunk().copied().map(u32::from_ne_bytes);
    let (interface, flags) = (word(4)?, LinkFlags::from_bits_retain(word(8)?));
    match kind {
        NEW_LINK => Some((interface, flags.contains(LinkFlags::Up | LinkFlags::Running))),
        DELETED_LINK => Some((interface, false)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(interface: u32, flags: LinkFlags) -> Vec<u8> {
        [[0; 4], interface.to_ne_bytes(), flags.bits().to_ne_bytes(), [0; 4]].concat()
    }

    #[test]
    fn a_link_is_there_when_the_interface_is_on_and_the_wire_is_too() {
        let [on, wire] = [LinkFlags::Up, LinkFlags::Running];
        for (flags, up) in [(on | wire, true), (on, false), (wire, false), (LinkFlags::empty(), false)] {
            assert_eq!(link_of(NEW_LINK, &message(7, flags)), Some((7, up)), "{flags:?}");
        }
        assert_eq!(link_of(DELETED_LINK, &message(7, on | wire)), Some((7, false)));
        assert_eq!(link_of(20, &message(7, on | wire)), None, "news of an address");
        assert_eq!(link_of(NEW_LINK, &message(7, on)[..11]), None);
    }

    #[test]
    fn who_is_not_known_to_lack_a_link_is_used() {
        let states = LinkStates(vec![None, Some(true), Some(false)]);
        assert_eq!([0, 1, 2, 3].map(|port| states.usable(port)), [true, true, false, true]);
    }
}
