//! What an operator is told about a configuration that is wrong: whole messages, with line and column.
//!
//! Each case changes one place of a good configuration, so that its table row shows what is wrong and what is
//! said, and nothing else.

use crate::files::{Files, GOOD};

/// A change of the good configuration (the first text, where it stands first, by the second), and what is said.
type Case = (&'static str, &'static str, &'static [&'static str]);

#[rustfmt::skip]
const KEYS: &[Case] = &[
    ("    mtu: 1500", "    mtuu: 1500",
        &["gateway.yaml:8:5: error: ports.wan.mtuu: unknown key; did you mean `mtu`?"]),
    ("policies:", "polices:",
        &["gateway.yaml:49:1: error: polices: unknown key; did you mean `policies`?"]),
    ("rekey: 4h", "colour: blue",
        &["gateway.yaml:24:7: error: connections.branch.ike.colour: unknown key; expected one of proposals, rekey, reauth, mobike, dpd, encapsulation"]),
    ("rekey: 4h", "reauth: 1m",
        &["gateway.yaml:24:7: error: connections.branch.ike.reauth: found 1m, expected 5m to 7days"]),
    ("    device: eth0\n", "",
        &["gateway.yaml:5:3: error: ports.wan.device: missing, expected the name of an interface: up to 15 characters, no `/`, `:` or space"]),
    ("    suite: aes128gcm16\n", "",
        &["gateway.yaml:34:3: error: manual_sas.lab.suite: missing, expected a suite such as aes128gcm16 or aes256-sha256"]),
    ("outbound: { spi: 0x1001, key_file: out.key }", "outbound: { key_file: out.key }",
        &["gateway.yaml:39:5: error: manual_sas.lab.outbound.spi: missing, expected an SPI from 0x100 to 0xffffffff: 0 to 255 are reserved (RFC 4303 s2.1)"]),
    ("  far:", "  lab:",
        &["gateway.yaml:42:3: error: manual_sas.lab: the key is there twice, first in line 34"]),
    ("  far:", "  \"far off\":",
        &["gateway.yaml:42:3: error: manual_sas.\"far off\": found the name \"far off\", expected up to 64 letters, digits, `-`, `_` or `.`"]),
    ("  far:", "  7:",
        &["gateway.yaml:33:1: error: manual_sas: found the key 7, expected a name (put it in quotes)"]),
];

#[rustfmt::skip]
const VALUES: &[Case] = &[
    ("mtu: 1500", "mtu: 70000",
        &["gateway.yaml:8:5: error: ports.wan.mtu: found 70000, expected a number of bytes from 576 to 9216"]),
    ("mtu: 1500", "mtu: big",
        &["gateway.yaml:8:5: error: ports.wan.mtu: found \"big\", expected a number of bytes from 576 to 9216"]),
    ("mtu: 1500", "mtu: 1000",
        &["gateway.yaml:8:5: error: ports.wan.mtu: found 1000, expected 1280 or more for IPv6 (RFC 8200 s5)"]),
    ("mtu: 1500", "vlan: 4095",
        &["gateway.yaml:8:5: error: ports.wan.vlan: found 4095, expected a VLAN from 1 to 4094"]),
    ("mtu: 1500", "rpf: loose",
        &["gateway.yaml:8:5: error: ports.wan.rpf: found \"loose\", expected strict or off"]),
    ("name: pop1", "name: 1",
        &["gateway.yaml:1:12: error: gateway.name: found 1, expected text (put it in quotes)"]),
    ("127.0.0.1:9464", "localhost:9464",
        &["gateway.yaml:1:68: error: gateway.metrics: found \"localhost:9464\", expected an address and port such as \"127.0.0.1:9464\""]),
    ("level: info", "level: verbose",
        &["gateway.yaml:2:8: error: log.level: found \"verbose\", expected error, warn, info, debug or trace"]),
    ("idle: adaptive", "idle: adaptiv",
        &["gateway.yaml:3:44: error: workers.idle: found \"adaptiv\", expected spin or adaptive; did you mean `adaptive`?"]),
    ("cores: [1, 2]", "cores: [1, 1]",
        &["gateway.yaml:3:23: error: workers.cores[1]: core 1 is there twice"]),
    ("cores: [1, 2]", "cores: []",
        &["gateway.yaml:3:12: error: workers.cores: found an empty list, expected a core"]),
    ("cores: [1, 2]", "cores: [one]",
        &["gateway.yaml:3:20: error: workers.cores[0]: found \"one\", expected the number of a core from 0 to 8191"]),
    ("rekey: 4h", "rekey: 4",
        &["gateway.yaml:24:7: error: connections.branch.ike.rekey: found 4, expected a duration such as 30s, 10m or 4h"]),
    ("rekey: 4h", "rekey: 10s",
        &["gateway.yaml:24:7: error: connections.branch.ike.rekey: found 10s, expected 5m to 7days"]),
    ("bytes: 1TB", "bytes: 1 potato",
        &["gateway.yaml:31:28: error: connections.branch.children.lan.rekey.bytes: found \"1 potato\", expected a size such as 512MB, 1TB or 1TiB"]),
    ("start: boot", "start: now",
        &["gateway.yaml:32:9: error: connections.branch.children.lan.start: found \"now\", expected boot, traffic or wait"]),
];

