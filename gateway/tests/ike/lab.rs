//! The networks of the tests: two sites with a router between them, which may translate addresses.
//!
//! ```text
//! host 10.1.0.2 -- lan0 left wan0 198.51.100.1 -- .254 middle .254 -- 203.0.113.1 wan0 right, lo 10.2.0.2
//!     fd00:1::2           2001:db8:1::1              ::fe        ::fe   2001:db8:2::1          fd00:2::2
//! ```
//!
//! The left gateway is Spillway; its devices have no addresses in the kernel. The right one is strongSwan, whose network
//! sits on its loopback device.

use std::net::IpAddr;
use std::time::Duration;

use crate::PATIENCE;
use crate::netns::Namespace;
use crate::site::{Family, host_address};
use crate::traffic::{Fragments, Pinger};

/// Whose address the router in the middle hides behind its own.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Nat {
    None,
    Left,
    Right,
}

/// The namespaces.
pub struct Lab {
    pub host: Namespace,
    pub left: Namespace,
    pub middle: Namespace,
    pub right: Namespace,
}

impl Lab {
    /// With so many queues on the devices of the left gateway.
    pub fn new(queues: usize) -> Self {
        let [host, left, middle, right] = std::array::from_fn(|_| Namespace::new());
        // For the TUN device that charon makes.
        right.set("net/ipv6/conf/default/disable_ipv6", "0");
        right.set("net/ipv6/conf/default/accept_dad", "0");
        left.join("lan0", &host, "eth0", queues, 1500);
        left.join("wan0", &middle, "left", queues, 1500);
        right.join("wan0", &middle, "right", 1, 1500);
        for (namespace, device) in
            [(&host, "eth0"), (&middle, "left"), (&middle, "right"), (&right, "wan0"), (&right, "lo")]
        {
            allow_ipv6(namespace, device);
        }
        for (device, v4, v6) in
            [("left", "198.51.100.254", "2001:db8:1::fe"), ("right", "203.0.113.254", "2001:db8:2::fe")]
        {
            middle.ip(&format!("addr add {v4}/24 dev {device}"));
            middle.ip(&format!("addr add {v6}/64 dev {device} nodad"));
        }
        middle.set("net/ipv4/ip_forward", "1");
        middle.set("net/ipv6/conf/all/forwarding", "1");
        for (namespace, device, side) in [(&host, "eth0", 1), (&right, "lo", 2)] {
            namespace.ip(&format!("addr add 10.{side}.0.2/16 dev {device}"));
            namespace.ip(&format!("addr add fd00:{side}::2/64 dev {device} nodad"));
        }
        host.ip("route add default via 10.1.0.1");
        host.ip("route add default via fd00:1::1");
        right.ip("addr add 203.0.113.1/24 dev wan0");
        right.ip("addr add 2001:db8:2::1/64 dev wan0 nodad");
        right.ip("route add default via 203.0.113.254");
        right.ip("route add default via 2001:db8:2::fe");
        Self { host, left, middle, right }
    }

    /// Has the kernel finish checksums and segments of what reaches the left gateway, as a cable would need it.
    pub fn finish_packets(&self) {
        for (namespace, device) in [(&self.host, "eth0"), (&self.middle, "left"), (&self.right, "wan0")] {
            namespace.no_offload(device);
        }
    }

    /// Gives the left gateway a second way to the router: `wan1`, 192.0.2.1 to 192.0.2.254.
    pub fn add_uplink(&self) {
        self.left.join("wan1", &self.middle, "lte", 1, 1500);
        self.middle.ip("addr add 192.0.2.254/24 dev lte");
    }

    /// Makes the router hide one side behind its own address.
    pub fn translate(&self, nat: Nat) {
        self.middle.command("nft", "flush ruleset");
        let out = match nat {
            Nat::None => return,
            Nat::Left => "right",
            Nat::Right => "left",
        };
        for family in ["ip", "ip6"] {
            self.middle.command("nft", &format!("add table {family} nat"));
            self.middle.command(
                "nft",
                &format!("add chain {family} nat out {{ type nat hook postrouting priority 100 ; }}"),
            );
            self.middle.command("nft", &format!("add rule {family} nat out oifname {out} masquerade"));
        }
    }

    /// Traffic passes both ways: the host pings the network of the right gateway, and the other way round.
    pub fn assert_traffic(&self, inner: Family) {
        for (from, to) in [(&self.host, host_address(inner, 2)), (&self.right, host_address(inner, 1))] {
            let mut pinger = Pinger::new(from, to, Fragments::Allowed);
            pinger.ping_until_answered(56, PATIENCE);
            // What passed once goes on passing.
            for size in [0, 500, 1200] {
                assert_eq!(pinger.ping(size, Duration::from_secs(3)), Ok(()), "{size} bytes to {to}");
            }
        }
    }
}

/// Outer address of a gateway.
pub fn outer_address(family: Family, side: u8) -> IpAddr {
    let text = match (family, side) {
        (Family::V4, 1) => "198.51.100.1",
        (Family::V4, _) => "203.0.113.1",
        (Family::V6, 1) => "2001:db8:1::1",
        (Family::V6, _) => "2001:db8:2::1",
    };
    text.parse().unwrap()
}

fn allow_ipv6(namespace: &Namespace, device: &str) {
    // Before IPv6 starts on the device: addresses at once, and no others.
    namespace.set(&format!("net/ipv6/conf/{device}/accept_dad"), "0");
    namespace.set(&format!("net/ipv6/conf/{device}/accept_ra"), "0");
    namespace.set(&format!("net/ipv6/conf/{device}/disable_ipv6"), "0");
}
