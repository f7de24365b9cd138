//! Two sites and the tunnel between them: host, gateway, (router,) gateway, host, each in its namespace.
//!
//! ```text
//! left host  10.1.0.2 -- lan0 left gateway  wan0 198.51.100.1 --+-- 198.51.100.2 wan0 right gateway lan0 -- 10.2.0.2 right host
//!         fd00:1::2                     2001:db8:1::1          |   2001:db8:1::2                         fd00:2::2
//!                                               or through a router to 203.0.113.1, 2001:db8:2::1
//! ```

use std::fmt::Write;
use std::net::IpAddr;

use dataplane::crypto::Suite;

use crate::gateway::{Files, Gateway, key};
use crate::netns::Namespace;

/// What a site is to be like.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Family of the outer addresses.
    pub outer: Family,
    /// Driver of the WAN ports.
    pub wan: Driver,
    /// Driver of the LAN ports.
    pub lan: Driver,
    /// MTU of all links.
    pub mtu: usize,
    /// Queues of all links. A driver that opens fewer must not have more.
    pub queues: usize,
    /// MTU of the link between a router in the middle and the right gateway; `None` without a router.
    pub router: Option<usize>,
    /// VLAN of the WAN.
    pub vlan: Option<u16>,
    /// Cores of each gateway's workers: left, right.
    pub cores: [&'static str; 2],
    /// What the workers do when there is nothing to do.
    pub idle: &'static str,
    /// Suite of the SAs.
    pub suite: &'static str,
    /// More keys of the manual SAs, as `, key: value`.
    pub sa: &'static str,
    /// The address of the left gateway's metrics.
    pub metrics: Option<&'static str>,
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Family {
    V4,
    V6,
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Driver {
    AfPacket,
    AfXdp,
    /// The host is then the kernel of the gateway's own namespace.
    Tap,
    /// A virtual device of DPDK: `{n}` is a number of its own, `{device}` the interface.
    #[cfg_attr(not(feature = "dpdk"), expect(dead_code, reason = "only a build with DPDK has the driver"))]
    Dpdk(&'static str),
}

impl Default for Plan {
    fn default() -> Self {
        Self {
            outer: Family::V4,
            wan: Driver::AfPacket,
            lan: Driver::AfPacket,
            mtu: 1500,
            queues: 2,
            router: None,
            vlan: None,
            cores: ["[0]", "[1]"],
            idle: "adaptive",
            suite: "aes128gcm16",
            sa: "",
            metrics: None,
        }
    }
}

/// The name of the tunnel in both gateways.
pub const TUNNEL: &str = "site";

/// Two gateways at work, their hosts, and their router.
pub struct Sites {
    pub left: Site,
    pub right: Site,
    /// Lives as long as they do.
    _router: Option<Namespace>,
}

/// One side.
pub struct Site {
    pub gateway: Gateway,
    /// The gateway's namespace.
    pub inside: Namespace,
    /// The host's, when it is another.
    host: Option<Namespace>,
    pub yaml: String,
}

impl Site {
    /// The namespace of the host.
    pub fn host(&self) -> &Namespace {
        self.host.as_ref().unwrap_or(&self.inside)
    }

    /// Stops the gateway, does something, and starts it again with what it had before.
    pub fn restart(self, meanwhile: impl FnOnce(&Namespace)) -> Self {
        let (status, _, files) = self.gateway.terminate();
        assert!(status.success(), "{status}");
        meanwhile(&self.inside);
        let gateway = Gateway::start(&self.inside, files, &self.yaml);
        Self { gateway, ..self }
    }
}

/// The inner address of a host: 1 is left, 2 is right.
pub fn host_address(family: Family, side: u8) -> IpAddr {
    let text = match family {
        Family::V4 => format!("10.{side}.0.2"),
        Family::V6 => format!("fd00:{side}::2"),
    };
    text.parse().unwrap()
}

impl Sites {
    pub fn new(plan: &Plan) -> Self {
        let [left, right] = [Namespace::new(), Namespace::new()];
        let router = plan.router.map(|mtu| {
            let router = Namespace::new();
            left.join("wan0", &router, "left", plan.queues, plan.mtu);
            right.join("wan0", &router, "right", plan.queues, mtu);
            set_up_router(&router);
            router
        });
        match &router {
            None => left.join("wan0", &right, "wan0", plan.queues, plan.mtu),
            Some(router) if plan.wan.needs_whole_packets() => {
                router.no_offload("left");
                router.no_offload("right");
            }
            Some(_) => {}
        }
        Self { left: site(plan, 1, left), right: site(plan, 2, right), _router: router }
    }

    /// What both gateways dropped, for messages.
    pub fn drops(&self) -> String {
        format!("left: {}right: {}", self.left.gateway.all_drops(), self.right.gateway.all_drops())
    }
}

fn site(plan: &Plan, side: u8, inside: Namespace) -> Site {
    let host = (plan.lan != Driver::Tap).then(|| {
        let host = Namespace::new();
        inside.join("lan0", &host, "eth0", plan.queues, plan.mtu);
        if plan.lan.needs_whole_packets() {
            host.no_offload("eth0");
        }
        host
    });
    let mut files = Files::new();
    let yaml = configuration(plan, side, &mut files);
    let gateway = Gateway::start(&inside, files, &yaml);
    let site = Site { gateway, inside, host, yaml };
    let device = if plan.lan == Driver::Tap { "lan0" } else { "eth0" };
    set_up_host(site.host(), device, side);
    site
}

fn set_up_host(host: &Namespace, device: &str, side: u8) {
    allow_ipv6(host, device);
    host.ip(&format!("addr add 10.{side}.0.2/16 dev {device}"));
    host.ip(&format!("addr add fd00:{side}::2/64 dev {device} nodad"));
    host.ip(&format!("route add 10.0.0.0/8 via 10.{side}.0.1"));
    host.ip(&format!("route add fd00::/16 via fd00:{side}::1"));
}

fn set_up_router(router: &Namespace) {
    for (device, side) in [("left", 1), ("right", 2)] {
        allow_ipv6(router, device);
        router.ip(&format!("addr add 2001:db8:{side}::fe/64 dev {device} nodad"));
    }
    router.ip("addr add 198.51.100.254/24 dev left");
    router.ip("addr add 203.0.113.254/24 dev right");
    router.set("net/ipv4/ip_forward", "1");
    router.set("net/ipv6/conf/all/forwarding", "1");
}

fn allow_ipv6(namespace: &Namespace, device: &str) {
    // Before IPv6 starts on the device: addresses at once, and no others.
    namespace.set(&format!("net/ipv6/conf/{device}/accept_dad"), "0");
    namespace.set(&format!("net/ipv6/conf/{device}/accept_ra"), "0");
    namespace.set(&format!("net/ipv6/conf/{device}/disable_ipv6"), "0");
}

/// Outer address of a side.
pub fn outer_address(plan: &Plan, side: u8) -> &'static str {
    match (plan.outer, side, plan.router) {
        (Family::V4, 1, _) => "198.51.100.1",
        (Family::V4, _, None) => "198.51.100.2",
        (Family::V4, _, Some(_)) => "203.0.113.1",
        (Family::V6, 1, _) => "2001:db8:1::1",
        (Family::V6, _, None) => "2001:db8:1::2",
        (Family::V6, _, Some(_)) => "2001:db8:2::1",
    }
}

fn configuration(plan: &Plan, side: u8, files: &mut Files) -> String {
    let other = 3 - side;
    let suite: Suite = plan.suite.parse().unwrap();
    // The key of each direction is named after its sender.
    files.key_file("out.key", &key(side.into(), suite));
    files.key_file("in.key", &key(other.into(), suite));
    let wans: [_; 2] = match (side, plan.router) {
        (1, _) => ["198.51.100.1/24", "2001:db8:1::1/64"],
        (_, None) => ["198.51.100.2/24", "2001:db8:1::2/64"],
        (_, Some(_)) => ["203.0.113.1/24", "2001:db8:2::1/64"],
    };
    let vlan = plan.vlan.map_or(String::new(), |id| format!(", vlan: {id}"));
    let mut yaml = String::new();
    let cores = plan.cores[usize::from(side) - 1];
    let _ = write!(
        yaml,
        "workers: {{ cores: {cores}, control_core: 0, idle: {} }}\n\
         ports:\n\
         \x20 wan: {{ {}, mtu: {}, addresses: ['{}', '{}']{vlan} }}\n\
         \x20 lan: {{ {}, mtu: {}, addresses: [10.{side}.0.1/16, 'fd00:{side}::1/64'] }}\n",
        plan.idle,
        plan.wan.yaml("wan0", 0),
        if side == 1 { plan.mtu } else { plan.router.unwrap_or(plan.mtu) },
        wans[0],
        wans[1],
        plan.lan.yaml("lan0", 1),
        plan.mtu,
    );
    if [plan.wan, plan.lan].iter().any(|driver| matches!(driver, Driver::Dpdk(_))) {
        yaml.push_str("dpdk: { huge_pages: none, memory: 256MiB }\n");
    }
    if let (1, Some(address)) = (side, plan.metrics) {
        files.metrics = Some(address);
    }
    if plan.router.is_some() {
        let (v4, v6) = if side == 1 {
            ("198.51.100.254", "2001:db8:1::fe")
        } else {
            ("203.0.113.254", "2001:db8:2::fe")
        };
        let _ = writeln!(yaml, "routes: [ {{ to: 0.0.0.0/0, via: {v4} }}, {{ to: '::/0', via: '{v6}' }} ]");
    }
    let _ = write!(
        yaml,
        "manual_sas:\n  {TUNNEL}: {{ suite: {}, local: '{}', remote: '{}'{}, \
         outbound: {{ spi: 0x{side}001, key_file: out.key }}, inbound: {{ spi: 0x{other}001, key_file: in.key }}, \
         selectors: {{ local: [10.{side}.0.0/16, 'fd00:{side}::/64'], remote: [10.{other}.0.0/16, 'fd00:{other}::/64'] }} }}\n",
        plan.suite,
        outer_address(plan, side),
        outer_address(plan, other),
        plan.sa,
    );
    yaml
}

impl Driver {
    pub fn keyword(self) -> &'static str {
        match self {
            Self::AfPacket => "af_packet",
            Self::AfXdp => "af_xdp",
            Self::Tap => "tap",
            Self::Dpdk(_) => "dpdk",
        }
    }

    /// A port's driver and device.
    fn yaml(self, interface: &str, number: usize) -> String {
        let device = match self {
            Self::Dpdk(template) => {
                template.replace("{n}", &number.to_string()).replace("{device}", interface)
            }
            _ => interface.to_owned(),
        };
        format!("driver: {}, device: '{device}'", self.keyword())
    }

    /// Whether the kernel on the other end of a veth pair must finish what it sends: checksums and segments.
    fn needs_whole_packets(self) -> bool {
        matches!(self, Self::AfXdp | Self::Dpdk(_))
    }
}