#[rustfmt::skip]
const PORTS: &[Case] = &[
    ("driver: tap", "driver: tab",
        &["gateway.yaml:11:5: error: ports.lan.driver: found \"tab\", expected af_packet, af_xdp, tap, pcap or dpdk; did you mean `tap`?"]),
    ("driver: tap", "driver: pcap",
        &["gateway.yaml:12:5: error: ports.lan.device: driver pcap has no device, expected `read` and `write`"]),
    ("driver: tap\n    device: lan0", "driver: pcap",
        &["gateway.yaml:10:3: error: ports.lan.read: missing: driver pcap needs a file to `read`, to `write`, or both"]),
    ("device: lan0", "device: lan0\n    read: in.pcap",
        &["gateway.yaml:13:5: error: ports.lan.read: only driver pcap has this"]),
    ("mtu: 1500", "share: true",
        &["gateway.yaml:8:5: error: ports.wan.share: only driver af_xdp has this"]),
    ("device: lan0", "device: eth0",
        &["gateway.yaml:12:5: error: ports.lan.device: eth0 is the device of port wan already"]),
    ("device: lan0", "device: a-very-long-name",
        &["gateway.yaml:12:5: error: ports.lan.device: found \"a-very-long-name\", expected the name of an interface: up to 15 characters, no `/`, `:` or space"]),
    ("device: lan0", "device: lan0\n    queues: 3",
        &["gateway.yaml:13:5: error: ports.lan.queues: found 3, expected 2: one for each of `workers.cores`; it may be left out"]),
    ("device: lan0", "device: lan0\n    queues: 1",
        &["gateway.yaml:13:5: error: ports.lan.queues: found 1, expected 2: one for each of `workers.cores`; it may be left out"]),
    ("[10.1.0.1/16]", "[10.1.0.1]",
        &["gateway.yaml:13:17: error: ports.lan.addresses[0]: found \"10.1.0.1\", expected an address with its prefix length such as 192.0.2.1/24"]),
    ("[10.1.0.1/16]", "[10.1.0.0/16]",
        &["gateway.yaml:13:17: error: ports.lan.addresses[0]: 10.1.0.0 is the network itself, expected an address in 10.1.0.0/16"]),
    ("[10.1.0.1/16]", "[10.1.255.255/16]",
        &["gateway.yaml:13:17: error: ports.lan.addresses[0]: 10.1.255.255 is the broadcast address of 10.1.0.0/16"]),
    ("[10.1.0.1/16]", "[10.1.0.1/16, 224.0.0.1/4]",
        &["gateway.yaml:13:30: error: ports.lan.addresses[1]: 224.0.0.1 cannot be an interface's address, expected a unicast one"]),
    ("[10.1.0.1/16]", "[10.1.0.1/16, 198.51.100.1/32]",
        &["gateway.yaml:13:30: error: ports.lan.addresses[1]: 198.51.100.1 is on port wan already"]),
    ("[10.1.0.1/16]", "[10.1.0.1/16, 198.51.100.129/25]",
        &["gateway.yaml:13:30: error: ports.lan.addresses[1]: 198.51.100.128/25 overlaps 198.51.100.0/24, the link of port wan"]),
];

#[rustfmt::skip]
const ROUTES: &[Case] = &[
    ("to: 10.9.0.0/16, port: lan", "to: 10.9.0.0/16",
        &["gateway.yaml:16:5: error: routes[1]: a route needs a next hop (`via`), a `port`, or both"]),
    ("to: 10.9.0.0/16", "to: 10.9.0.1/16",
        &["gateway.yaml:16:7: error: routes[1].to: 10.9.0.1/16 has host bits set, expected 10.9.0.0/16"]),
    ("to: 10.9.0.0/16", "to: 10.9.0.1",
        &["gateway.yaml:16:7: error: routes[1].to: found \"10.9.0.1\", expected a prefix: 10.9.0.1/32"]),
    ("to: 10.9.0.0/16", "to: 10.1.0.0/16",
        &["gateway.yaml:16:7: error: routes[1].to: 10.1.0.0/16 is the link of port lan already"]),
    ("to: 10.9.0.0/16, port: lan", "to: 0.0.0.0/0, via: 198.51.100.253",
        &["gateway.yaml:16:7: error: routes[1].to: 0.0.0.0/0 is routed by routes[0] by the same port already"]),
    ("port: lan }", "port: len }",
        &["gateway.yaml:16:24: error: routes[1].port: there is no port \"len\"; did you mean `lan`?"]),
    ("via: 198.51.100.254", "via: 192.0.2.1",
        &["gateway.yaml:15:22: error: routes[0].via: the next hop 192.0.2.1 is on no port's link"]),
    ("via: 198.51.100.254", "via: 198.51.100.1",
        &["gateway.yaml:15:22: error: routes[0].via: the next hop 198.51.100.1 is an address of our own"]),
    ("via: 198.51.100.254", "via: 198.51.100.254, port: lan",
        &["gateway.yaml:15:22: error: routes[0].via: the next hop 198.51.100.254 is not on the link of port lan"]),
    ("via: 198.51.100.254", "via: fe80::1",
        &["gateway.yaml:15:5: error: routes[0]: the next hop fe80::1 is not of the address family of 0.0.0.0/0"]),
    ("to: 0.0.0.0/0, via: 198.51.100.254", "to: \"::/0\", via: fe80::1",
        &["gateway.yaml:15:19: error: routes[0].via: fe80::1 is link-local: the route needs a `port` too"]),
];

