//! Path MTU discovery through the tunnel, fragments, and what TCP is told.

use std::net::{IpAddr, SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use crate::gateway::count;
use crate::netns::{Namespace, Wire, privileged};
use crate::site::{Family, Plan, Sites, TUNNEL, host_address};
use crate::traffic::{Fragments, Pinger, Unanswered};
use crate::{PATIENCE, serial, wait_for};

/// Headers of a ping.
const fn ping_headers(family: Family) -> usize {
    match family {
        Family::V4 => 28,
        Family::V6 => 48,
    }
}

/// The longest inner packet on a path of `mtu` bytes with AES-GCM-16: outer IP header, ESP header, IV, ICV; then
/// a multiple of 4 with two bytes of trailer (RFC 4303 s2, RFC 4106).
fn inner_mtu(outer: Family, mtu: usize) -> usize {
    let ip = if outer == Family::V4 { 20 } else { 40 };
    (mtu - ip - 8 - 8 - 16) / 4 * 4 - 2
}

#[test]
fn a_router_with_a_smaller_mtu_is_found_by_ipv4_over_ipv4() {
    finds_the_path_mtu(Family::V4, Family::V4);
}

#[test]
fn a_router_with_a_smaller_mtu_is_found_by_ipv4_over_ipv6() {
    finds_the_path_mtu(Family::V4, Family::V6);
}

#[test]
fn a_router_with_a_smaller_mtu_is_found_by_ipv6_over_ipv4() {
    finds_the_path_mtu(Family::V6, Family::V4);
}

#[test]
fn a_router_with_a_smaller_mtu_is_found_by_ipv6_over_ipv6() {
    finds_the_path_mtu(Family::V6, Family::V6);
}

/// The router tells the gateway about a packet, the gateway tells the host about the next, and from then on the
/// host sends what fits exactly (RFC 4301 s8.2.1).
fn finds_the_path_mtu(inner: Family, outer: Family) {
    privileged(&[], || {
        let _alone = serial();
        let sites = Sites::new(&Plan { outer, router: Some(1400), ..Plan::default() });
        let (host, to) = (sites.left.host(), host_address(inner, 2));
        let expected = inner_mtu(outer, 1400);
        let mut pinger = Pinger::new(host, to, Fragments::Forbidden);
        pinger.ping_until_answered(100, PATIENCE);

        let first = pinger.ping(1400 - ping_headers(inner), Duration::from_secs(1));
        assert_eq!(first, Err(Unanswered::Silence), "the router drops it and tells the gateway");
        let second = pinger.ping(1400 - ping_headers(inner), PATIENCE);
        assert_eq!(second, Err(Unanswered::TooBig), "the gateway tells the host; {}", sites.drops());
        assert_eq!(known_mtu(host, to), expected);

        let largest = expected - ping_headers(inner);
        assert_eq!(pinger.ping(largest + 1, PATIENCE), Err(Unanswered::TooBig));
        assert_eq!(pinger.ping(largest, PATIENCE), Ok(()), "{}", sites.drops());
        let sa = sites.left.gateway.sa(TUNNEL, "outbound");
        assert_eq!(count(&sa["drops"]["too_big"]), 1, "{sa}");
    });
}

#[test]
fn without_a_router_the_host_is_told_what_the_link_carries() {
    privileged(&[], || {
        let _alone = serial();
        for outer in [Family::V4, Family::V6] {
            let sites = Sites::new(&Plan { outer, ..Plan::default() });
            for inner in [Family::V4, Family::V6] {
                let (host, to) = (sites.left.host(), host_address(inner, 2));
                let mut pinger = Pinger::new(host, to, Fragments::Forbidden);
                pinger.ping_until_answered(100, PATIENCE);
                assert_eq!(pinger.ping(1500 - ping_headers(inner), PATIENCE), Err(Unanswered::TooBig));
                assert_eq!(known_mtu(host, to), inner_mtu(outer, 1500));
                let largest = inner_mtu(outer, 1500) - ping_headers(inner);
                assert_eq!(pinger.ping(largest, PATIENCE), Ok(()));
            }
        }
    });
}

#[test]
fn ipv6_keeps_its_1280_bytes_on_a_path_that_carries_less() {
    privileged(&[], || {
        let _alone = serial();
        for outer in [Family::V4, Family::V6] {
            let sites = Sites::new(&Plan { outer, router: Some(1280), ..Plan::default() });
            let (host, to) = (sites.left.host(), host_address(Family::V6, 2));
            let mut pinger = Pinger::new(host, to, Fragments::Forbidden);
            pinger.ping_until_answered(100, PATIENCE);
            let end = Instant::now() + PATIENCE;
            while pinger.ping(1400 - 48, Duration::from_secs(1)) != Err(Unanswered::TooBig) {
                assert!(Instant::now() < end, "{outer:?}: the host is not told; {}", sites.drops());
            }
            // RFC 8200 s5: no link of IPv6 has less.
            assert_eq!(known_mtu(host, to), 1280);
            assert_eq!(pinger.ping(1280 - 48, PATIENCE), Ok(()), "{outer:?}: {}", sites.drops());
        }
    });
}

#[test]
fn what_may_be_fragmented_passes_a_router_with_a_smaller_mtu() {
    privileged(&[], || {
        let _alone = serial();
        for (sa, lost) in [
            // The router fragments.
            ("", 0),
            // The router tells the gateway, which then fragments: before encapsulation, or after.
            (", df: set", 1),
            (", df: set, fragmentation: after", 1),
        ] {
            let sites = Sites::new(&Plan { router: Some(1400), sa, ..Plan::default() });
            let to = host_address(Family::V4, 2);
            let mut pinger = Pinger::new(sites.left.host(), to, Fragments::Allowed);
            pinger.ping_until_answered(100, PATIENCE);
            let found = pinger.ping_all([1400, 1400, 1472, 1473, 3000, 9000].into_iter());
            assert!(found <= lost, "`{sa}`: {found} lost; {}", sites.drops());
        }
    });
}

#[test]
fn tcp_is_told_the_segment_size_that_fits() {
    privileged(&[], || {
        let _alone = serial();
        for outer in [Family::V4, Family::V6] {
            for (sa, v4, v6) in [
                ("", 1460, 1440),
                (", mss_clamp: pmtu", inner_mtu(outer, 1500) - 40, inner_mtu(outer, 1500) - 60),
                (", mss_clamp: 1000", 1000, 1000),
            ] {
                let sites = Sites::new(&Plan { sa, outer, ..Plan::default() });
                for (family, expected) in [(Family::V4, v4), (Family::V6, v6)] {
                    let wire = Wire::open(sites.right.host(), "eth0");
                    let to = SocketAddr::new(host_address(family, 2), 9);
                    let connect = || TcpStream::connect_timeout(&to, PATIENCE);
                    let refused = sites.left.host().run(connect).unwrap_err();
                    assert_eq!(refused.kind(), std::io::ErrorKind::ConnectionRefused);
                    let found = wait_for("a SYN", || wire.recv(PATIENCE).map(|frame| mss_of_syn(&frame))?);
                    assert_eq!(usize::from(found), expected, "`{sa}` {family:?} over {outer:?}");
                }
            }
        }
    });
}

/// The MTU that a host has learned of the path to an address.
fn known_mtu(host: &Namespace, to: IpAddr) -> usize {
    wait_for("the host to know the MTU", || {
        let route = host.ip(&format!("route get {to}"));
        let mut words = route.split_whitespace();
        words.find(|word| *word == "mtu")?;
        words.next()?.parse().ok()
    })
}

/// The MSS option of a frame with a SYN whose TCP header comes after an IP header without options.
fn mss_of_syn(frame: &[u8]) -> Option<u16> {
    let tcp = match frame.get(14)? >> 4 {
        4 if frame[23] == 6 => frame.get(34..)?,
        6 if frame[20] == 6 => frame.get(54..)?,
        _ => return None,
    };
    // The kernel's first option is the MSS: kind 2, length 4.
    let is_syn = tcp.get(13)? & 0x12 == 0x02;
    (is_syn && tcp.get(20..22)? == [2, 4]).then(|| u16::from_be_bytes([tcp[22], tcp[23]]))
}
