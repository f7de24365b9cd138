//! AH packets (RFC 4302), tunnel and transport mode.
//!
//! The layout is `IP header, extensions | next header, length, SPI, sequence | IV (GMAC) | ICV | padding | payload`.
//! The ICV covers all of it, with zeros for what routers change; with ESN also the sequence number's upper
//! half, which stands behind the payload while the ICV is computed and is not sent (RFC 4302 s3.3.3.2.2).

use crate::buffer::Packet;
use crate::crypto::{AhJob, Crypto, Key};
use crate::drops::DropReason;
use crate::esp::outbound::Header;
use crate::outer::{Outer, Stamp};
use crate::packet::ah::{self, FIXED_LEN};
use crate::packet::ip::{Version, protocol};
use crate::sa::Mode;
use crate::transport;

mod mutable;

use mutable::Saved;

/// Bytes of the upper half of a 64-bit sequence number.
const UPPER_LEN: usize = 4;

/// Length of the AH header: a multiple of 4 bytes over IPv4, of 8 over IPv6 (RFC 4302 s3.3.3.2.1).
#[inline]
pub fn header_len(key: &Key, outer: Version) -> usize {
    let align = if outer == Version::V6 { 8 } else { 4 };
    (FIXED_LEN + key.iv_len() + key.icv_len()).next_multiple_of(align)
}

/// Length of the outer packet that `inner` bytes become in tunnel mode.
pub fn tunnel_len(key: &Key, outer: &Outer, inner: usize) -> usize {
    outer.len() + header_len(key, outer.version()) + inner
}

/// Wraps the IP packet in `packet` in tunnel mode. Returns the offset of the AH header; [`seal`] is to follow.
///
/// # Errors
/// [`DropReason::NoRoom`] when the frame is too small or the packet would exceed 65,535 bytes.
pub fn tunnel(
    packet: &mut Packet,
    key: &Key,
    outer: &Outer,
    stamp: Stamp,
    header: Header,
    inner: Version,
) -> Result<usize, DropReason> {
    let next_header = inner.protocol();
    let len = header_len(key, outer.version());
    packet.prepend(outer.len() + len).ok_or(DropReason::NoRoom)?;
    if packet.len() > usize::from(u16::MAX) {
        return Err(DropReason::NoRoom);
    }
    outer.write(packet.data_mut(), stamp);
    write_header(packet, outer.len(), len, next_header, header)?;
    Ok(outer.len())
}

/// Puts AH between the IP header with its extensions, `ip_len` bytes, and the upper-layer header of the IP packet in
/// `packet`, whose protocol is `next_header` (RFC 4302 s3.1.1). Returns
/// the offset of the AH header; [`seal`] is to follow.
///
/// # Errors
/// [`DropReason::NoRoom`] when the frame is too small or the packet would exceed 65,535 bytes.
pub fn transport(
    packet: &mut Packet,
    key: &Key,
    header: Header,
    ip_len: usize,
    next_header: u8,
    version: Version,
) -> Result<usize, DropReason> {
    let len = header_len(key, version);
    transport::open(packet, ip_len, len, protocol::AH).ok_or(DropReason::NoRoom)?;
    write_header(packet, ip_len, len, next_header, header)?;
    Ok(ip_len)
}

/// Writes the ICV of a packet whose AH header is at `at`. False when it could not be.
pub fn seal(crypto: &Crypto, key: &Key, packet: &mut Packet, at: usize, seq: u64) -> bool {
    with_job(key, packet, at, seq, |job| crypto.seal_ah(std::slice::from_mut(job)))
}

/// Whether the ICV of a packet whose AH header is at `at` is good. The packet is as it was, either way.
pub fn verify(crypto: &Crypto, key: &Key, packet: &mut Packet, at: usize, seq: u64) -> bool {
    with_job(key, packet, at, seq, |job| crypto.open_ah(std::slice::from_mut(job)))
}

/// Checks that the AH header at the front of `protected` is as long as `key` makes it.
///
/// # Errors
/// [`DropReason::AhMalformed`].
pub fn check_len(key: &Key, protected: &[u8], outer: Version) -> Result<(), DropReason> {
    let (header, _) = ah::Header::parse(protected)?;
    let shortest = FIXED_LEN + key.iv_len() + key.icv_len();
    let len = usize::from(header.len);
    // Linux pads IPv4 to 8 bytes too unless told otherwise, so both paddings are taken.
    let fits = len == header_len(key, outer) || len == shortest.next_multiple_of(8);
    if fits { Ok(()) } else { Err(DropReason::AhMalformed) }
}

/// Takes AH off a packet whose ICV was good: in tunnel mode it becomes the inner packet, in transport mode the IP
/// packet without AH.
///
/// # Errors
/// [`DropReason::NextHeaderBad`] when what follows does not fit the mode, [`DropReason::AhMalformed`] when the
/// offsets do not fit.
pub fn unwrap(packet: &mut Packet, mode: Mode, at: usize) -> Result<(), DropReason> {
    let protected = packet.data().get(at..).ok_or(DropReason::AhMalformed)?;
    let (header, _) = ah::Header::parse(protected)?;
    let payload_at = at + usize::from(header.len);
    match (mode, header.next_header) {
        (Mode::Tunnel, protocol::IPV4 | protocol::IPV6) => {
            let nibble = packet.data().get(payload_at).map_or(0, |byte| byte >> 4);
            if (nibble == 6) != (header.next_header == protocol::IPV6) {
                return Err(DropReason::NextHeaderBad);
            }
            packet.trim_front(payload_at);
            Ok(())
        }
        (Mode::Tunnel, _) => Err(DropReason::NextHeaderBad),
        (Mode::Transport, next_header) => {
            transport::close(packet, at, payload_at, next_header).ok_or(DropReason::AhMalformed)
        }
    }
}

fn write_header(
    packet: &mut Packet,
    at: usize,
    len: usize,
    next_header: u8,
    header: Header,
) -> Result<(), DropReason> {
    let place = packet.data_mut().get_mut(at..at + len).ok_or(DropReason::NoRoom)?;
    let (fixed, icv) = place.split_first_chunk_mut().ok_or(DropReason::NoRoom)?;
    ah::Header { next_header, len: len as u16, spi: header.spi, sequence: header.seq as u32 }.emit(fixed);
    icv.fill(0);
    Ok(())
}

/// Runs an engine over the packet with its mutable fields zeroed, and puts them back.
fn with_job(key: &Key, packet: &mut Packet, at: usize, seq: u64, run: impl FnOnce(&mut AhJob<'_>)) -> bool {
    let len = packet.len();
    if key.esn() && packet.append(UPPER_LEN).is_none() {
        return false;
    }
    let ok = Saved::mask(packet.data_mut(), at).is_some_and(|saved| {
        let mut job = AhJob { key, packet: packet.data_mut(), icv_at: at + FIXED_LEN, seq, ok: false };
        run(&mut job);
        let ok = job.ok;
        saved.restore(packet.data_mut());
        ok
    });
    packet.truncate(len);
    ok
}