#[rustfmt::skip]
const SAS: &[Case] = &[
    ("spi: 0x1001", "spi: 255",
        &["gateway.yaml:39:17: error: manual_sas.lab.outbound.spi: found 255, expected an SPI from 0x100 to 0xffffffff: 0 to 255 are reserved (RFC 4303 s2.1)"]),
    ("spi: 0x2002", "spi: 0x2001",
        &["gateway.yaml:48:16: error: manual_sas.far.inbound.spi: 0x2001 is the inbound SPI of lab already"]),
    ("local: 198.51.100.1\n    remote: 203.0.113.9", "local: 198.51.100.2\n    remote: 203.0.113.9",
        &["gateway.yaml:37:5: error: manual_sas.lab.local: 198.51.100.2 is on no port"]),
    ("remote: 203.0.113.9", "remote: 10.1.0.1",
        &["gateway.yaml:38:5: error: manual_sas.lab.remote: 10.1.0.1 is an address of our own"]),
    ("remote: 203.0.113.9", "remote: \"2001:db8::9\"",
        &["gateway.yaml:38:5: error: manual_sas.lab.remote: 2001:db8::9 is not of the address family of `local`, 198.51.100.1"]),
    ("remote: 203.0.113.9", "remote: 255.255.255.255",
        &["gateway.yaml:38:5: error: manual_sas.lab.remote: 255.255.255.255 cannot be the end of a tunnel, expected a unicast address"]),
    ("suite: aes128gcm16", "suite: aes128cgm16",
        &["gateway.yaml:36:5: error: manual_sas.lab.suite: unknown algorithm \"aes128cgm16\"; did you mean \"aes128gcm16\"?"]),
    ("suite: aes128gcm16", "suite: aes128",
        &["gateway.yaml:36:5: error: manual_sas.lab.suite: \"aes128\": encryption without integrity is not offered: ESP without an ICV can be decrypted by an attacker (Paterson, Yau 2006; Degabriele, Paterson 2007); use aes128-sha256, or aes128gcm16"]),
    ("suite: aes128gcm16", "suite: aes128-md5",
        &["gateway.yaml:36:5: error: manual_sas.lab.suite: \"md5\" is refused: MD5 is broken (RFC 8221 s6: MUST NOT); use sha256"]),
    ("suite: aes128gcm16", "suite: aes128-sha1",
        &[
            "gateway.yaml:36:5: error: manual_sas.lab.suite: SHA-1 is broken for signatures and on its way out for HMAC (RFC 8221 s6); to use it all the same, set `allow_weak: [sha1]`",
            "gateway.yaml:39:30: error: manual_sas.lab.outbound.key_file: DIR/out.key holds 20 bytes; expected 36 bytes for aes128-sha1: 16 of encryption key, then 20 of integrity key",
            "gateway.yaml:40:29: error: manual_sas.lab.inbound.key_file: DIR/in.key holds 20 bytes; expected 36 bytes for aes128-sha1: 16 of encryption key, then 20 of integrity key",
        ]),
    ("suite: aes128gcm16", "suite: aes128gcm16\n    protocol: ah",
        &["gateway.yaml:36:5: error: manual_sas.lab.suite: AH does not encrypt: `aes128gcm16` is for ESP, expected one such as sha256 or ah-aes128gmac"]),
    ("suite: aes128gcm16", "suite: aes128gcm16\n    replay_window: 32",
        &["gateway.yaml:37:5: error: manual_sas.lab.replay_window: found 32, expected 0 (off) or a number of packets from 64 to 65536"]),
    ("suite: aes128gcm16", "suite: aes128gcm16\n    replay_window: 0",
        &["gateway.yaml:37:5: error: manual_sas.lab.replay_window: found 0, expected 64 or more with ESN: the receiver needs the window to work out the upper 32 bits (RFC 4303 s3.3.3); or set `esn: false`"]),
    ("suite: aes128gcm16", "suite: aes128gcm16\n    dscp: 64",
        &["gateway.yaml:37:5: error: manual_sas.lab.dscp: found 64, expected copy or a number from 0 to 63"]),
    ("suite: aes128gcm16", "suite: aes128gcm16-esn",
        &["gateway.yaml:36:5: error: manual_sas.lab.suite: `aes128gcm16-esn` is a proposal; here it is `suite: aes128gcm16` and `esn: true`"]),
    ("suite: aes128gcm16", "suite: aes128gcm16\n    keepalive: 20s",
        &["gateway.yaml:37:5: error: manual_sas.lab.keepalive: only with `encap`: it keeps a NAT's mapping (RFC 3948 s4)"]),
    ("suite: aes128gcm16", "suite: aes128gcm16\n    encap: {}\n    keepalive: 100ms",
        &["gateway.yaml:38:5: error: manual_sas.lab.keepalive: found 100ms, expected 1s to 1h"]),
    ("suite: aes128gcm16", "suite: aes128gcm16\n    dummy: 2h",
        &["gateway.yaml:37:5: error: manual_sas.lab.dummy: found 2h, expected 10ms to 1h"]),
    ("suite: aes128gcm16", "suite: aes128gcm16\n    dummy: often",
        &["gateway.yaml:37:5: error: manual_sas.lab.dummy: found \"often\", expected a duration such as 30s, 10m or 4h"]),
    ("mode: transport", "mode: transport\n    dummy: 1s",
        &["gateway.yaml:44:5: error: manual_sas.far.dummy: only with ESP in tunnel mode: the outer header tells where it goes (RFC 4303 s2.6)"]),
    ("        start: boot", "        protocol: ah\n        keepalive: 20s\n        dummy: 1s\n        start: boot",
        &[
            "gateway.yaml:30:21: error: connections.branch.children.lan.proposals[0]: in \"aes128gcm16-esn\": AH does not encrypt: `aes128gcm16` has no place in it",
            "gateway.yaml:33:9: error: connections.branch.children.lan.keepalive: only with ESP: AH cannot pass a NAT (RFC 3948 s1)",
            "gateway.yaml:34:9: error: connections.branch.children.lan.dummy: only with ESP in tunnel mode: the outer header tells where it goes (RFC 4303 s2.6)",
        ]),
    ("name: pop1", "name: pop1, state: 7",
        &["gateway.yaml:1:24: error: gateway.state: found 7, expected the path of a file"]),
    ("suite: aes128gcm16", "suite: aes128gcm16\n    mss_clamp: 99999",
        &["gateway.yaml:37:5: error: manual_sas.lab.mss_clamp: found 99999, expected off, pmtu or a number of bytes from 256 to 9176"]),
    ("suite: aes128gcm16", "suite: aes128gcm16\n    encap: { local_port: 0 }",
        &["gateway.yaml:37:14: error: manual_sas.lab.encap.local_port: found 0, expected a port from 1 to 65535"]),
    ("suite: aes128gcm16", "suite: aes128gcm16\n    lifetime: { soft: { bytes: 2GB }, hard: { bytes: 1GB } }",
        &["gateway.yaml:37:17: error: manual_sas.lab.lifetime.soft: the soft limit of bytes is beyond the hard one"]),
    ("suite: aes256-sha256", "suite: aes256-sha256\n    df: set",
        &["gateway.yaml:45:5: error: manual_sas.far.df: only in tunnel mode: transport mode keeps the packet's IP header"]),
    ("suite: aes256-sha256", "suite: aes256-sha256\n    fragmentation: before",
        &["gateway.yaml:45:5: error: manual_sas.far.fragmentation: found \"before\", expected after: transport mode is for whole packets (RFC 4303 s3.3.4)"]),
    ("mode: transport", "mode: transport\n    selectors: { local: 10.1.0.0/16 }",
        &["gateway.yaml:44:18: error: manual_sas.far.selectors.local: found 10.1.0.0/16, expected 2001:db8:1::1/128: transport mode is between the ends themselves"]),
    ("remote: [10.3.0.0/16, 10.4.0.0/16]", "remote: \"2001:db8:3::/48\"",
        &["gateway.yaml:41:18: error: manual_sas.lab.selectors.local: 10.1.0.0/16 has no prefix of its address family in `remote`"]),
    ("[10.3.0.0/16, 10.4.0.0/16]", "[10.3.0.0/16, 10.2.0.0/16]",
        &["gateway.yaml:27:7: error: connections.branch.children.lan: the traffic 10.1.0.0/16 to 10.2.0.0/16 belongs to manual_sas.lab already"]),
    ("[10.3.0.0/16, 10.4.0.0/16]", "10.3.0.0/16, local_ports: 80",
        &["gateway.yaml:41:59: error: manual_sas.lab.selectors.local_ports: only with an `ip_protocol` that has ports: tcp, udp, sctp, dccp, udplite"]),
    ("[10.3.0.0/16, 10.4.0.0/16]", "10.3.0.0/16, ip_protocol: tpc",
        &["gateway.yaml:41:59: error: manual_sas.lab.selectors.ip_protocol: found \"tpc\", expected icmp, tcp, udp, dccp, gre, icmpv6, ospf, sctp, udplite or a number from 1 to 255; did you mean `tcp`?"]),
];

