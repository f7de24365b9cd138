//! What good configurations become.

use std::collections::HashSet;
use std::fmt::Write;
use std::time::Duration;

use crate::files::{Files, GOOD, hex};
use controlplane::auth::Identity;
use controlplane::config::{FloodLimits, PeerLimits};
use controlplane::wire::KeId;
use dataplane::crypto::EngineChoice;
use dataplane::message::Route;
use dataplane::policy::Selector;
use dataplane::sa::{DfPolicy, DscpPolicy, Fragmentation, Limits, Mode, MssClamp, Protocol, UdpPorts};
use dataplane::worker::WaitingLimits;
use gateway::config::{
    ClearAction, Config, Dpdk, Driver, HugePages, Idle, OnDown, OurProof, Rpf, Start, TheirProof, XdpMode,
};

const REFERENCE: &str = include_str!("../../../deploy/gateway.yaml");

/// The files that the reference configuration names.
fn reference_files() -> Files {
    let files = Files::new();
    files.secret("secrets/branch.psk", "correct horse battery staple\n");
    files.secret("secrets/lab-out.key", &hex(11, 20));
    files.secret("secrets/lab-in.key", &hex(12, 20));
    files
}

fn config(files: &Files, text: &str) -> Config {
    match files.parse(text) {
        Ok(loaded) => loaded.config,
        Err(error) => panic!("{error}"),
    }
}

#[test]
fn every_section_is_read() {
    let config = config(&Files::new(), GOOD);
    assert_eq!(config.gateway.name, "pop1");
    assert_eq!(config.gateway.metrics, Some("127.0.0.1:9464".parse().unwrap()));
    assert_eq!((config.workers.cores.as_slice(), config.workers.control_core), ([1, 2].as_slice(), 0));
    assert_eq!((config.workers.idle, config.workers.crypto), (Idle::Adaptive, EngineChoice::Auto));

    let wan = &config.ports["wan"];
    assert_eq!(wan.driver, Driver::AfPacket { device: "eth0".to_owned() });
    assert_eq!((wan.mtu, wan.vlan, wan.queues, wan.rpf), (1500, None, None, Rpf::Strict));
    assert_eq!(wan.addresses[0], "198.51.100.1/24".parse().unwrap());

    assert_eq!(config.gateway.state, Some("/var/lib/spillway".into()));

    let via = Some("198.51.100.254".parse().unwrap());
    assert_eq!(
        config.routes,
        [
            Route { to: "0.0.0.0/0".parse().unwrap(), port: Some(0), via },
            Route { to: "10.9.0.0/16".parse().unwrap(), port: Some(1), via: None }
        ]
    );
    assert_eq!(config.policies.len(), 1);
    assert_eq!(config.policies[0].action, ClearAction::Bypass);
}

#[test]
fn a_manual_sa_is_read_with_its_defaults() {
    let config = config(&Files::new(), GOOD);
    let lab = &config.manual_sas["lab"];
    assert_eq!((lab.options.mode, lab.options.protocol, lab.esn), (Mode::Tunnel, Protocol::Esp, true));
    assert_eq!(lab.suite.to_string(), "aes128gcm16");
    assert_eq!((lab.outbound.spi, lab.inbound.spi), (0x1001, 0x2001));
    assert_eq!(lab.outbound.key.expose().len(), 20);
    assert_ne!(lab.outbound.key.expose(), lab.inbound.key.expose());
    assert_eq!(lab.options.replay_window, Some(4096));
    assert_eq!(lab.options.outbound.ttl, 64);
    assert_eq!(lab.options.outbound.fragmentation, Fragmentation::Before);
    let between = |remote: &str| Selector::between("10.1.0.0/16".parse().unwrap(), remote.parse().unwrap());
    assert_eq!(lab.selectors, [between("10.3.0.0/16"), between("10.4.0.0/16")]);

    let far = &config.manual_sas["far"];
    let ends = Selector::between("2001:db8:1::1/128".parse().unwrap(), "2001:db8:1::9/128".parse().unwrap());
    assert_eq!(far.selectors, [ends], "transport mode is between the ends");
    assert_eq!(far.options.outbound.fragmentation, Fragmentation::After);
}

