//! Fragmentation (RFC 791 s3.2, RFC 8200 s4.5).
//!
//! Packets have no Ethernet header. The frame of the whole packet becomes the first fragment; the others get frames
//! of the pool, with its headroom in front for a link header.

use std::ops::Range;

use arrayvec::ArrayVec;

use crate::buffer::{Packet, Pool};
use crate::drops::DropReason;
use crate::packet::ip::{FragmentInfo, IpInfo, Version, protocol, set_total_len};
use crate::packet::ipv4::{self, option};
use crate::packet::ipv6::{self, FRAGMENT_HEADER_LEN, FragmentHeader};

/// What IPv4 packets that must not be fragmented come to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DontFragment {
    /// They are refused.
    Obey,
    /// They are fragmented like others, and the fragments have the bit cleared.
    Override,
}

/// The least MTU that IPv4 packets are fragmented to (RFC 791).
pub const MIN_MTU_V4: usize = 68;

/// Cuts an IPv4 packet into fragments of at most `mtu` bytes, header included, and adds them to `out` in order. A
/// packet that fits is added whole. A fragment may be cut further. Later fragments carry those options that say
/// so (RFC 791 s3.1).
///
/// # Errors
/// The packet comes back unchanged and nothing is added to `out`.
/// - [`DropReason::TooBig`]: DF is set, or `mtu` is below [`MIN_MTU_V4`].
/// - [`DropReason::NoBuffer`], [`DropReason::NoRoom`]: no frame, or one that is too small.
/// - [`DropReason::IpMalformed`]: `info` is not of this packet.
pub fn fragment_v4(
    mut packet: Packet,
    info: &IpInfo,
    mtu: usize,
    dont_fragment: DontFragment,
    pool: &Pool,
    out: &mut Vec<Packet>,
) -> Result<(), (DropReason, Packet)> {
    let (header_len, total_len) = (usize::from(info.header_len), usize::from(info.total_len));
    if total_len <= mtu {
        packet.truncate(total_len);
        out.push(packet);
        return Ok(());
    }
    let header = match packet.data().get(..header_len) {
        Some(header) if info.version == Version::V4 && header_len <= ipv4::MAX_HEADER_LEN => header,
        _ => return Err((DropReason::IpMalformed, packet)),
    };
    if mtu < MIN_MTU_V4 || (info.dont_fragment && dont_fragment == DontFragment::Obey) {
        return Err((DropReason::TooBig, packet));
    }
    let later_header = later_header(header);
    let (base, more_behind) = info.fragment.map_or((0, false), |fragment| (fragment.offset, fragment.more));
    let plan = Plan {
        data: header_len..total_len,
        first: (mtu - header_len) & !7,
        later: (mtu - later_header.len()) & !7,
    };
    let emit = |header: &mut [u8], offset: usize, len: usize, last: bool| {
        let (total, offset) = ((header.len() + len) as u16, base.saturating_add(offset as u16));
        if let Some(fixed) = header.first_chunk_mut() {
            ipv4::clear_dont_fragment(fixed);
        }
        ipv4::set_fragment(header, total, offset, !last || more_behind);
    };
    let first_at = out.len();
    if let Err(reason) = plan.cut_later(&packet, &later_header, pool, out, emit) {
        return Err((reason, packet));
    }
    packet.truncate(header_len + plan.first);
    if let Some(header) = packet.data_mut().get_mut(..header_len) {
        emit(header, 0, plan.first, false);
    }
    out.insert(first_at, packet);
    Ok(())
}