#[rustfmt::skip]
const FILES: &[Case] = &[
    ("key_file: out.key", "key_file: none.key",
        &["gateway.yaml:39:30: error: manual_sas.lab.outbound.key_file: cannot read DIR/none.key: No such file or directory (os error 2)"]),
    ("key_file: out.key", "key_file: short.key",
        &["gateway.yaml:39:30: error: manual_sas.lab.outbound.key_file: DIR/short.key holds 16 bytes; expected 20 bytes for aes128gcm16: 16 of encryption key, then 4 of salt"]),
    ("key_file: out.key", "key_file: words.key",
        &["gateway.yaml:39:30: error: manual_sas.lab.outbound.key_file: DIR/words.key:1:2: not a hexadecimal digit; expected 20 bytes for aes128gcm16: 16 of encryption key, then 4 of salt"]),
    ("key_file: out.key", "key_file: open.key",
        &["gateway.yaml:39:30: error: manual_sas.lab.outbound.key_file: DIR/open.key has mode 0644: others than its owner can get at it; run: chmod 600 DIR/open.key"]),
    ("key_file: out.key", "key_file: in.key",
        &["gateway.yaml:40:5: error: manual_sas.lab.inbound: the key is that of `outbound`: each direction needs its own"]),
    ("key_file: far-out.key", "key_file: ./out.key",
        &["gateway.yaml:47:30: error: manual_sas.far.outbound.key_file: DIR/./out.key holds 20 bytes; expected 64 bytes for aes256-sha256: 32 of encryption key, then 32 of integrity key"]),
    ("psk_file: branch.psk", "psk_file: open.key",
        &["gateway.yaml:21:13: error: connections.branch.auth.psk_file: DIR/open.key has mode 0644: others than its owner can get at it; run: chmod 600 DIR/open.key"]),
    ("psk_file: branch.psk", "psk_file: empty.psk",
        &["gateway.yaml:21:13: error: connections.branch.auth.psk_file: DIR/empty.psk is empty"]),
    ("psk_file: branch.psk", "cert: cert.pem, key: cert.pem",
        &[
            "gateway.yaml:21:5: error: connections.branch.auth.ca: missing, expected the path of a PEM file, or `peer_cert`, `peer_key`, `eap_users`, `eap_ca` or `null_auth: peer`",
            "gateway.yaml:21:29: error: connections.branch.auth.key: DIR/cert.pem has mode 0644: others than its owner can get at it; run: chmod 600 DIR/cert.pem",
        ]),
    ("psk_file: branch.psk", "psk_file: branch.psk, cert: cert.pem",
        &["gateway.yaml:21:5: error: connections.branch.auth: found both `psk_file` and `cert`, expected one of them"]),
    ("psk_file: branch.psk", "eap_user: carol, ca: cert.pem",
        &["gateway.yaml:21:5: error: connections.branch.auth.eap_password_file: missing, expected the path of a file with one line"]),
    ("psk_file: branch.psk", "eap_users: branch.psk, cert: cert.pem, key: branch.psk",
        &["gateway.yaml:21:13: error: connections.branch.auth.eap_users: line 1: a user is written as \"name: password\""]),
    ("psk_file: branch.psk", "eap_users: branch.psk, eap_user: carol",
        &["gateway.yaml:21:13: error: connections.branch.auth.eap_users: found `eap_user` too: only one end, the initiator, can authenticate by EAP (RFC 7296 s2.16)"]),
    ("psk_file: branch.psk", "",
        &["gateway.yaml:21:5: error: connections.branch.auth: found neither, expected a mapping with `psk_file`, with `cert`, `key` and `ca`, with `key` and `peer_key`, with `cert`, `key` and `eap_users` or `eap_ca`, or with `ca` and `eap_user` or `eap_cert`"]),
    ("psk_file: branch.psk", "ca: cert.pem",
        &["gateway.yaml:21:5: error: connections.branch.auth.cert: missing, expected the path of a PEM file, or `key` alone, `eap_user`, `eap_cert` or `null_auth: ours`"]),
    ("psk_file: branch.psk", "key: branch.psk, ca: cert.pem",
        &["gateway.yaml:21:5: error: connections.branch.auth.cert: missing, expected the path of a PEM file"]),
    ("psk_file: branch.psk", "key: branch.psk, peer_key: none.pem",
        &["gateway.yaml:21:30: error: connections.branch.auth.peer_key: cannot read DIR/none.pem: No such file or directory (os error 2)"]),
    ("psk_file: branch.psk", "cert: cert.pem, key: branch.psk, ca: cert.pem, peer_key: cert.pem",
        &["gateway.yaml:21:5: error: connections.branch.auth: found both `ca` and `peer_key`, expected one of them"]),
    ("psk_file: branch.psk", "key: branch.psk, peer_key: cert.pem, crl: cert.pem",
        &["gateway.yaml:21:50: error: connections.branch.auth.crl: only with `ca` or `eap_ca`, whose lists these are"]),
    ("psk_file: branch.psk", "eap_cert: cert.pem, eap_key: branch.psk",
        &["gateway.yaml:21:5: error: connections.branch.auth.ca: missing, expected the path of a PEM file, or `peer_cert`, `peer_key`, `eap_users`, `eap_ca` or `null_auth: peer`"]),
    ("psk_file: branch.psk", "eap_cert: cert.pem, eap_key: branch.psk, peer_key: cert.pem",
        &["gateway.yaml:21:5: error: connections.branch.auth.ca: missing, expected the path of a PEM file: EAP-TLS checks the gateway's certificate"]),
    ("psk_file: branch.psk", "eap_cert: cert.pem, ca: cert.pem",
        &["gateway.yaml:21:5: error: connections.branch.auth.eap_key: missing, expected the path of a PEM file"]),
    ("psk_file: branch.psk", "eap_user: carol, null_auth: peer",
        &["gateway.yaml:21:13: error: connections.branch.auth.eap_user: with EAP the peer must prove itself by a certificate or a key first (RFC 7296 s2.16): expected `ca`"]),
    ("psk_file: branch.psk", "eap_ca: cert.pem, null_auth: ours",
        &["gateway.yaml:21:13: error: connections.branch.auth.eap_ca: with EAP we must prove ourselves by a certificate or a key first (RFC 7296 s2.16): expected `cert` and `key`"]),
    ("psk_file: branch.psk", "key: branch.psk, eap_ca: cert.pem",
        &["gateway.yaml:21:5: error: connections.branch.auth.cert: missing, expected the path of a PEM file: EAP-TLS shows it to the client"]),
    ("psk_file: branch.psk", "cert: cert.pem, key: branch.psk, eap_users: branch.psk, eap_only: true",
        &["gateway.yaml:21:69: error: connections.branch.auth.eap_only: only with EAP-TLS, which proves who both ends are (RFC 5998 s4): expected `eap_ca` without `eap_users`, or `eap_cert`"]),
    ("psk_file: branch.psk", "cert: cert.pem, key: branch.psk, eap_ca: cert.pem",
        &["gateway.yaml:21:5: error: connections.branch.auth: peers that authenticate by EAP start themselves, expected `start: wait` in the child lan"]),
    ("psk_file: branch.psk", "null_auth: them",
        &["gateway.yaml:21:13: error: connections.branch.auth.null_auth: found \"them\", expected ours, peer or both"]),
    ("psk_file: branch.psk", "psk_file: branch.psk, rsa: pss",
        &["gateway.yaml:21:35: error: connections.branch.auth.rsa: only with a `key` of ours, which signs in this way"]),
    ("psk_file: branch.psk", "cert: cert.pem, key: branch.psk, ca: cert.pem, rsa: pkcs7",
        &["gateway.yaml:21:60: error: connections.branch.auth.rsa: found \"pkcs7\", expected pkcs1 or pss; did you mean `pkcs1`?"]),
    ("psk_file: branch.psk", "null_auth: both",
        &[
            "gateway.yaml:19:5: error: connections.branch.local: we do not prove that we are pop1.example.net (`null_auth`), expected the identity \"%null\"",
            "gateway.yaml:20:5: error: connections.branch.remote: the peer does not prove that it is branch.example.net (`null_auth`), expected the identity \"%null\"",
        ]),
];

