//! Two sites that negotiate the tunnel between them: host, gateway, gateway, host, each in its namespace.
//!
//! ```text
//! left host  10.1.0.2 -- lan0 left gateway  wan0 198.51.100.1 ---- 198.51.100.2 wan0 right gateway lan0 -- 10.2.0.2 right host
//!         fd00:1::2                     2001:db8:1::1            2001:db8:1::2                         fd00:2::2
//! ```

use std::net::IpAddr;
use std::time::Duration;

use serde_json::Value;

use crate::gateway::{Files, Gateway};
use crate::netns::Namespace;
use crate::traffic::{Fragments, Pinger};
use crate::wait_for;

/// Family of addresses.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Family {
    V4,
    V6,
}

/// A connection as one side has it.
#[derive(Clone)]
pub struct Connection {
    /// Family of the outer addresses.
    pub outer: Family,
    /// Contents of `auth`.
    pub auth: String,
    /// More keys of the connection, as `key: value, `.
    pub more: &'static str,
    /// Contents of `ike`.
    pub ike: &'static str,
    /// More keys of the child, as `key: value, `.
    pub child: &'static str,
    /// The second part of the prefixes of the hosts on this side, when it is not the number of the side.
    pub child_net: u8,
    /// More sections of the configuration.
    pub top: &'static str,
}

impl Default for Connection {
    fn default() -> Self {
        Self {
            outer: Family::V4,
            auth: "psk_file: net.psk".to_owned(),
            more: "",
            ike: "",
            child: "start: wait",
            child_net: 0,
            top: "",
        }
    }
}

/// The name of the connection and its child in both gateways.
pub const CONNECTION: &str = "net";
pub const TUNNEL: &str = "net/lan";

/// Two gateways at work, and their hosts.
pub struct Sites {
    pub left: Site,
    pub right: Site,
}

/// One side.
pub struct Site {
    pub gateway: Gateway,
    /// The gateway's namespace.
    pub inside: Namespace,
    pub host: Namespace,
    pub yaml: String,
}

impl Sites {
    /// Starts the right gateway first, so that a left one that starts at boot finds it.
    pub fn new(left: &Connection, right: &Connection) -> Self {
        Self::with(left, right, |_| {})
    }

    /// The same, with more files for each gateway.
    pub fn with(left: &Connection, right: &Connection, files: impl Fn(&Files)) -> Self {
        let insides = [Namespace::new(), Namespace::new()];
        let [one, two] = &insides;
        one.join("wan0", two, "wan0", 2, 1500);
        Self::between(insides, [yaml(1, left), yaml(2, right)], files)
    }

    /// The same, in namespaces whose `wan0` are joined in some way.
    pub fn between(insides: [Namespace; 2], yamls: [String; 2], files: impl Fn(&Files)) -> Self {
        let ([one, two], [left, right]) = (insides, yamls);
        let right = Site::start(2, two, &right, &files);
        let left = Site::start(1, one, &left, &files);
        Self { left, right }
    }

    /// Waits until both ends say that the tunnel is up.
    pub fn wait_until_up(&self) {
        for site in [&self.left, &self.right] {
            wait_for("the tunnel to come up", || site.is_up().then_some(()));
        }
    }

    /// Pings from host to host in both inner families, both ways.
    pub fn ping(&self) {
        for family in [Family::V4, Family::V6] {
            for (from, to) in [(&self.left, 2), (&self.right, 1)] {
                let mut pinger = Pinger::new(&from.host, host_address(family, to), Fragments::Allowed);
                pinger.ping_until_answered(100, Duration::from_secs(10));
                let lost = pinger.ping_all([0, 56, 1000, 1400, 3000].into_iter());
                // An IPv6 host learns the tunnel's MTU by an error about a packet that is then lost, at each side.
                assert!(lost <= 2, "{family:?}: {lost} lost; {}", self.drops());
            }
        }
    }

    /// What both gateways dropped, for messages.
    pub fn drops(&self) -> String {
        format!("left: {}right: {}", self.left.gateway.all_drops(), self.right.gateway.all_drops())
    }
}

impl Site {
    /// Starts a gateway and its host.
    pub fn start(side: u8, inside: Namespace, yaml: &str, add_files: impl Fn(&Files)) -> Self {
        let host = Namespace::new();
        inside.join("lan0", &host, "eth0", 2, 1500);
        let files = Files::new();
        files.key_file("net.psk", "correct horse battery staple");
        add_files(&files);
        let gateway = Gateway::start(&inside, files, yaml);
        set_up_host(&host, side);
        Self { gateway, inside, host, yaml: yaml.to_owned() }
    }