/// Cuts an IPv6 packet of ours into fragments of at most `mtu` bytes and adds them to `out` in order. A packet that
/// fits is added whole. `identification` is one that was not used lately between these addresses and cannot be
/// guessed (RFC 7739). Only for packets that we are the source of: a router does not fragment (RFC 8200 s5).
///
/// # Errors
/// The packet comes back unchanged and nothing is added to `out`.
/// - [`DropReason::TooBig`]: `mtu` leaves no room for data, or not for all headers in the first fragment (RFC 7112).
/// - [`DropReason::FragmentMalformed`]: it is a fragment already.
/// - [`DropReason::NoBuffer`], [`DropReason::NoRoom`]: no frame, or one that is too small.
/// - [`DropReason::IpMalformed`]: `info` is not of this packet.
pub fn fragment_v6(
    mut packet: Packet,
    info: &IpInfo,
    mtu: usize,
    identification: u32,
    pool: &Pool,
    out: &mut Vec<Packet>,
) -> Result<(), (DropReason, Packet)> {
    let total_len = usize::from(info.total_len);
    if total_len <= mtu {
        packet.truncate(total_len);
        out.push(packet);
        return Ok(());
    }
    let chain = match packet.data().get(..total_len).ok_or(DropReason::IpMalformed).and_then(ipv6::walk) {
        Ok(chain) if chain.fragment.is_none() => chain,
        Ok(_) => return Err((DropReason::FragmentMalformed, packet)),
        Err(reason) => return Err((reason, packet)),
    };
    let before = chain.fragmentable;
    let piece = mtu.saturating_sub(before + FRAGMENT_HEADER_LEN) & !7;
    if piece == 0 || chain.upper + 8 > before + piece {
        return Err((DropReason::TooBig, packet));
    }
    if packet.headroom() < FRAGMENT_HEADER_LEN {
        return Err((DropReason::NoRoom, packet));
    }
    let (mut header, mut next_header) = (HeaderV6::new(), protocol::NO_NEXT_HEADER);
    header.extend(packet.data().iter().copied().take(before));
    header.extend([0; FRAGMENT_HEADER_LEN]);
    if let Some(place) = header.get_mut(chain.fragmentable_next_at) {
        next_header = std::mem::replace(place, protocol::FRAGMENT);
    }
    let emit = |header: &mut [u8], offset: usize, len: usize, last: bool| {
        let fragment = FragmentInfo { identification, offset: offset as u16, more: !last };
        if let Some(place) = header.last_chunk_mut() {
            FragmentHeader { next_header, fragment }.emit(place);
        }
        // It refuses only what is no IP header.
        let _ = set_total_len(header, (header.len() + len) as u16);
    };
    let plan = Plan { data: before..total_len, first: piece, later: piece };
    let first_at = out.len();
    if let Err(reason) = plan.cut_later(&packet, &header, pool, out, emit) {
        return Err((reason, packet));
    }
    emit(&mut header, 0, piece, false);
    packet.truncate(before + piece);
    if packet.prepend(FRAGMENT_HEADER_LEN).is_some()
        && let Some(place) = packet.data_mut().get_mut(..header.len())
    {
        place.copy_from_slice(&header);
    }
    out.insert(first_at, packet);
    Ok(())
}

/// An IPv6 header with as many extension headers as are walked, and a fragment header.
type HeaderV6 = ArrayVec<u8, { ipv6::HEADER_LEN + ipv6::MAX_EXTENSION_BYTES + FRAGMENT_HEADER_LEN }>;

/// The header of later fragments: only options with the copied flag.
fn later_header(header: &[u8]) -> ArrayVec<u8, { ipv4::MAX_HEADER_LEN }> {
    let (fixed, options) = header.split_at_checked(ipv4::HEADER_LEN).unwrap_or_default();
    let mut out: ArrayVec<u8, { ipv4::MAX_HEADER_LEN }> = fixed.iter().copied().collect();
    for option in ipv4::options(options).map_while(Result::ok) {
        if option.first().is_some_and(|kind| kind & option::COPIED != 0) {
            out.extend(option.iter().copied());
        }
    }
    while !out.len().is_multiple_of(4) {
        out.push(option::END);
    }
    out
}

/// Which bytes of a packet go into which fragment.
struct Plan {
    /// The part that is cut.
    data: Range<usize>,
    /// Bytes of it in the first fragment.
    first: usize,
    /// Bytes of it in each other, but for the last.
    later: usize,
}