#[rustfmt::skip]
const CONNECTIONS: &[Case] = &[
    ("prfsha384-x25519", "prfsha384-modp1024",
        &["gateway.yaml:23:19: error: connections.branch.ike.proposals[0]: in \"aes256gcm16-prfsha384-modp1024\": `modp1024` is refused: precomputation makes groups of 1024 bits and less readable (Logjam), and 1536 bits are next (RFC 8247 s2.4); use x25519, ecp256 or modp2048"]),
    ("prfsha384-x25519", "prfsha384-modp1024s160",
        &["gateway.yaml:23:19: error: connections.branch.ike.proposals[0]: in \"aes256gcm16-prfsha384-modp1024s160\": `modp1024s160` is refused: the origin of its prime is unknown and small subgroups weaken it (RFC 8247 s2.4); use modp3072 or ecp384"]),
    ("[aes256gcm16-prfsha384-x25519]", "[aes256gcm16-x25519, aes256-prfsha384-x25519]",
        &[
            "gateway.yaml:23:19: error: connections.branch.ike.proposals[0]: in \"aes256gcm16-x25519\": no PRF (RFC 7296 s3.3.3); add one such as prfsha256 or prfsha384",
            "gateway.yaml:23:39: error: connections.branch.ike.proposals[1]: in \"aes256-prfsha384-x25519\": encryption without integrity can be decrypted by an attacker (Paterson, Yau 2006; Degabriele, Paterson 2007); use aes256-sha256 or aes128gcm16",
        ]),
    ("[aes128gcm16-esn]", "[3des-sha256]",
        &["gateway.yaml:30:21: error: connections.branch.children.lan.proposals[0]: 3DES has 64-bit blocks: birthday attacks after some gigabytes (Sweet32); to use it all the same, set `allow_weak: [3des]`"]),
    ("[aes128gcm16-esn]", "[]",
        &["gateway.yaml:30:9: error: connections.branch.children.lan.proposals: found an empty list, expected a proposal"]),
    ("address: 203.0.113.7", "address: any",
        &["gateway.yaml:20:5: error: connections.branch.remote: with `address: any` only the peer can start, expected `start: wait` in the child lan"]),
    ("id: branch.example.net", "id: \"branch example\"",
        &["gateway.yaml:20:37: error: connections.branch.remote.id: found \"branch example\", expected a name such as gw.example.net, an address, user@example.net or \"CN=gw, O=Example\""]),
    ("local: { address: 198.51.100.1,", "local: { address: 198.51.100.77,",
        &["gateway.yaml:19:14: error: connections.branch.local.address: 198.51.100.77 is on no port"]),
    ("local: { address: 198.51.100.1,", "local: { address: any,",
        &["gateway.yaml:19:5: error: connections.branch.local: with `address: any` it is not known where to start from, expected `start: wait` in the child lan"]),
    ("id: branch.example.net", "id: \"CN=x, XYZ=1\"",
        &["gateway.yaml:20:37: error: connections.branch.remote.id: found \"CN=x, XYZ=1\": unknown attribute \"XYZ\" in a distinguished name; a dotted object identifier is accepted too"]),
    ("id: branch.example.net", "id: b*.example.net",
        &["gateway.yaml:20:37: error: connections.branch.remote.id: found \"b*.example.net\": the identity is not a name; a * stands for whole labels at the start only, as in *.example.net or *@example.net: \"b*.example.net\""]),
    ("id: branch.example.net", "id: \"%null\"",
        &["gateway.yaml:20:5: error: connections.branch.remote: \"%null\" is nobody: expected a name, or `null_auth: peer`"]),
    ("id: pop1.example.net", "id: \"%null\"",
        &["gateway.yaml:19:5: error: connections.branch.local: \"%null\" is nobody: expected a name, or `null_auth: ours`"]),
    ("local: { address: 198.51.100.1,", "local: { address: [198.51.100.1, 198.51.100.77],",
        &["gateway.yaml:19:38: error: connections.branch.local.address[1]: 198.51.100.77 is on no port"]),
    ("local: { address: 198.51.100.1,", "local: { address: [],",
        &["gateway.yaml:19:14: error: connections.branch.local.address: found an empty list, expected an address or any"]),
    ("local: { address: 198.51.100.1,", "local: { address: [198.51.100.1, any],",
        &["gateway.yaml:19:38: error: connections.branch.local.address[1]: found \"any\", expected an address such as 192.0.2.1 or \"2001:db8::1\""]),
    ("    children:\n", "    pools: [mobil]\n    children:\n",
        &["gateway.yaml:26:13: error: connections.branch.pools[0]: there is no pool \"mobil\""]),
    ("    children:\n", "    ppk: { id: x }\n    children:\n",
        &["gateway.yaml:26:5: error: connections.branch.ppk.secret_file: missing, expected the path of a file"]),
    ("    children:\n", "    on_down: hold\n    children:\n",
        &["gateway.yaml:26:5: error: connections.branch.on_down: found \"hold\", expected restart or clear"]),
    ("policies:\n", "ike: { limits: { half_open: 10 } }\npolicies:\n",
        &[
            "gateway.yaml:49:8: error: ike.limits.cookie_threshold: found 256, expected 10 at most: beyond that requests are dropped",
        ]),
    ("policies:\n", "ike: { limits: { message: 1KiB, followup_timeout: 0s, children: 0, acquire_queue: 8, half_open: 300000 } }\npolicies:\n",
        &[
            "gateway.yaml:49:8: error: ike.limits.acquire_queue_per_tunnel: found 16, expected 8 at most: the value of `acquire_queue`",
            "gateway.yaml:49:18: error: ike.limits.message: found \"1KiB\", expected a size from 16KiB to 1MiB",
            "gateway.yaml:49:33: error: ike.limits.followup_timeout: found 0s, expected 1s to 5m",
            "gateway.yaml:49:55: error: ike.limits.children: found 0, expected a number of Child SAs from 1 to 65536",
            "gateway.yaml:49:86: error: ike.limits.half_open: found 300000, expected 250000 at most: the value of `ike_sas`",
        ]),
    ("policies:\n", "ike: { limits: { payloads: 31, proposals: 0, identity: 254, name_comparisons: -1, acquire_flows: 65 } }\npolicies:\n",
        &[
            "gateway.yaml:49:18: error: ike.limits.payloads: found 31, expected a number of payloads from 32 to 16384",
            "gateway.yaml:49:32: error: ike.limits.proposals: found 0, expected a number of proposals from 1 to 255",
            "gateway.yaml:49:46: error: ike.limits.identity: found 254, expected a size from 255 to 65535 bytes",
            "gateway.yaml:49:61: error: ike.limits.name_comparisons: found -1, expected a number of comparisons from 0 to 10000000",
            "gateway.yaml:49:83: error: ike.limits.acquire_flows: found 65, expected a number of flows from 1 to 64",
        ]),
    ("policies:\n", "ike: { limits: { puzzle_threshold: on, puzzle_difficulty: 21, puzzle_solve: 29 } }\npolicies:\n",
        &[
            "gateway.yaml:49:18: error: ike.limits.puzzle_threshold: found \"on\", expected off, or a number of half-open IKE SAs from 0 to 1000000",
            "gateway.yaml:49:40: error: ike.limits.puzzle_difficulty: found 21, expected 18 at most: the value of `puzzle_difficulty_max`",
            "gateway.yaml:49:63: error: ike.limits.puzzle_solve: found 29, expected a number of bits from 8 to 28",
        ]),
    ("policies:\n", "ike: { limits: { first_request: 2KB, half_open_timeout: 1s, child_sas: 262144 } }\npolicies:\n",
        &[
            "gateway.yaml:49:18: error: ike.limits.first_request: found \"2KB\", expected a size from 3000 to 65535 bytes",
            "gateway.yaml:49:38: error: ike.limits.half_open_timeout: found 1s, expected 5s to 5m",
            "gateway.yaml:49:61: error: ike.limits.child_sas: found 262144, expected a number of Child SAs from 1 to 229376",
        ]),
    ("connections:\n", "ike: { limits: { policies: 1, children: 1 } }\nconnections:\n  x:\n    local: { address: any, id: a }\n    remote: { address: any, id: b }\n    auth: { psk_file: branch.psk }\n    children:\n      one: { local: [10.1.0.0/24, 10.1.1.0/24], remote: [10.7.0.0/16] }\n      two: { local: [10.1.0.0/24], remote: [10.8.0.0/16] }\n",
        &[
            "gateway.yaml:23:5: error: connections.x.children: found 2 children, expected 1 at most: `ike.limits.children`",
            "gateway.yaml:24:7: error: connections.x.children.one: found 2 pairs of prefixes, expected 1 at most: `ike.limits.policies`",
        ]),
    ("policies:\n", "ike: { retransmit: { initial: 5s, max: 1s, factor: 0.5, tries: 0 } }\npolicies:\n",
        &[
            "gateway.yaml:49:35: error: ike.retransmit.max: expected 5s, the value of `initial`, or more",
            "gateway.yaml:49:44: error: ike.retransmit.factor: found 0.5, expected a factor from 1 to 10",
            "gateway.yaml:49:57: error: ike.retransmit.tries: found 0, expected a number of repetitions from 1 to 100",
        ]),
    ("rekey: { time: 1h, bytes: 1TB }", "rekey: { time: 1h }\n        expire: { time: 30m }",
        &["gateway.yaml:31:9: error: connections.branch.children.lan.rekey: the limit of time is beyond that of `expire`"]),
];