#[test]
fn a_connection_is_read_with_its_defaults() {
    let config = config(&Files::new(), GOOD);
    let branch = &config.connections["branch"];
    assert_eq!(branch.local.id, Identity::Fqdn("pop1.example.net".to_owned()));
    assert_eq!(branch.remote.address, Some("203.0.113.7".parse().unwrap()));
    assert!(
        matches!(&branch.auth.ours, OurProof::Psk(psk) if psk.expose() == b"correct horse battery staple")
    );
    assert!(
        matches!(&branch.auth.theirs, TheirProof::Psk(psk) if psk.expose() == b"correct horse battery staple")
    );
    assert_eq!(branch.ike.rekey, Duration::from_secs(4 * 3600));
    assert_eq!(branch.ike.dpd, Some(Duration::from_secs(30)));
    assert_eq!((branch.ike.reauth, branch.ike.mobike), (None, true));
    assert_eq!(branch.ike.proposals[0].key_exchanges().collect::<Vec<_>>(), [KeId::CURVE25519]);

    let lan = &branch.children["lan"];
    assert_eq!(lan.start, Start::Boot);
    let soft =
        Limits { time: Some(Duration::from_secs(3600)), bytes: Some(1_000_000_000_000), packets: None };
    let hard =
        Limits { time: Some(Duration::from_secs(3960)), bytes: Some(1_100_000_000_000), packets: None };
    assert_eq!((lan.lifetime.soft, lan.lifetime.hard), (soft, hard), "the hard limit is a tenth beyond");
}

#[test]
fn the_reference_configuration_is_good_and_shows_every_key() {
    let files = reference_files();
    let config = config(&files, REFERENCE);
    let lab = &config.manual_sas["lab"];
    assert_eq!(lab.encap, Some(UdpPorts { local: 4500, remote: 4500 }));
    assert_eq!(lab.options.outbound.df, DfPolicy::Copy);
    assert_eq!(lab.options.outbound.dscp, DscpPolicy::Copy);
    assert_eq!(lab.options.outbound.mss_clamp, Some(MssClamp::PathMtu));
    assert_eq!(lab.lifetime.hard.packets, Some(1_000_000_000_000));
    assert_eq!(
        config.ports["lan"].driver,
        Driver::AfXdp { device: "eth1".to_owned(), share: false, mode: XdpMode::Auto }
    );

    // Whatever key a section accepts is named when an unknown one is used: each must stand in the reference.
    let places = [
        "gateway",
        "log",
        "workers",
        "ike",
        "ike.limits",
        "ike.retransmit",
        "ports.wan",
        "connections.branch",
        "connections.branch.auth",
        "manual_sas.lab",
    ];
    for place in places {
        let mut value: serde_yaml::Value = serde_yaml::from_str(REFERENCE).unwrap();
        let mapping = place.split('.').fold(&mut value, |mapping, key| &mut mapping[key]);
        mapping["zzzzzzzzzzzz"] = 1.into();
        let messages = files.messages(&serde_yaml::to_string(&value).unwrap());
        let unknown = messages.iter().find(|line| line.contains("expected one of")).unwrap();
        let keys = unknown.split("expected one of ").nth(1).unwrap();
        for key in keys.split(", ") {
            assert!(REFERENCE.contains(&format!("{key}:")), "the reference does not show `{key}` of {place}");
        }
    }
}

