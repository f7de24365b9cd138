//! Spillway on the left and strongSwan on the right, configured for each other.

use crate::gateway::{Files, Gateway};
use crate::lab::{Lab, Nat, outer_address};
use crate::pki::Credentials;
use crate::site::{CONNECTION, Family, TUNNEL, identity};
use crate::strongswan::{Charon, Setup};
use crate::wait_for;

/// The driver of Spillway's ports.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Driver {
    AfPacket,
    /// A virtual device of DPDK, and how many queues it has, one for each worker: on core 1, and on core 0.
    #[cfg_attr(not(feature = "dpdk"), expect(dead_code, reason = "only a build with DPDK has the driver"))]
    Dpdk(&'static str, usize),
}

/// What the two are to be like.
pub struct Plan<'a> {
    pub driver: Driver,
    /// Family of the outer addresses.
    pub outer: Family,
    pub nat: Nat,
    /// Preshared keys without them.
    pub credentials: Option<&'a Credentials>,
    /// More of Spillway's configuration: sections, keys of `ike`.
    pub top: &'a str,
    pub ike: &'a str,
    /// Selectors and proposals of Spillway's child, and of strongSwan's.
    pub child: &'a str,
    pub peer_child: &'a str,
    /// More settings of strongSwan's connection, and of charon.
    pub peer: &'a str,
    pub charon: &'a str,
    /// Identities of both.
    pub ids: [&'a str; 2],
    /// Contents of Spillway's `auth` when it does not follow from the credentials, and files with secrets for it.
    pub auth: Option<&'a str>,
    pub secrets: &'a [(&'a str, &'a str)],
    /// More keys of Spillway's connection.
    pub more: &'a str,
    /// Where Spillway expects the peer, when it is somewhere else.
    pub remote: Option<&'a str>,
    /// Spillway has a second way to the router in the middle, `lte`.
    pub second_uplink: bool,
    /// Where strongSwan expects Spillway, when it is somewhere else.
    pub peer_remote: Option<&'a str>,
    /// strongSwan's own addresses, when they are others.
    pub peer_addresses: Option<&'a str>,
    /// `auth` and more of strongSwan's sections `local` and `remote`, when they do not follow from the credentials.
    pub peer_auth: Option<[&'a str; 2]>,
    /// More files of swanctl.
    pub peer_files: &'a [(&'a str, &'a str)],
    /// More sections of swanctl.conf, and secrets.
    pub peer_top: &'a str,
    pub peer_secrets: &'a str,
}

const CHILD: &str = "local: [10.1.0.0/16, 'fd00:1::/64'], remote: [10.2.0.0/16, 'fd00:2::/64'], \
                     proposals: [aes128gcm16]";
const PEER_CHILD: &str = "local_ts = 10.2.0.0/16,fd00:2::/64
                          remote_ts = 10.1.0.0/16,fd00:1::/64
                          esp_proposals = aes128gcm16";

const DPDK: &str = "dpdk: { huge_pages: none, memory: 256MiB }\n";

impl Driver {
    /// Driver and device of a port on an interface.
    fn port(self, interface: &str, number: usize) -> String {
        match self {
            Self::AfPacket => format!("driver: af_packet, device: {interface}"),
            Self::Dpdk(template, _) => {
                let device = template.replace("{n}", &number.to_string()).replace("{device}", interface);
                format!("driver: dpdk, device: '{device}'")
            }
        }
    }
}

impl Default for Plan<'_> {
    fn default() -> Self {
        Self {
            driver: Driver::AfPacket,
            outer: Family::V4,
            nat: Nat::None,
            credentials: None,
            top: "",
            ike: "",
            child: CHILD,
            peer_child: PEER_CHILD,
            peer: "",
            charon: "",
            ids: [identity(1), identity(2)],
            auth: None,
            secrets: &[],
            more: "",
            remote: None,
            second_uplink: false,
            peer_remote: None,
            peer_addresses: None,
            peer_auth: None,
            peer_files: &[],
            peer_top: "",
            peer_secrets: "",
        }
    }
}

/// Both at work.
pub struct Pair {
    pub lab: Lab,
    pub gateway: Gateway,
    pub charon: Charon,
}