#[rustfmt::skip]
const POLICIES: &[Case] = &[
    ("action: bypass", "action: protect",
        &["gateway.yaml:50:7: error: policies[0].action: protect policies come from the selectors of `manual_sas` and `connections`, expected bypass or discard"]),
    ("action: bypass, local: 10.1.0.0/16, remote: 10.1.0.0/16", "action: bypass, local: 10.1.0.0/16, remote: 10.2.0.0/16",
        &["gateway.yaml:50:5: error: policies[0]: the traffic 10.1.0.0/16 to 10.2.0.0/16 belongs to connections.branch.children.lan already"]),
];

#[rustfmt::skip]
const NOT_A_CONFIGURATION: &[Case] = &[
    (GOOD, "",
        &["gateway.yaml: error: the file is empty, expected at least the section `ports`"]),
    (GOOD, "hello",
        &["gateway.yaml: error: found \"hello\", expected a mapping"]),
    (GOOD, "gateway: {}",
        &["gateway.yaml: error: ports: missing, expected a mapping of names"]),
    (GOOD, "ports: {}",
        &["gateway.yaml:1:1: error: ports: found no port, expected one at least"]),
    (GOOD, "ports: [",
        &["gateway.yaml:2:1: error: not valid YAML: did not find expected node content at line 2 column 1, while parsing a flow node"]),
];