#[test]
fn limits_and_retransmission_have_defaults_and_can_be_set() {
    let files = Files::new();
    let settings = |text: &str| config(&files, &format!("{GOOD}{text}")).ike;
    assert_eq!(settings(""), Default::default());
    let text = "ike: { limits: { ike_sas: 60000, eap_timeout: 5m, eap_packets: 30, eap_message: 1MiB, message: 32KiB, \
        fragments: 99, payloads: 99, proposals: 9, identity: 300, name_comparisons: 5, puzzle_threshold: 500, puzzle_difficulty: 9, puzzle_difficulty_max: 10, puzzle_unsolved_per_second: 0, puzzle_solve: 28, answers_per_second: 0, queue: 99, first_request: 3000, log_lines_per_second: 7, child_sas: 9999, children: 9, policies: 10, followups: 2, \
        narrowed: 3, left_out: 5, left_out_pause: 90s, \
        followup_timeout: 5s, followup_retries: 3, addresses: 4, init_attempts: 7, shortest_reauth: 1m, remembered_addresses: 0, \
        acquire_pause: 1s, acquire_queue: 64, acquire_queue_per_tunnel: 8, acquire_flows: 3, acquire_timeout: 1s } }";
    let gateway::config::Limits { flood, peers, waiting } = settings(text).limits;
    let seconds = Duration::from_secs;
    let expected = FloodLimits {
        ike_sas: 60_000,
        eap_timeout: seconds(300),
        eap_packets: 30,
        eap_message: 1 << 20,
        message: 32 << 10,
        fragments: 99,
        payloads: 99,
        proposals: 9,
        identity: 300,
        name_comparisons: 5,
        puzzle_threshold: Some(500),
        puzzle_difficulty: 9,
        puzzle_difficulty_max: 10,
        puzzle_unsolved_per_second: 0,
        puzzle_solve: 28,
        answers_per_second: 0,
        queue: 99,
        first_request: 3000,
        log_lines_per_second: 7,
        ..FloodLimits::default()
    };
    assert_eq!(flood, expected);
    let expected = PeerLimits {
        child_sas: 9999,
        children: 9,
        policies: 10,
        narrowed: 3,
        left_out: 5,
        left_out_pause: seconds(90),
        followups: 2,
        followup_timeout: seconds(5),
        followup_retries: 3,
        addresses: 4,
        shortest_reauth: seconds(60),
        init_attempts: 7,
        acquire_pause: seconds(1),
        remembered_addresses: 0,
    };
    assert_eq!(peers, expected);
    assert_eq!(settings("ike: { limits: { puzzle_threshold: off } }").limits.flood.puzzle_threshold, None);
    assert_eq!(waiting, WaitingLimits { all: 64, each: 8, flows: 3, patience: seconds(1) });
    let text = "ike: { retransmit: { initial: 200ms, tries: 3, factor: 1 }, limits: { cookie_threshold: 0, half_open: 7 } }";
    let ike = settings(text);
    assert_eq!((ike.retransmit.initial, ike.retransmit.tries), (Duration::from_millis(200), 3));
    assert_eq!((ike.retransmit.factor, ike.retransmit.max), (1.0, Duration::from_secs(32)));
    assert_eq!(
        (
            ike.limits.flood.cookie_threshold,
            ike.limits.flood.half_open,
            ike.limits.flood.half_open_per_address
        ),
        (0, 7, 4096)
    );
}

#[test]
fn a_gateway_for_roadwarriors_is_read() {
    let text = GOOD
        .replace("remote: [10.2.0.0/16]", "remote: dynamic")
        .replace("start: boot", "start: wait")
        .replace("address: 203.0.113.7", "address: any")
        .replace(
            "    children:",
            "    pools: [mobile]\n    dns: 10.1.0.53\n    subnets: [10.1.0.0/16]\n    children:",
        );
    let config = config(&Files::new(), &format!("{text}pools: {{ mobile: 10.9.0.0/24 }}\n"));
    assert_eq!(config.pools["mobile"].0, "10.9.0.0/24".parse().unwrap());
    let branch = &config.connections["branch"];
    assert_eq!((branch.pools.as_slice(), branch.dns.len()), (["mobile".to_owned()].as_slice(), 1));
    assert_eq!(branch.subnets, ["10.1.0.0/16".parse().unwrap()]);
    let lan = &branch.children["lan"];
    assert_eq!(
        (lan.selectors.len(), lan.behind.as_slice()),
        (0, ["10.1.0.0/16".parse().unwrap()].as_slice())
    );
}

/// The connection of [`GOOD`] with another `auth`, whose children wait.
fn auth(auth: &str) -> (OurProof, TheirProof) {
    let text = GOOD.replace("start: boot", "start: wait").replace("psk_file: branch.psk", auth);
    let files = Files::new();
    files.secret("users", "carol: secret\n");
    let auth = config(&files, &text).connections["branch"].auth.clone();
    (auth.ours, auth.theirs)
}