impl Plan {
    /// Adds all fragments but the first to `out`, or none. `emit` completes a header, given the offset and length of
    /// its data, and whether it is the last.
    fn cut_later(
        &self,
        packet: &Packet,
        header: &[u8],
        pool: &Pool,
        out: &mut Vec<Packet>,
        emit: impl Fn(&mut [u8], usize, usize, bool),
    ) -> Result<(), DropReason> {
        let data = packet.data().get(self.data.clone()).ok_or(DropReason::IpMalformed)?;
        let rest = data.get(self.first..).ok_or(DropReason::IpMalformed)?;
        let (first_at, mut offset) = (out.len(), self.first);
        for piece in rest.chunks(self.later) {
            let last = offset + piece.len() == data.len();
            let made = build(header, piece, pool, |header| emit(header, offset, piece.len(), last));
            match made {
                Ok(mut fragment) => {
                    fragment.rx_port = packet.rx_port;
                    fragment.set_from_sa(packet.is_from_sa());
                    out.push(fragment);
                }
                Err(reason) => {
                    out.truncate(first_at);
                    return Err(reason);
                }
            }
            offset += piece.len();
        }
        Ok(())
    }
}

fn build(
    header: &[u8],
    piece: &[u8],
    pool: &Pool,
    complete: impl FnOnce(&mut [u8]),
) -> Result<Packet, DropReason> {
    let mut fragment = pool.alloc_from(header).ok_or(DropReason::NoBuffer)?;
    complete(fragment.data_mut());
    fragment.append(piece.len()).ok_or(DropReason::NoRoom)?.copy_from_slice(piece);
    Ok(fragment)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::buffer::HEADROOM;
    use crate::host::test_support::{cached_pool, packet_v4, packet_v6};
    use crate::packet::{checksum, ip};

    fn bytes(len: usize) -> Vec<u8> {
        (0..len).map(|at| (at * 7 % 251) as u8).collect()
    }

    /// An IPv4 packet with options and DF as wanted.
    fn with_options(options: &[u8], payload: usize, dont_fragment: bool) -> Vec<u8> {
        let mut packet = packet_v4("10.1.0.9", "10.2.0.9", protocol::UDP, &bytes(payload));
        packet.splice(20..20, options.iter().copied());
        packet[0] = 0x40 | (5 + options.len() / 4) as u8;
        let total = packet.len() as u16;
        packet[2..4].copy_from_slice(&total.to_be_bytes());
        packet[6] = if dont_fragment { 0x40 } else { 0 };
        packet[10..12].fill(0);
        let checksum = checksum::of(&packet[..20 + options.len()]);
        packet[10..12].copy_from_slice(&checksum.to_be_bytes());
        packet
    }

    struct Cut {
        pieces: Vec<Vec<u8>>,
        infos: Vec<IpInfo>,
    }

    fn cut(packet: &[u8], mtu: usize, dont_fragment: DontFragment) -> Result<Cut, DropReason> {
        let (pool, large) = (cached_pool(64, 2048), cached_pool(1, 1 << 17));
        let mut frame = large.alloc_from(packet).unwrap();
        frame.rx_port = 3;
        let info = ip::parse(packet).unwrap();
        let mut out = vec![pool.alloc_from(b"before").unwrap()];
        let result = match info.version {
            Version::V4 => fragment_v4(frame, &info, mtu, dont_fragment, &pool, &mut out),
            Version::V6 => fragment_v6(frame, &info, mtu, 0xdead_beef, &pool, &mut out),
        };
        assert_eq!(out.remove(0).data(), b"before");
        if let Err((reason, frame)) = result {
            assert_eq!((frame.data(), out.len()), (packet, 0), "changed though refused");
            return Err(reason);
        }
        assert!(out.iter().all(|fragment| fragment.rx_port == 3));
        assert!(out.iter().all(|fragment| fragment.headroom() >= HEADROOM - FRAGMENT_HEADER_LEN));
        let pieces: Vec<_> = out.iter().map(|fragment| fragment.data().to_vec()).collect();
        let infos = pieces.iter().map(|piece| ip::parse(piece).unwrap()).collect();
        Ok(Cut { pieces, infos })
    }

    fn offsets(cut: &Cut) -> Vec<(u16, bool, u16)> {
        let of = |info: &IpInfo| (info.fragment.unwrap().offset, info.fragment.unwrap().more, info.total_len);
        cut.infos.iter().map(of).collect()
    }

    #[test]
    fn cuts_at_multiples_of_eight() {
        let packet = with_options(&[], 3000, false);
        let cut = cut(&packet, 1500, DontFragment::Obey).unwrap();
        assert_eq!(offsets(&cut), [(0, true, 1500), (1480, true, 1500), (2960, false, 60)]);
        assert_eq!(cut.pieces.iter().map(|piece| &piece[20..]).collect::<Vec<_>>().concat(), packet[20..]);
        for info in &cut.infos {
            assert_eq!((info.ttl, info.fragment.unwrap().identification), (17, 7));
        }
    }

    #[test]
    fn a_fragment_is_cut_further() {
        let packet = with_options(&[], 3000, false);
        let second = &cut(&packet, 1500, DontFragment::Obey).unwrap().pieces[1].clone();
        let cut = cut(second, 1000, DontFragment::Obey).unwrap();
        assert_eq!(offsets(&cut), [(1480, true, 996), (2456, true, 524)]);
    }

    #[test]
    fn options_are_copied_if_they_say_so() {
        // Record route (7) is not copied, security (130) and router alert (148) are.
        let options = [7, 7, 4, 0, 0, 0, 0, 1, 148, 4, 0, 0, 130, 3, 9, 0];
        let cut = cut(&with_options(&options, 200, false), 100, DontFragment::Obey).unwrap();
        assert_eq!(cut.pieces[0][20..36], options);
        assert_eq!(cut.infos[0].header_len, 36);
        for (piece, info) in cut.pieces.iter().zip(&cut.infos).skip(1) {
            assert_eq!(piece[20..28], [148, 4, 0, 0, 130, 3, 9, 0]);
            assert_eq!(info.header_len, 28);
        }
        // 64 bytes fit the first, 72 each later.
        assert_eq!(offsets(&cut), [(0, true, 100), (64, true, 100), (136, false, 92)]);
    }

    #[test]
    fn df_is_obeyed_or_cleared() {
        let packet = with_options(&[], 3000, true);
        assert_eq!(cut(&packet, 1500, DontFragment::Obey).err(), Some(DropReason::TooBig));
        let cut = cut(&packet, 1500, DontFragment::Override).unwrap();
        assert!(cut.infos.iter().all(|info| !info.dont_fragment));
    }

    #[test]
    fn what_fits_is_left_alone() {
        for packet in [with_options(&[], 100, true), packet_v6("2001:db8::1", "2001:db8::2", 50, &bytes(80))]
        {
            let cut = cut(&packet, 120, DontFragment::Obey).unwrap();
            assert_eq!(cut.pieces, [packet]);
        }
    }

    #[test]
    fn mtus_that_are_too_small() {
        let full = with_options(&[1; 40], 100, false);
        assert!(cut(&full, 68, DontFragment::Obey).is_ok());
        assert_eq!(cut(&full, 67, DontFragment::Obey).err(), Some(DropReason::TooBig));
        let six = packet_v6("2001:db8::1", "2001:db8::2", 50, &bytes(100));
        assert!(cut(&six, 56, DontFragment::Obey).is_ok());
        assert_eq!(cut(&six, 55, DontFragment::Obey).err(), Some(DropReason::TooBig));
        let options = [[50, 0, 1, 4, 0, 0, 0, 0].to_vec(), bytes(100)].concat();
        let six = packet_v6("2001:db8::1", "2001:db8::2", protocol::DESTINATION_OPTIONS, &options);
        assert!(cut(&six, 64, DontFragment::Obey).is_ok());
        assert_eq!(
            cut(&six, 63, DontFragment::Obey).err(),
            Some(DropReason::TooBig),
            "headers in two fragments"
        );
    }

    #[test]
    fn ipv6_gets_a_fragment_header_behind_the_hop_by_hop_options() {
        let options =
            [[protocol::DESTINATION_OPTIONS, 0, 1, 4, 0, 0, 0, 0], [50, 0, 1, 4, 0, 0, 0, 0]].concat();
        let payload = [options, bytes(3000)].concat();
        let cut = cut(
            &packet_v6("2001:db8::1", "2001:db8::2", protocol::HOP_BY_HOP, &payload),
            1280,
            DontFragment::Obey,
        )
        .unwrap();
        for (piece, info) in cut.pieces.iter().zip(&cut.infos) {
            assert_eq!(
                (piece[6], piece[40], piece[48]),
                (0, protocol::FRAGMENT, protocol::DESTINATION_OPTIONS)
            );
            assert_eq!(info.fragment.unwrap().identification, 0xdead_beef);
        }
        assert_eq!(offsets(&cut), [(0, true, 1280), (1224, true, 1280), (2448, false, 616)]);
        assert_eq!(cut.infos[0].protocol, 50);
        assert_eq!(cut.pieces.iter().map(|piece| &piece[56..]).collect::<Vec<_>>().concat(), payload[8..]);
    }

    #[test]
    fn an_ipv6_fragment_is_not_cut() {
        let payload = [&[50, 0, 0, 1, 0, 0, 0, 1][..], &bytes(1600)].concat();
        let packet = packet_v6("2001:db8::1", "2001:db8::2", protocol::FRAGMENT, &payload);
        assert_eq!(cut(&packet, 1280, DontFragment::Obey).err(), Some(DropReason::FragmentMalformed));
    }

    #[test]
    fn too_few_frames_or_too_small_ones_change_nothing() {
        let large = Pool::new(1, 1 << 14).unwrap();
        for bytes in
            [with_options(&[], 6000, false), packet_v6("2001:db8::1", "2001:db8::2", 50, &bytes(6000))]
        {
            let info = ip::parse(&bytes).unwrap();
            for (pool, reason) in [
                (Pool::new(2, 2048).unwrap(), DropReason::NoBuffer),
                (Pool::new(9, 1024).unwrap(), DropReason::NoRoom),
            ] {
                let frame = large.alloc_from(&bytes).unwrap();
                let mut out = Vec::new();
                let result = match info.version {
                    Version::V4 => fragment_v4(frame, &info, 1500, DontFragment::Obey, &pool, &mut out),
                    Version::V6 => fragment_v6(frame, &info, 1500, 1, &pool, &mut out),
                };
                let (found, frame) = result.unwrap_err();
                assert_eq!((found, frame.data()), (reason, &bytes[..]));
                assert!(out.is_empty() && pool.available() == pool.capacity());
            }
        }
    }

    #[test]
    fn information_about_another_packet_is_refused() {
        let pool = Pool::new(4, 2048).unwrap();
        let info = ip::parse(&with_options(&[], 3000, false)).unwrap();
        let six = ip::parse(&packet_v6("2001:db8::1", "2001:db8::2", 50, &bytes(3000))).unwrap();
        let frame = || pool.alloc_from(&bytes(100)).unwrap();
        let mut out = Vec::new();
        for result in [
            fragment_v4(frame(), &info, 1500, DontFragment::Obey, &pool, &mut out),
            fragment_v4(frame(), &six, 1500, DontFragment::Obey, &pool, &mut out),
            fragment_v6(frame(), &six, 1500, 1, &pool, &mut out),
        ] {
            assert_eq!(result.unwrap_err().0, DropReason::IpMalformed);
        }
    }

    proptest! {
        #[test]
        fn fragments_cover_the_packet_and_fit(payload in 0usize..9000, mtu in 300usize..1900, six: bool) {
            let packet = match six {
                true => packet_v6("2001:db8::1", "2001:db8::2", 50, &bytes(payload)),
                false => with_options(&[], payload, false),
            };
            let cut = cut(&packet, mtu, DontFragment::Obey).unwrap();
            let skip = if cut.pieces.len() == 1 { packet.len() - payload } else if six { 48 } else { 20 };
            prop_assert!(cut.pieces.iter().all(|piece| piece.len() <= mtu));
            let data = cut.pieces.iter().map(|piece| &piece[skip..]).collect::<Vec<_>>().concat();
            prop_assert_eq!(&data, &packet[packet.len() - payload..]);
        }
    }
}
