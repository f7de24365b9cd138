//! Outbound ESP (RFC 4303 s3.3): everything around the payload but IV and ICV, which the engine writes.

use crate::buffer::Packet;
use crate::crypto::Suite;
use crate::drops::DropReason;
use crate::esp::padding::{self, TRAILER_LEN};
use crate::outer::{Outer, Stamp};
use crate::packet::esp::HEADER_LEN;
use crate::packet::ip::{Version, protocol};
use crate::packet::udp;
use crate::sa::Spi;
use crate::transport;

/// The ESP header of one packet.
#[derive(Clone, Copy, Debug)]
pub struct Header {
    /// SPI that the peer chose.
    pub spi: Spi,
    /// 64-bit sequence number, of which the lower half is sent.
    pub seq: u64,
}

/// Length of the outer packet that `inner` bytes become in tunnel mode.
#[inline]
pub fn tunnel_len(suite: Suite, outer: &Outer, inner: usize) -> usize {
    let body = inner + padding::pad_len(inner, suite.pad_align()) + TRAILER_LEN;
    outer.len() + HEADER_LEN + suite.iv_len() + body + suite.icv_len()
}

/// The largest inner packet whose outer packet is at most `mtu` bytes.
#[inline]
pub fn tunnel_capacity(suite: Suite, outer: &Outer, mtu: usize) -> usize {
    let around = outer.len() + HEADER_LEN + suite.iv_len() + suite.icv_len();
    padding::capacity(mtu.saturating_sub(around), suite.pad_align())
}

/// Wraps the IP packet in `packet` in tunnel mode (RFC 4303 s3.1.2). `tfc_pad` is the length to which a shorter
/// payload is filled up (RFC 4303 s2.7). Returns the offset of the ESP header, from which on the engine seals.
///
/// # Errors
/// [`DropReason::NoRoom`] when the frame is too small; the packet is then no longer usable.
#[inline]
pub fn tunnel(
    packet: &mut Packet,
    suite: Suite,
    outer: &Outer,
    stamp: Stamp,
    header: Header,
    version: Version,
    tfc_pad: usize,
) -> Result<usize, DropReason> {
    if tfc_pad > packet.len() {
        packet.append(tfc_pad - packet.len()).ok_or(DropReason::NoRoom)?.fill(0);
    }
    wrap(packet, suite, outer, stamp, header, version.protocol())
}

/// Fills an empty `packet` with a dummy of `payload` zero bytes (RFC 4303 s2.6); see [`tunnel`].
///
/// # Errors
/// [`DropReason::NoRoom`] when the frame is too small.
pub fn dummy(
    packet: &mut Packet,
    suite: Suite,
    outer: &Outer,
    stamp: Stamp,
    header: Header,
    payload: usize,
) -> Result<usize, DropReason> {
    packet.append(payload).ok_or(DropReason::NoRoom)?.fill(0);
    wrap(packet, suite, outer, stamp, header, protocol::NO_NEXT_HEADER)
}

/// Protects the payload of the IP packet in `packet` in transport mode (RFC 4303 s3.1.1): ESP goes between the
/// IP header with its extensions and the upper-layer header. With UDP encapsulation a UDP header goes before it
/// (RFC 3948 s3.1). `ip_len` is the length of the former, `next_header` the protocol of the latter. Returns the offset of
/// the ESP header.
///
/// # Errors
/// [`DropReason::NoRoom`] when the frame is too small or the packet would exceed 65,535 bytes.
pub fn transport(
    packet: &mut Packet,
    suite: Suite,
    outer: &Outer,
    header: Header,
    ip_len: usize,
    next_header: u8,
) -> Result<usize, DropReason> {
    let udp_len = if outer.is_udp() { udp::HEADER_LEN } else { 0 };
    append_trailer(packet, suite, packet.len() - ip_len, next_header)?;
    let protocol = if outer.is_udp() { protocol::UDP } else { protocol::ESP };
    transport::open(packet, ip_len, udp_len + HEADER_LEN + suite.iv_len(), protocol)
        .ok_or(DropReason::NoRoom)?;
    let data = packet.data_mut();
    outer.write_udp(&mut data[ip_len..]);
    write_header(&mut data[ip_len + udp_len..], header);
    Ok(ip_len + udp_len)
}

/// The largest IP packet with `ip_len` bytes of headers that transport mode brings to at most `mtu` bytes.
pub fn transport_capacity(suite: Suite, outer: &Outer, mtu: usize, ip_len: usize) -> usize {
    let udp_len = if outer.is_udp() { udp::HEADER_LEN } else { 0 };
    let around = ip_len + udp_len + HEADER_LEN + suite.iv_len() + suite.icv_len();
    ip_len + padding::capacity(mtu.saturating_sub(around), suite.pad_align())
}

#[inline]
fn wrap(
    packet: &mut Packet,
    suite: Suite,
    outer: &Outer,
    stamp: Stamp,
    header: Header,
    next_header: u8,
) -> Result<usize, DropReason> {
    let payload = packet.len();
    let pad = padding::pad_len(payload, suite.pad_align());
    let front = outer.len() + HEADER_LEN + suite.iv_len();
    let data = packet.extend(front, pad + TRAILER_LEN + suite.icv_len()).ok_or(DropReason::NoRoom)?;
    if data.len() > usize::from(u16::MAX) {
        return Err(DropReason::NoRoom);
    }
    outer.write(data, stamp);
    if let Some(esp) = data.get_mut(outer.len()..) {
        write_header(esp, header);
    }
    if let Some(end) = data.get_mut(front + payload..) {
        padding::write(end, pad, next_header);
    }
    Ok(outer.len())
}

#[inline]
fn append_trailer(
    packet: &mut Packet,
    suite: Suite,
    payload: usize,
    next_header: u8,
) -> Result<(), DropReason> {
    let pad = padding::pad_len(payload, suite.pad_align());
    let end = packet.append(pad + TRAILER_LEN + suite.icv_len()).ok_or(DropReason::NoRoom)?;
    padding::write(end, pad, next_header);
    Ok(())
}

#[inline]
fn write_header(esp: &mut [u8], header: Header) {
    if let Some(bytes) = esp.first_chunk_mut::<HEADER_LEN>() {
        let value = u64::from(header.spi) << 32 | header.seq & 0xffff_ffff;
        *bytes = value.to_be_bytes();
    }
}