#[test]
fn every_way_of_authentication_is_read() {
    let own = "cert: cert.pem, key: branch.psk";
    let (ours, theirs) = auth(&format!("{own}, ca: cert.pem, crl: cert.pem"));
    assert!(matches!(ours, OurProof::Certificate(_)));
    assert!(matches!(theirs, TheirProof::Authorities(ca) if ca.crl.is_some()));
    let (ours, theirs) = auth(&format!("{own}, peer_cert: cert.pem"));
    assert!(matches!((ours, theirs), (OurProof::Certificate(_), TheirProof::Certificate(_))));
    let (ours, theirs) = auth("key: branch.psk, peer_key: cert.pem");
    assert!(matches!((ours, theirs), (OurProof::RawKey(_), TheirProof::RawKey(_))));
    let (ours, theirs) = auth(&format!("{own}, eap_users: users"));
    assert!(matches!(ours, OurProof::Certificate(_)));
    assert!(matches!(theirs, TheirProof::Eap { users: Some(_), tls: None }));
    let (ours, theirs) = auth(&format!("{own}, eap_users: users, eap_ca: cert.pem"));
    assert!(matches!(ours, OurProof::Certificate(_)));
    assert!(matches!(theirs, TheirProof::Eap { users: Some(_), tls: Some(_) }));
    let (ours, theirs) = auth(&format!("{own}, eap_ca: cert.pem, eap_only: true"));
    assert!(matches!((ours, theirs), (OurProof::EapOnly, TheirProof::Eap { users: None, tls: Some(_) })));
    let (ours, theirs) = auth("ca: cert.pem, eap_user: carol, eap_password_file: branch.psk");
    assert!(matches!((ours, theirs), (OurProof::EapPassword { .. }, TheirProof::Authorities(_))));
    let client = "ca: cert.pem, eap_cert: cert.pem, eap_key: branch.psk";
    let (ours, theirs) = auth(client);
    assert!(matches!((ours, theirs), (OurProof::EapTls(..), TheirProof::Authorities(_))));
    let (ours, theirs) = auth(&format!("{client}, eap_only: true"));
    assert!(matches!((ours, theirs), (OurProof::EapTls(..), TheirProof::EapOnly)));
}

#[test]
fn who_proves_nothing_is_nobody_and_that_is_said() {
    let files = Files::new();
    let nobody = "id: \"%null\"";
    let text = GOOD
        .replace("psk_file: branch.psk", "cert: cert.pem, key: branch.psk, null_auth: peer")
        .replace("id: branch.example.net", nobody);
    let branch = config(&files, &text).connections["branch"].clone();
    assert!(matches!(branch.auth.theirs, TheirProof::Null));
    let messages = files.messages(&text);
    let warning = "gateway.yaml:21:5: warning: connections.branch.auth: whoever comes is let in as the peer, and nobody knows who it is (RFC 7619)";
    assert!(messages.iter().any(|line| line == warning), "{messages:#?}");
    // From anywhere: nobody may choose whose traffic it gets.
    let anywhere = text.replace("address: 203.0.113.7", "address: any").replace("start: boot", "start: wait");
    let error = "gateway.yaml:21:5: error: connections.branch.auth: anybody could claim the traffic of the child lan, expected `remote: dynamic` in it";
    let messages = files.messages(&anywhere);
    assert!(messages.iter().any(|line| line == error), "{messages:#?}");
    config(&files, &anywhere.replace("remote: [10.2.0.0/16]", "remote: dynamic"));
    let both = GOOD
        .replace("psk_file: branch.psk", "null_auth: both")
        .replace("id: branch.example.net", nobody)
        .replace("id: pop1.example.net", nobody);
    let branch = config(&files, &both).connections["branch"].clone();
    assert!(matches!((branch.auth.ours, branch.auth.theirs), (OurProof::Null, TheirProof::Null)));
}

#[test]
fn a_second_uplink_is_read() {
    let files = Files::new();
    let text = GOOD
        .replace("local: { address: 198.51.100.1,", "local: { address: [198.51.100.1, 192.0.2.1],")
        .replace("  lan:\n    driver", "  lte: { driver: tap, device: lte0, addresses: [192.0.2.1/24] }\n  lan:\n    driver")
        .replace("routes:\n", "routes:\n  - { to: 10.8.0.0/16, via: 198.51.100.254 }\n  - { to: 10.8.0.0/16, via: 192.0.2.254 }\n");
    let config = config(&files, &text);
    let addresses: Vec<_> =
        config.connections["branch"].local.addresses().map(|one| one.to_string()).collect();
    assert_eq!(addresses, ["198.51.100.1", "192.0.2.1"]);
    let ports: Vec<_> = config.routes.iter().map(|route| route.port).collect();
    assert_eq!(ports, [Some(0), Some(1), Some(0), Some(2)], "in the order of preference");
    let transport = text.replace("local: [10.1.0.0/16]\n        remote: [10.2.0.0/16]", "mode: transport");
    let messages = files.messages(&transport);
    let error = "connections.branch: the child lan is in transport mode, which is between two addresses: expected one in `local` and `remote`";
    assert!(messages.iter().any(|line| line.ends_with(error)), "{messages:#?}");
}

