//! Inbound ESP (RFC 4303 s3.4): what comes before the engine opens a packet, and what comes after.

use crate::buffer::Packet;
use crate::crypto::Suite;
use crate::drops::DropReason;
use crate::esp::padding;
use crate::packet::esp::HEADER_LEN;
use crate::packet::ip::protocol;
use crate::sa::Mode;
use crate::transport;

/// Where what is in the packets of an SA.
#[derive(Clone, Copy, Debug)]
pub struct Layout {
    /// ESP header and IV.
    front: u8,
    icv_len: u8,
    pad_align: u8,
}

impl Layout {
    /// Of a suite's packets.
    #[inline]
    pub const fn of(suite: Suite) -> Self {
        // All of them are below 64.
        Self {
            front: (HEADER_LEN + suite.iv_len()) as u8,
            icv_len: suite.icv_len() as u8,
            pad_align: suite.pad_align() as u8,
        }
    }

    /// Checks that an ESP packet can be `len` bytes long: header, IV, a trailer, ICV, whole blocks.
    ///
    /// # Errors
    /// [`DropReason::EspMalformed`].
    #[inline]
    pub fn check_len(self, len: usize) -> Result<(), DropReason> {
        match len.checked_sub(usize::from(self.front) + usize::from(self.icv_len)) {
            Some(body) if body >= padding::TRAILER_LEN && body & (usize::from(self.pad_align) - 1) == 0 => {
                Ok(())
            }
            _ => Err(DropReason::EspMalformed),
        }
    }
}

/// Unwraps a packet that the engine has opened: `packet` is the outer packet, its ESP header at `esp_at`. In tunnel
/// mode it becomes the inner packet (with any TFC padding still at its end), in transport mode the IP packet
/// without ESP; `ip_len` is the length of the outer IP header with its extensions.
///
/// # Errors
/// [`DropReason::PadBad`], [`DropReason::NextHeaderBad`] when it does not fit the mode (RFC 4303 s2.6), or
/// [`DropReason::Dummy`] for a dummy packet. The packet is then no longer usable.
#[inline(always)]
pub fn unwrap(
    packet: &mut Packet,
    layout: Layout,
    mode: Mode,
    ip_len: usize,
    esp_at: usize,
) -> Result<(), DropReason> {
    let body_at = esp_at + usize::from(layout.front);
    let body_end = packet.len().saturating_sub(layout.icv_len.into());
    let body = packet.data().get(body_at..body_end).ok_or(DropReason::EspMalformed)?;
    let (payload, next_header) = padding::strip(body).ok_or(DropReason::PadBad)?;
    match (mode, next_header) {
        (_, protocol::NO_NEXT_HEADER) => Err(DropReason::Dummy),
        (Mode::Tunnel, protocol::IPV4 | protocol::IPV6) => {
            // The next header names the version that the inner packet must have.
            let nibble = body.first().map_or(0, |byte| byte >> 4);
            if payload == 0 || (nibble == 6) != (next_header == protocol::IPV6) {
                return Err(DropReason::NextHeaderBad);
            }
            packet.narrow(body_at, payload);
            Ok(())
        }
        (Mode::Tunnel, _) => Err(DropReason::NextHeaderBad),
        (Mode::Transport, next_header) => {
            packet.truncate(body_at + payload);
            transport::close(packet, ip_len, body_at, next_header).ok_or(DropReason::EspMalformed)
        }
    }
}
