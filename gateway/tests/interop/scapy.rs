//! An independent peer: scapy's IPsec, over `cryptography`, opens what Spillway sends and seals what it
//! accepts. `peer.py` plays the peer gateway on the WAN and the hosts on the LAN; here is what it tries.
//!
//! Every suite of the data plane is in it but those that scapy has no primitive for: AES-XCBC, and GMAC in AH.

use std::fs;
use std::process::{Command, Stdio};

use dataplane::crypto::Suite;
use serde_json::{Value, json};

use crate::gateway::{Files, Gateway, count};
use crate::netns::{self, Namespace};
use crate::serial;

/// One pair of SAs between the gateway and the peer.
struct Case {
    suite: Suite,
    mode: Mode,
    outer: Family,
    esn: bool,
    udp: Option<(u16, u16)>,
}

#[derive(Clone, Copy, PartialEq)]
enum Mode {
    /// Carries both families inside.
    Tunnel,
    /// Between the gateway itself and the peer.
    Transport,
}

#[derive(Clone, Copy, PartialEq)]
enum Family {
    V4,
    V6,
}

const NAT: Option<(u16, u16)> = Some((4500, 4500));
/// A NAT has moved the peer to another port.
const NAT_MOVED: Option<(u16, u16)> = Some((4500, 31_337));

#[test]
fn scapy_and_spillway_understand_each_other_in_every_combined_mode_suite() {
    proves(suites(|suite| suite.is_aead() && !suite.is_ah()).flat_map(forms).collect());
}

#[test]
fn scapy_and_spillway_understand_each_other_in_every_suite_of_cipher_and_integrity() {
    proves(suites(|suite| !suite.is_aead() && !suite.is_ah()).flat_map(forms).collect());
}

#[test]
fn scapy_and_spillway_understand_each_other_in_every_ah_suite() {
    proves(suites(Suite::is_ah).flat_map(every_form).collect());
}

#[test]
fn scapy_and_spillway_understand_each_other_in_every_form_of_esp() {
    let few = ["aes128gcm16", "aes256-sha512", "null-sha256"];
    proves(few.iter().flat_map(|keyword| every_form(keyword.parse().unwrap())).collect());
}

/// Suites that are `wanted` and that scapy has the primitives for.
fn suites(wanted: impl Fn(Suite) -> bool) -> impl Iterator<Item = Suite> {
    let known = |suite: &Suite| {
        let keyword = suite.to_string();
        let ah_gmac = suite.is_ah() && keyword.ends_with("gmac");
        !keyword.ends_with("aesxcbc") && !ah_gmac
    };
    Suite::all().filter(known).filter(move |&suite| wanted(suite))
}

/// The forms that every suite is tried in: each family, mode, kind of sequence number and UDP once or twice.
fn forms(suite: Suite) -> Vec<Case> {
    use Family::*;
    use Mode::*;
    let case = |mode, outer, esn, udp| Case { suite, mode, outer, esn, udp };
    vec![
        case(Tunnel, V4, true, None),
        case(Tunnel, V6, false, NAT),
        case(Transport, V4, false, None),
        case(Transport, V6, true, None),
    ]
}

/// All forms: modes, outer families, ESN, and UDP ports for ESP.
fn every_form(suite: Suite) -> Vec<Case> {
    let mut cases = Vec::new();
    for mode in [Mode::Tunnel, Mode::Transport] {
        for outer in [Family::V4, Family::V6] {
            for esn in [true, false] {
                let ports: &[_] = if suite.is_ah() { &[None] } else { &[None, NAT, NAT_MOVED] };
                cases.extend(ports.iter().map(|&udp| Case { suite, mode, outer, esn, udp }));
            }
        }
    }
    cases
}

/// Runs all cases in one gateway.
fn proves(cases: Vec<Case>) {
    netns::privileged(&["python3"], || {
        if let Some(why) = scapy_is_missing() {
            return netns::skip("scapy", &why);
        }
        let _alone = serial();
        assert!(!cases.is_empty());
        let (inside, outside) = (Namespace::new(), Namespace::new());
        inside.join("wan0", &outside, "wan", 1, 1500);
        inside.join("lan0", &outside, "lan", 1, 1500);
        let mut files = Files::new();
        let plans: Vec<Value> = cases.iter().enumerate().map(|(i, case)| case.plan(i, &mut files)).collect();
        let sas: String = cases.iter().zip(&plans).map(|(case, plan)| case.yaml(plan)).collect();
        let gateway = Gateway::start(&inside, files, &format!("{GATEWAY}manual_sas:\n{sas}"));

        let plan =
            json!({ "wan_mac": mac(&gateway, "wan"), "lan_mac": mac(&gateway, "lan"), "cases": plans });
        let failures = run_peer(&outside, &gateway, &plan);
        assert!(
            failures.is_empty(),
            "{} cases failed: {failures:#?}\n{}",
            failures.len(),
            gateway.all_drops()
        );
        for (case, plan) in cases.iter().zip(&plans) {
            let name = plan["name"].as_str().unwrap();
            let drops = &gateway.sa(name, "inbound")["drops"];
            assert_eq!(*drops, json!({ "icv_bad": 1, "replay_duplicate": 1 }), "{name}");
            let carried = count(&gateway.sa(name, "outbound")["packets"]);
            assert!(carried >= case.fewest_packets(), "{name}: {carried}");
        }
    });
}