impl Pair {
    pub fn new(plan: &Plan<'_>) -> Self {
        let lab = match plan.driver {
            Driver::AfPacket => Lab::new(1),
            Driver::Dpdk(_, queues) => {
                let lab = Lab::new(queues);
                lab.finish_packets();
                lab
            }
        };
        lab.translate(plan.nat);
        if plan.second_uplink {
            lab.add_uplink();
        }
        let charon = Charon::start(&lab.right, &setup(plan));
        let files = Files::new();
        files.key_file("net.psk", "correct horse battery staple");
        if let Some(credentials) = plan.credentials {
            credentials.provide(&files);
        }
        plan.secrets.iter().for_each(|(name, secret)| files.key_file(name, secret));
        let gateway = Gateway::start(&lab.left, files, &yaml(plan));
        Self { lab, gateway, charon }
    }

    /// Spillway initiates.
    pub fn initiate(&self) {
        let done = self.gateway.operate("initiate", TUNNEL);
        assert_eq!(done, Ok("up".to_owned()), "{}", self.logs());
        self.wait_until_up();
    }

    /// strongSwan initiates.
    pub fn initiate_from_peer(&self) {
        self.charon.initiate("lan");
        self.wait_until_up();
    }

    /// Up from Spillway, traffic, down; up from strongSwan, traffic.
    pub fn both_ways(&self) {
        self.initiate();
        self.assert_traffic();
        self.terminate();
        self.initiate_from_peer();
        self.assert_traffic();
    }

    /// Spillway takes the connection down.
    pub fn terminate(&self) {
        let done = self.gateway.operate("terminate", CONNECTION);
        assert_eq!(done, Ok("down".to_owned()), "{}", self.logs());
        self.wait_until_down();
    }

    /// Waits until both have the child.
    pub fn wait_until_up(&self) {
        wait_for("the tunnel to come up", || self.is_up().then_some(()));
        wait_for("charon to have the child", || self.charon.sas().contains("INSTALLED").then_some(()));
    }

    /// Waits until neither has it.
    pub fn wait_until_down(&self) {
        wait_for("the tunnel to go down", || (!self.is_up()).then_some(()));
        wait_for("charon to have no child", || (!self.charon.sas().contains("INSTALLED")).then_some(()));
    }

    pub fn is_up(&self) -> bool {
        self.gateway.row("tunnels", |row| row["name"] == TUNNEL)["up"] == true
    }

    /// Traffic of both inner families passes both ways.
    pub fn assert_traffic(&self) {
        self.assert_traffic_of(Family::V4);
        self.assert_traffic_of(Family::V6);
    }

    /// Traffic of one of them does.
    pub fn assert_traffic_of(&self, inner: Family) {
        self.lab.assert_traffic(inner);
    }

    /// Spillway rekeys a child (`net/lan`) or an IKE SA (`net`).
    pub fn rekey(&self, target: &str) {
        assert_eq!(self.gateway.operate("rekey", target), Ok("rekeyed".to_owned()), "{}", self.logs());
    }

    /// strongSwan rekeys, and something that it lists is another one afterwards.
    pub fn rekey_from_peer(&self, what: &str, name: &str) {
        let before = self.fingerprint(what);
        self.charon.swanctl(&["--rekey", &format!("--{what}"), name]);
        wait_for("charon to rekey", || {
            let now = self.fingerprint(what);
            (now.len() == 1 && now != before).then_some(())
        });
    }

    /// What charon lists of IKE SAs or children: the lines with their SPIs.
    fn fingerprint(&self, what: &str) -> Vec<String> {
        let sas = self.charon.sas();
        let is_it = |line: &&str| match what {
            "ike" => line.contains("ESTABLISHED"),
            _ => line.trim_start().starts_with("in "),
        };
        let spi = |line: &str| line.split(',').next().unwrap_or_default().to_owned();
        sas.lines().filter(is_it).map(spi).collect()
    }

    pub fn logs(&self) -> String {
        format!("{}\ncharon:\n{}", self.gateway.log(), self.charon.log())
    }
}