const TABLES: &[&[Case]] =
    &[KEYS, VALUES, PORTS, ROUTES, SAS, FILES, CONNECTIONS, POLICIES, NOT_A_CONFIGURATION];

#[test]
fn every_mistake_is_named_with_its_place() {
    let files = Files::new();
    let mut wrong = Vec::new();
    for (from, to, expected) in TABLES.iter().copied().flatten() {
        assert!(GOOD.contains(from), "the good configuration has no {from:?}");
        let messages = files.messages(&GOOD.replacen(from, to, 1));
        let errors: Vec<_> = messages.into_iter().filter(|line| !line.contains(": warning: ")).collect();
        if errors != *expected {
            wrong.push(format!("{from:?} -> {to:?}\n  expected {expected:#?}\n  got {errors:#?}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn there_are_cases_enough() {
    assert!(TABLES.iter().map(|table| table.len()).sum::<usize>() >= 90);
}

#[test]
fn all_mistakes_are_shown_at_once_in_the_order_of_the_file() {
    let text = GOOD
        .replace("level: info", "level: loud")
        .replace("mtu: 1500", "mtu: 1")
        .replace("port: lan }", "port: lam }")
        .replace("key_file: in.key", "key_file: short.key")
        .replace("spi: 0x1002", "spi: 5")
        .replace("action: bypass", "action: allow, colour: red");
    let places: Vec<_> = Files::new()
        .messages(&text)
        .iter()
        .filter(|line| !line.contains(": warning: "))
        .map(|line| line.split(": ").nth(2).unwrap().to_owned())
        .collect();
    assert_eq!(
        places,
        [
            "log.level",
            "ports.wan.mtu",
            "manual_sas.lab.inbound.key_file",
            "manual_sas.far.outbound.spi",
            "policies[0].action",
            "policies[0].colour"
        ]
    );
}

#[test]
fn a_port_that_is_wrong_does_not_make_its_addresses_unknown() {
    // SAs and routes lean on the port `wan`; only the port itself is reported.
    let messages = Files::new().messages(&GOOD.replace("device: eth0", "device: 'e t h 0'"));
    let errors = messages.iter().filter(|line| line.contains(": error: ")).count();
    assert_eq!(errors, 1, "{messages:#?}");
}

#[test]
fn no_message_shows_key_material() {
    let files = Files::new();
    let secrets = ["0000000000000005", "correct horse", "0000000000000006"];
    for name in ["short.key", "words.key", "open.key"] {
        for line in files.messages(&GOOD.replace("out.key", name)) {
            assert!(secrets.iter().all(|secret| !line.contains(secret)), "{line}");
        }
    }
    let loaded = format!("{:?}", files.parse(GOOD).unwrap());
    assert!(!loaded.contains("0000000000000001") && !loaded.contains("correct horse"));
    assert!(loaded.contains("KeyMaterial(20 bytes)") && loaded.contains("Psk(28 bytes)"));
}