#[test]
fn a_child_may_have_the_address_that_the_peer_gives() {
    let files = Files::new();
    let text = GOOD
        .replace("local: [10.1.0.0/16]", "local: assigned")
        .replace("remote: [10.2.0.0/16]", "remote: [10.2.0.0/16, \"2001:db8:2::/48\"]");
    let lan = config(&files, &text).connections["branch"].children["lan"].clone();
    assert!(lan.selectors.is_empty() && lan.behind.is_empty());
    assert_eq!(lan.assigned, ["10.2.0.0/16".parse().unwrap(), "2001:db8:2::/48".parse().unwrap()]);
    for (from, to, error) in [
        (
            "start: boot",
            "start: traffic",
            "gateway.yaml:32:9: error: connections.branch.children.lan.start: found traffic, expected boot or wait: with `local: assigned` no packet is ours before the peer gave us an address",
        ),
        (
            "start: boot",
            "start: boot\n        mode: transport",
            "gateway.yaml:33:9: error: connections.branch.children.lan.mode: found transport, expected tunnel with `local: assigned`",
        ),
        (
            "remote: [10.2.0.0/16, \"2001:db8:2::/48\"]",
            "remote: dynamic",
            "gateway.yaml:29:9: error: connections.branch.children.lan.remote: found dynamic, expected prefixes with `local: assigned`",
        ),
        (
            "address: 203.0.113.7",
            "address: any",
            "gateway.yaml:20:5: error: connections.branch.remote: with `local: assigned` in the child lan only we can start, expected an address",
        ),
    ] {
        assert!(text.contains(from), "{from}");
        let messages = files.messages(&text.replace(from, to));
        assert!(messages.iter().any(|line| line == error), "{error}\nnot in {messages:#?}");
    }
}

#[test]
fn what_happens_when_a_child_goes_down_follows_from_its_start() {
    let files = Files::new();
    let on_down = |text: &str| config(&files, text).connections["branch"].on_down;
    assert_eq!(on_down(GOOD), OnDown::Restart);
    let wait = GOOD.replace("start: boot", "start: wait");
    assert_eq!(on_down(&wait), OnDown::Clear);
    assert_eq!(
        on_down(&wait.replace("    children:", "    on_down: restart\n    children:")),
        OnDown::Restart
    );
}

#[test]
fn warnings_do_not_refuse() {
    let files = Files::new();
    let cases = [
        (
            "127.0.0.1:9464",
            "0.0.0.0:9464",
            "gateway.yaml:1:68: warning: gateway.metrics: is open to the network, without authentication; 127.0.0.1 is not",
        ),
        (
            "cores: [1, 2]",
            "cores: [1, 9]",
            "gateway.yaml:3:23: warning: workers.cores[1]: this machine has no core 9, only 0, 1, 2, 3; `spillway run` refuses it here",
        ),
        (
            "control_core: 0",
            "control_core: 1",
            "gateway.yaml:3:27: warning: workers.control_core: core 1 is a worker's too: both will wait",
        ),
        (
            "  - { to: 0.0.0.0/0, via: 198.51.100.254 }\n",
            "",
            "gateway.yaml:19:15: warning: connections.branch.remote.address: no route leads to 203.0.113.7",
        ),
        (
            "[aes128gcm16-esn]",
            "[aes128-sha1, 3des-sha1]\n        allow_weak: [sha1, 3des]",
            "gateway.yaml:30:21: warning: connections.branch.children.lan.proposals[0]: SHA-1 is broken for signatures and on its way out for HMAC (RFC 8221 s6); it is used because `allow_weak` names it",
        ),
    ];
    for (from, to, expected) in cases {
        assert!(GOOD.contains(from), "{from}");
        let text = GOOD.replacen(from, to, 1);
        config(&files, &text);
        let messages = files.messages(&text);
        assert!(messages.iter().any(|line| line == expected), "{expected}\nnot in {messages:#?}");
    }
    let manual = files.messages(GOOD);
    assert_eq!(manual.len(), 1, "{manual:#?}");
    assert!(manual[0].starts_with("gateway.yaml:33:1: warning: manual_sas: keys that are set by hand"));
    assert!(manual[0].contains("sequence numbers are kept in /var/lib/spillway; when that is lost"));
    let stateless = files.messages(&GOOD.replace("name: pop1", "name: pop1, state: off"));
    assert!(stateless[0].contains("start again at 1 with every start"), "{stateless:#?}");
}