fn setup<'a>(plan: &Plan<'a>) -> Setup<'a> {
    let Plan { outer, peer, peer_child, peer_top, peer_secrets, ids: [theirs, ours], .. } = plan;
    let (local, remote) = (outer_address(*outer, 2).to_string(), outer_address(*outer, 1));
    let local = plan.peer_addresses.unwrap_or(&local);
    // Spillway behind a NAT comes from the router's address.
    let router = if *outer == Family::V4 { "203.0.113.254" } else { "2001:db8:2::fe" };
    let remote = plan.peer_remote.map_or_else(|| format!("{remote},{router}"), str::to_owned);
    let [local_auth, remote_auth] = plan.peer_auth.unwrap_or(match plan.credentials {
        None => ["auth = psk", "auth = psk"],
        Some(_) => ["auth = pubkey\n certs = own.pem", "auth = pubkey"],
    });
    let conf = format!(
        "connections {{ {CONNECTION} {{
            version = 2
            local_addrs = {local}
            remote_addrs = {remote}
            encap = yes
            proposals = aes256gcm16-prfsha384-x25519
            rekey_time = 4h
            {peer}
            local {{ {local_auth}
                id = {ours} }}
            remote {{ {remote_auth}
                id = {theirs} }}
            children {{ lan {{
                {peer_child} }} }}
        }} }}
        {peer_top}
        secrets {{ ike-1 {{ secret = \"correct horse battery staple\" }}
            {peer_secrets} }}"
    );
    let mut files = plan.credentials.map_or_else(Vec::new, Credentials::of_peer);
    files.extend(plan.peer_files.iter().map(|(name, text)| (*name, (*text).to_owned())));
    Setup { conf, files, charon: plan.charon }
}

/// Spillway's configuration.
pub fn yaml(plan: &Plan<'_>) -> String {
    let Plan { outer, top, ike, child, more, ids: [ours, theirs], .. } = plan;
    let local = format!("'{}'", outer_address(*outer, 1));
    let (local, lte, lte_route) = match plan.second_uplink {
        false => (local, "", ""),
        true => (
            format!("[{local}, 192.0.2.1]"),
            "  lte: { driver: af_packet, device: wan1, addresses: [192.0.2.1/24] }\n",
            ", { to: 0.0.0.0/0, via: 192.0.2.254 }",
        ),
    };
    let remote = match (plan.remote, plan.nat) {
        (Some(remote), _) => remote.to_owned(),
        (None, Nat::Right) => "any".to_owned(),
        (None, Nat::None | Nat::Left) => outer_address(*outer, 2).to_string(),
    };
    let auth = plan.auth.unwrap_or(match plan.credentials {
        None => "psk_file: net.psk",
        Some(_) => "cert: own.pem, key: own.key, ca: ca.pem",
    });
    let (wan, lan) = (plan.driver.port("wan0", 0), plan.driver.port("lan0", 1));
    let (dpdk, cores) = match plan.driver {
        Driver::AfPacket => ("", "[0]"),
        Driver::Dpdk(_, 1) => (DPDK, "[1]"),
        Driver::Dpdk(..) => (DPDK, "[1, 0]"),
    };
    format!(
        "{top}{dpdk}workers: {{ cores: {cores}, control_core: 0, idle: adaptive }}\n\
         ports:\n\
         \x20 wan: {{ {wan}, addresses: [198.51.100.1/24, '2001:db8:1::1/64'] }}\n\
         \x20 lan: {{ {lan}, addresses: [10.1.0.1/16, 'fd00:1::1/64'] }}\n\
         {lte}\
         routes: [ {{ to: 0.0.0.0/0, via: 198.51.100.254 }}, {{ to: '::/0', via: '2001:db8:1::fe' }}{lte_route} ]\n\
         connections:\n\
         \x20 {CONNECTION}:\n\
         \x20   local: {{ address: {local}, id: {ours} }}\n\
         \x20   remote: {{ address: '{remote}', id: {theirs} }}\n\
         \x20   auth: {{ {auth} }}\n\
         \x20   ike: {{ {ike} }}\n\
         \x20   {more}\n\
         \x20   children: {{ lan: {{ {child} }} }}\n"
    )
}