/// Has `peer.py` try all cases; what failed, and how.
fn run_peer(namespace: &Namespace, gateway: &Gateway, plan: &Value) -> Vec<String> {
    let path = gateway.files.path("plan.json");
    fs::write(&path, plan.to_string()).unwrap();
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/interop/peer.py");
    let run = || Command::new("python3").arg(script).arg(&path).stdin(Stdio::null()).output().unwrap();
    let output = namespace.run(run);
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "peer.py: {err}\n{}", gateway.log());
    let results: Vec<Value> = out.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(results.len(), plan["cases"].as_array().unwrap().len(), "{err}");
    let failed = results.iter().filter(|result| !result["error"].is_null());
    failed.map(|result| format!("{}: {}", result["name"], result["error"])).collect()
}

fn scapy_is_missing() -> Option<String> {
    let import =
        "import cryptography, scapy; assert tuple(map(int, scapy.__version__.split('.')[:2])) >= (2, 6)";
    let found = Command::new("python3").args(["-c", import]).stderr(Stdio::null()).status();
    let found = found.is_ok_and(|status| status.success());
    (!found).then(|| "python3 has no scapy 2.6 or newer with cryptography".to_owned())
}

fn mac(gateway: &Gateway, port: &str) -> Value {
    gateway.row("ports", |row| row["name"] == port)["mac"].clone()
}

const GATEWAY: &str = "\
workers: { cores: [1], control_core: 0 }
ports:
  wan: { driver: af_packet, device: wan0, addresses: [198.51.100.1/24, '2001:db8:1::1/64'] }
  lan: { driver: af_packet, device: lan0, addresses: [10.1.0.1/16, 'fd00:1::1/64'] }
routes: [ { to: 203.0.113.0/24, via: 198.51.100.2 } ]
";

impl Case {
    /// What the peer must know. Inner prefixes and transport addresses are each case's own.
    fn plan(&self, index: usize, files: &mut Files) -> Value {
        let (protocol, mode) = (self.protocol(), self.mode.keyword());
        let esn = if self.esn { "-esn" } else { "" };
        let udp = self.udp.map(|(_, remote)| format!("-udp{remote}")).unwrap_or_default();
        let outer = if self.outer == Family::V4 { 4 } else { 6 };
        let name = format!("{protocol}-{mode}{outer}-{}{esn}{udp}", self.suite);
        let (local, remote) = match (self.outer, self.mode) {
            (Family::V4, Mode::Tunnel) => ("198.51.100.1", "198.51.100.2".to_owned()),
            (Family::V4, Mode::Transport) => ("198.51.100.1", format!("203.0.113.{}", index + 1)),
            (Family::V6, Mode::Tunnel) => ("2001:db8:1::1", "2001:db8:1::2".to_owned()),
            (Family::V6, Mode::Transport) => ("2001:db8:1::1", format!("2001:db8:1::1:{index:x}")),
        };
        let mut sa = |direction: &str, base: usize| {
            let file = format!("{index}-{direction}.key");
            let key = files.new_key(&file, self.suite);
            json!({ "spi": base + index, "key": key, "file": file })
        };
        json!({
            "name": name, "protocol": protocol, "mode": mode, "suite": self.suite.to_string(),
            "esn": self.esn, "local": local, "remote": remote, "udp": self.udp,
            "out": sa("out", 0x10_0000), "in": sa("in", 0x20_0000),
            "inner": [
                { "local": "10.1.0.2", "remote": format!("10.100.{index}.2") },
                { "local": "fd00:1::2", "remote": format!("fd00:100:{index:x}::2") },
            ],
        })
    }

    fn yaml(&self, plan: &Value) -> String {
        let selectors = match self.mode {
            Mode::Transport => String::new(),
            Mode::Tunnel => {
                let prefix = |end: &Value, len| format!("'{}/{len}'", end.as_str().unwrap());
                let (v4, v6) = (&plan["inner"][0]["remote"], &plan["inner"][1]["remote"]);
                let remote = format!("[{}, {}]", prefix(v4, 32), prefix(v6, 128));
                format!(", selectors: {{ local: [10.1.0.0/16, 'fd00:1::/64'], remote: {remote} }}")
            }
        };
        let udp = self.udp.map_or(String::new(), |(local, remote)| {
            format!(", encap: {{ local_port: {local}, remote_port: {remote} }}")
        });
        let key = |sa: &Value| format!("{{ spi: {}, key_file: {} }}", sa["spi"], sa["file"]);
        format!(
            "  {}: {{ protocol: {}, mode: {}, suite: {}, esn: {}, local: '{}', remote: '{}', outbound: {}, \
             inbound: {}, allow_weak: [sha1, 3des]{udp}{selectors} }}\n",
            plan["name"].as_str().unwrap(),
            self.protocol(),
            self.mode.keyword(),
            self.suite,
            self.esn,
            plan["local"].as_str().unwrap(),
            plan["remote"].as_str().unwrap(),
            key(&plan["out"]),
            key(&plan["in"]),
        )
    }

    fn protocol(&self) -> &'static str {
        if self.suite.is_ah() { "ah" } else { "esp" }
    }

    /// The peer tries three sizes, in a tunnel of both inner families.
    fn fewest_packets(&self) -> u64 {
        if self.mode == Mode::Tunnel { 6 } else { 3 }
    }
}

impl Mode {
    fn keyword(self) -> &'static str {
        match self {
            Self::Tunnel => "tunnel",
            Self::Transport => "transport",
        }
    }
}