#[test]
fn state_has_a_directory_or_is_off() {
    let files = Files::new();
    let state = |text: &str| {
        config(&files, &GOOD.replace("name: pop1", &format!("name: pop1, state: {text}"))).gateway.state
    };
    assert_eq!(state("off"), None);
    assert_eq!(state("state"), Some(files.path().join("state")));
    assert_eq!(state("/srv/spillway"), Some("/srv/spillway".into()));
}

#[test]
fn implicit_ivs_need_state() {
    let files = Files::new();
    let text = GOOD.replace("suite: aes128gcm16", "suite: aes128gcm16iiv");
    assert_eq!(config(&files, &text).manual_sas["lab"].suite.to_string(), "aes128gcm16iiv");
    let messages = files.messages(&text.replace("name: pop1", "name: pop1, state: off"));
    let expected = "gateway.yaml:36:5: error: manual_sas.lab.suite: the IVs of aes128gcm16iiv are sequence numbers \
                    (RFC 8750 s2), which start again with every start: `gateway.state` is off";
    assert!(messages.iter().any(|line| line == expected), "{messages:#?}");
}

#[test]
fn keepalives_and_dummies_have_their_places() {
    let files = Files::new();
    let lab = |options: &str| {
        let text = GOOD.replace("suite: aes128gcm16", &format!("suite: aes128gcm16\n    {options}"));
        let outbound = config(&files, &text).manual_sas["lab"].options.outbound.clone();
        (outbound.keepalive, outbound.dummy)
    };
    let seconds = |seconds| Some(Duration::from_secs(seconds));
    assert_eq!(lab("encap: {}"), (seconds(20), None), "RFC 3948 s4");
    assert_eq!(lab("ttl: 64"), (None, None), "no keepalive without a NAT to keep");
    assert_eq!(lab("encap: {}\n    keepalive: off"), (None, None));
    assert_eq!(lab("encap: {}\n    keepalive: 1m\n    dummy: 1s"), (seconds(60), seconds(1)));
    assert_eq!(lab("dummy: off"), (None, None));
    let lan = config(&files, GOOD).connections["branch"].children["lan"].options.clone();
    assert_eq!(lan.outbound.keepalive, seconds(20), "where IKE finds a NAT");
}

#[test]
fn anchors_and_merges_work() {
    let text = "\
ports:
  wan: &port { driver: tap, device: a, rpf: off, mtu: 9000 }
  lan: { <<: *port, device: b, mtu: 1400 }
";
    let config = config(&Files::new(), text);
    let lan = &config.ports["lan"];
    assert_eq!(lan.driver, Driver::Tap { device: "b".to_owned() });
    assert_eq!((lan.rpf, lan.mtu), (Rpf::Off, 1400));
}

/// What the README shows is what people copy.
#[test]
fn the_first_configuration_of_the_readme_is_good() {
    let readme = include_str!("../../../README.md");
    let text = readme.split("```yaml\n").nth(1).unwrap().split("```").next().unwrap();
    let config = config(&Files::new(), text);
    assert_eq!(config.ports.keys().collect::<Vec<_>>(), ["wan", "lan"]);
    let branch = &config.connections["branch"];
    assert_eq!((branch.remote.address, branch.children.len()), (Some("203.0.113.7".parse().unwrap()), 1));
}

#[test]
fn every_driver_is_read() {
    let text = "\
ports:
  a: { driver: af_xdp, device: eth0, share: true, mode: zero-copy, queues: 1, vlan: 7 }
  b: { driver: pcap, read: in.pcap }
  c: { driver: pcap, write: /tmp/out.pcap }
";
    let files = Files::new();
    let config = config(&files, text);
    let xdp = Driver::AfXdp { device: "eth0".to_owned(), share: true, mode: XdpMode::ZeroCopy };
    assert_eq!(config.ports["a"].driver, xdp);
    assert_eq!((config.ports["a"].queues, config.ports["a"].vlan), (Some(1), Some(7)));
    let read = Some(files.path().join("in.pcap"));
    assert_eq!(config.ports["b"].driver, Driver::Pcap { read, write: None });
    let write = Some("/tmp/out.pcap".into());
    assert_eq!(config.ports["c"].driver, Driver::Pcap { read: None, write });
}