    /// The row of the tunnel.
    pub fn tunnel(&self) -> Value {
        self.gateway.row("tunnels", |row| row["name"] == TUNNEL)
    }

    pub fn is_up(&self) -> bool {
        self.tunnel()["up"] == true
    }

    /// The SPIs of its SAs, inbound first.
    pub fn spis(&self) -> Vec<u64> {
        let sas = self.gateway.show("sas");
        sas.as_array().unwrap().iter().filter_map(|sa| sa["spi"].as_u64()).collect()
    }
}

fn set_up_host(host: &Namespace, side: u8) {
    // Before IPv6 starts on the device: addresses at once, and no others.
    host.set("net/ipv6/conf/eth0/accept_dad", "0");
    host.set("net/ipv6/conf/eth0/accept_ra", "0");
    host.set("net/ipv6/conf/eth0/disable_ipv6", "0");
    host.ip(&format!("addr add 10.{side}.0.2/16 dev eth0"));
    host.ip(&format!("addr add fd00:{side}::2/64 dev eth0 nodad"));
    host.ip(&format!("route add 10.0.0.0/8 via 10.{side}.0.1"));
    host.ip(&format!("route add fd00::/16 via fd00:{side}::1"));
}

/// The inner address of a host: 1 is left, 2 is right.
pub fn host_address(family: Family, side: u8) -> IpAddr {
    let text = match family {
        Family::V4 => format!("10.{side}.0.2"),
        Family::V6 => format!("fd00:{side}::2"),
    };
    text.parse().unwrap()
}

/// Outer address of a side.
pub fn outer_address(family: Family, side: u8) -> String {
    match family {
        Family::V4 => format!("198.51.100.{side}"),
        Family::V6 => format!("2001:db8:1::{side}"),
    }
}

/// The identity of a side.
pub fn identity(side: u8) -> &'static str {
    if side == 1 { "left.example.net" } else { "right.example.net" }
}

/// The configuration of a side, when the left one is behind a NAT that the right one sees as 203.0.113.254.
pub fn yaml_behind_nat(side: u8, connection: &Connection) -> String {
    let yaml = yaml(side, connection);
    let (yaml, gateway) = if side == 1 {
        (yaml.replace("'198.51.100.2'", "203.0.113.1"), "198.51.100.254")
    } else {
        let yaml = yaml.replace("198.51.100.2/24", "203.0.113.1/24").replace("'198.51.100.2'", "203.0.113.1");
        (yaml.replace("remote: { address: '198.51.100.1'", "remote: { address: any"), "203.0.113.254")
    };
    format!("{yaml}routes: [ {{ to: 0.0.0.0/0, via: {gateway} }} ]\n")
}

/// The configuration of a side.
pub fn yaml(side: u8, connection: &Connection) -> String {
    let Connection { outer, auth, more, ike, child, child_net, top } = connection;
    let net = if *child_net == 0 { side } else { *child_net };
    let other = 3 - side;
    let core = side - 1;
    let (local, remote) = (outer_address(*outer, side), outer_address(*outer, other));
    let (local_id, remote_id) = (identity(side), identity(other));
    format!(
        "{top}workers: {{ cores: [{core}], control_core: 0, idle: adaptive }}\n\
         ports:\n\
         \x20 wan: {{ driver: af_packet, device: wan0, addresses: [198.51.100.{side}/24, '2001:db8:1::{side}/64'] }}\n\
         \x20 lan: {{ driver: af_packet, device: lan0, addresses: [10.{side}.0.1/16, 'fd00:{side}::1/64'] }}\n\
         connections:\n\
         \x20 {CONNECTION}:\n\
         \x20   local: {{ address: '{local}', id: {local_id} }}\n\
         \x20   remote: {{ address: '{remote}', id: {remote_id} }}\n\
         \x20   auth: {{ {auth} }}\n\
         \x20   ike: {{ {ike} }}\n\
         \x20   {more}\n\
         \x20   children:\n\
         \x20     lan: {{ local: [10.{net}.0.0/16, 'fd00:{net}::/64'], remote: [10.{other}.0.0/16, 'fd00:{other}::/64'], {child} }}\n"
    )
}