#[cfg(not(feature = "dpdk"))]
#[test]
fn dpdk_needs_its_feature() {
    let text = "ports: { a: { driver: dpdk, device: '0000:65:00.0' } }";
    let expected = "gateway.yaml:1:15: error: ports.a.driver: dpdk needs the feature `dpdk`, which this build lacks: build with `--features dpdk` (`make dpdk`), or use af_xdp or af_packet";
    assert_eq!(Files::new().messages(text), [expected]);
}

#[cfg(feature = "dpdk")]
#[test]
fn dpdk_is_read() {
    let config = config(&Files::new(), "ports: { a: { driver: dpdk, device: '0000:65:00.0' } }");
    let device = "0000:65:00.0".to_owned();
    assert_eq!(config.ports["a"].driver, Driver::Dpdk { device, descriptors: 1024 });
}

#[test]
fn what_dpdk_ports_share_is_read() {
    let files = Files::new();
    let port = "ports: { a: { driver: tap, device: a } }\n";
    assert_eq!(
        config(&files, port).dpdk,
        Dpdk { huge_pages: HugePages::Auto, memory: 512 << 20, eal: Vec::new() }
    );
    let text = "dpdk: { huge_pages: none, memory: 64MiB, eal: [--log-level=8] }\n";
    let expected =
        Dpdk { huge_pages: HugePages::None, memory: 64 << 20, eal: vec!["--log-level=8".to_owned()] };
    assert_eq!(config(&files, &format!("{port}{text}")).dpdk, expected);
    let messages = files.messages(&format!("{port}dpdk: {{ memory: 1MB, eal: ['-l 3'] }}"));
    assert_eq!(
        messages,
        [
            "gateway.yaml:2:9: error: dpdk.memory: expected 16MiB or more",
            "gateway.yaml:2:28: error: dpdk.eal[0]: found \"-l 3\", expected one argument of EAL without blanks, such as --log-level=lib.eal:8",
        ]
    );
}

/// 20,000 SAs with 40,000 key files, and as many policies. A step that is quadratic in their number would keep
/// this test busy for many minutes.
#[test]
fn twenty_thousand_sas_are_loaded() {
    const SAS: u32 = 20_000;
    let files = Files::many();
    let mut text = String::from(
        "ports: { wan: { driver: tap, device: a, addresses: [198.51.100.1/24] } }\n\
         routes: [ { to: 0.0.0.0/0, via: 198.51.100.254 } ]\nmanual_sas:\n",
    );
    let mut policies = String::from("policies:\n");
    for n in 0..SAS {
        let (high, low) = (n / 256, n % 256);
        for (seed, direction) in [(2 * n, "out"), (2 * n + 1, "in")] {
            files.secret(&format!("{direction}{n}"), &hex(1 + u64::from(seed), 20));
        }
        let (out_spi, in_spi) = (0x1_0000 + n, 0x2_0000 + n);
        writeln!(
            text,
            "  sa{n}: {{ suite: aes128gcm16, local: 198.51.100.1, remote: 203.0.{high}.{low}, \
             outbound: {{ spi: {out_spi}, key_file: out{n} }}, inbound: {{ spi: {in_spi}, key_file: in{n} }}, \
             selectors: {{ local: 10.0.0.0/16, remote: 10.{}.{low}.0/24 }} }}",
            1 + high
        )
        .unwrap();
        writeln!(
            policies,
            "  - {{ action: discard, local: 10.0.0.0/16, remote: 10.{}.{low}.1/32 }}",
            1 + high
        )
        .unwrap();
    }
    let config = config(&files, &(text.clone() + &policies));
    assert_eq!(config.manual_sas.len(), SAS as usize);
    assert_eq!(config.policies.len(), SAS as usize);
    let keys: HashSet<_> = config.manual_sas.values().map(|sa| sa.outbound.key.expose().to_vec()).collect();
    assert_eq!(keys.len(), SAS as usize);

    // The same with a mistake in every SA: finding the line of each must not be quadratic either.
    let wrong = text.replace("suite: aes128gcm16", "suite: aes128gcm17") + &policies;
    let Err(gateway::config::LoadError::Invalid(problems)) = files.parse(&wrong) else { panic!("accepted") };
    assert_eq!(problems.len(), SAS as usize);
    assert!(problems.iter().enumerate().all(|(n, (position, _))| position.unwrap().line == n + 4));
    assert!(problems.to_string().ends_with("gateway.yaml: and 19800 more problems"));
}
