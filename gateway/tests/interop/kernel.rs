//! The other independent peer: a Linux kernel's IPsec. One guest and one gateway have a pair of SAs for every
//! suite that the kernel knows and for every form of ESP and AH, each with addresses of its own; pings and TCP
//! go through them both ways.
//!
//! ```text
//! host 10.1.0.2, fd00:1::2 -- gateway 198.51.100.1, 2001:db8:1::1 -- 198.51.100.2, 2001:db8:1::2 guest 10.100.N.2, fd00:100:N::2
//! ```

use std::fmt::Write;
use std::fs;
use std::io::{Read, Write as _};
use std::net::{Ipv4Addr, Ipv6Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::time::Duration;

use dataplane::crypto::Suite;
use dataplane::crypto::suite::{Encryption, Integrity};
use serde_json::json;

use crate::gateway::{Files, Gateway, count, key};
use crate::guest::{DEVICE, Guest};
use crate::netns::{Namespace, privileged};
use crate::serial;
use crate::traffic::{Fragments, Pinger};

/// One pair of SAs between the gateway and the kernel.
#[derive(Clone)]
struct Case {
    suite: Suite,
    mode: Mode,
    outer: Family,
    esn: bool,
    udp: bool,
    /// The kernel's first sequence number, when that is not 1.
    first: Option<u32>,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Mode {
    Tunnel,
    Transport,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Family {
    V4,
    V6,
}

use Family::{V4, V6};
use Mode::{Transport, Tunnel};

/// Where TCP servers listen that send back what comes.
const ECHO: u16 = 7000;
/// Bytes of a TCP stream, each way.
const STREAM: usize = 1 << 17;
const PATIENCE: Duration = Duration::from_secs(20);

#[test]
fn a_linux_kernel_and_spillway_understand_each_other() {
    privileged(&["ethtool", "linux.uml"], || {
        let _alone = serial();
        let cases = cases();
        let (inside, outside, host) = (Namespace::new(), Namespace::new(), Namespace::new());
        inside.join("wan0", &outside, "guest", 1, 1500);
        inside.join("lan0", &host, "eth0", 1, 1500);
        // The guest believes checksums, so they must be there.
        outside.no_offload("guest");
        inside.no_offload("wan0");
        set_up_host(&host);

        let mut files = Files::new();
        let sas: String = cases.iter().enumerate().map(|(n, case)| case.yaml(n, &mut files)).collect();
        let gateway = Gateway::start(&inside, files, &format!("{GATEWAY}manual_sas:\n{sas}"));
        let mut guest = boot_guest(&outside, &cases, &gateway.files);
        let echo = host.run(|| TcpListener::bind(("::", ECHO))).expect("listens");
        std::thread::spawn(move || serve_echo(&echo));

        for (number, case) in cases.iter().enumerate() {
            match case.mode {
                Tunnel => through_a_tunnel(number, case, &host, &mut guest),
                Transport => between_the_ends(number, case, &mut guest),
            }
            let name = case.name(number);
            for direction in ["inbound", "outbound"] {
                let sa = gateway.sa(&name, direction);
                assert!(count(&sa["packets"]) > 0, "{name}: {sa}");
                // A packet that did not fit taught the host the tunnel's MTU.
                let drops = sa["drops"].as_object().unwrap().keys().filter(|reason| *reason != "too_big");
                assert_eq!(drops.count(), 0, "{name}: {sa}");
            }
            if let Some(first) = case.first {
                let reached = count(&gateway.sa(&name, "inbound")["sequence"]);
                assert!(u64::from(first) < u64::from(u32::MAX) && reached > u64::from(u32::MAX), "{reached}");
            }
        }
        let statistics = guest.ask(&json!({ "do": "read", "path": "/proc/net/xfrm_stat" }));
        for line in statistics.as_str().unwrap().lines() {
            assert!(line.ends_with("\t0"), "{line}");
        }
    });
}

/// Every suite that the kernel knows, and for some of them every form.
fn cases() -> Vec<Case> {
    let case = |suite, mode, outer, esn| Case { suite, mode, outer, esn, udp: false, first: None };
    let mut cases = Vec::new();
    // Families and sequence numbers take turns.
    for (turn, suite) in Suite::all().filter(|&suite| kernel_algorithms(suite, "").is_some()).enumerate() {
        let outer = if turn % 2 == 0 { V4 } else { V6 };
        cases.push(case(suite, Tunnel, outer, turn / 2 % 2 == 0));
    }
    for keyword in ["aes128gcm16", "aes256-sha256", "sha256"] {
        let suite: Suite = keyword.parse().unwrap();
        for (mode, outer) in [(Tunnel, V4), (Tunnel, V6), (Transport, V4), (Transport, V6)] {
            cases.extend([true, false].map(|esn| case(suite, mode, outer, esn)));
            if !suite.is_ah() {
                cases.push(Case { udp: true, ..case(suite, mode, outer, true) });
            }
        }
        // The upper half of its sequence numbers goes from 0 to 1 on the way.
        cases.push(Case { first: Some(0xffff_ff00), ..case(suite, Tunnel, V4, true) });
    }
    cases
}

/// Pings and streams from the host into the guest and back, IPv4 and IPv6.
fn through_a_tunnel(number: usize, case: &Case, host: &Namespace, guest: &mut Guest) {
    let name = case.name(number);
    let (v4, v6) = inner(number);
    for (ours, theirs) in [("10.1.0.2", v4.into()), ("fd00:1::2", v6.into())] {
        let mut pinger = Pinger::new(host, theirs, Fragments::Allowed);
        pinger.ping_until_answered(0, PATIENCE);
        assert_eq!(pinger.ping_all([1, 56, 1000, 1300].into_iter()), 0, "{name}");
        if case.first.is_some() {
            pinger.ping_all((0..200).map(|_| 56));
        }
        let from_host = host.run(|| stream((theirs, ECHO).into()));
        assert!(from_host, "{name}: the stream from the host to {theirs}");
        let request = json!({ "do": "stream", "source": theirs, "to": ours, "port": ECHO, "size": STREAM });
        assert_eq!(guest.ask(&request), true, "{name}: the stream from {theirs}");
    }
}

/// Pings between the guest and the gateway itself.
fn between_the_ends(number: usize, case: &Case, guest: &mut Guest) {
    let (gateway, us) = case.ends(number);
    for size in [1, 1200, 4000] {
        guest.run(&format!("ping -n -c 1 -W 5 -s {size} -I {us} {gateway}"));
    }
}

/// Sends bytes to a server that sends them back, while it does; whether the same came.
fn stream(to: SocketAddr) -> bool {
    let connection = TcpStream::connect_timeout(&to, PATIENCE).expect("connects");
    connection.set_read_timeout(Some(PATIENCE)).expect("has a timeout");
    connection.set_write_timeout(Some(PATIENCE)).expect("has a timeout");
    let data: Vec<u8> = (0..STREAM).map(|at| ((at * at) >> 7) as u8).collect();
    let mut came = Vec::with_capacity(STREAM);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            (&connection).write_all(&data).expect("sends");
            connection.shutdown(Shutdown::Write).expect("ends");
        });
        (&connection).read_to_end(&mut came).expect("receives");
    });
    came == data
}

fn serve_echo(server: &TcpListener) {
    for connection in server.incoming().map_while(Result::ok) {
        let _closed = std::io::copy(&mut &connection, &mut &connection);
    }
}

const GATEWAY: &str = "\
workers: { cores: [1], control_core: 0, idle: adaptive }
ports:
  wan: { driver: af_packet, device: wan0, addresses: [198.51.100.1/24, '2001:db8:1::1/64'] }
  lan: { driver: af_packet, device: lan0, addresses: [10.1.0.1/16, 'fd00:1::1/64'] }
";

fn set_up_host(host: &Namespace) {
    host.set("net/ipv6/conf/eth0/accept_dad", "0");
    host.set("net/ipv6/conf/eth0/disable_ipv6", "0");
    host.ip("addr add 10.1.0.2/16 dev eth0");
    host.ip("addr add fd00:1::2/64 dev eth0 nodad");
    host.ip("route add 10.0.0.0/8 via 10.1.0.1");
    host.ip("route add fd00::/16 via fd00:1::1");
}

/// User-mode Linux now and then stands still in its first `ip` (once in some hundred boots): then there is another one.
fn boot_guest(outside: &Namespace, cases: &[Case], files: &Files) -> Guest {
    let boot = || {
        let mut guest = Guest::boot(outside, "guest", &files.path("guest.log"));
        set_up_guest(&mut guest, cases, files).map(|()| guest)
    };
    boot()
        .or_else(|error| {
            eprintln!("the guest does not get ready, so there is another one: {error}");
            boot()
        })
        .expect("the second guest gets ready")
}

fn set_up_guest(guest: &mut Guest, cases: &[Case], files: &Files) -> Result<(), String> {
    guest.ask(&json!({ "do": "write", "path": format!("/proc/sys/net/ipv6/conf/{DEVICE}/accept_dad"), "text": "0" }));
    let mut batch = format!(
        "link set lo up\n\
         link set {DEVICE} up\n\
         addr add 198.51.100.2/24 dev {DEVICE}\n\
         addr add 2001:db8:1::2/64 dev {DEVICE} nodad\n\
         route add default via 198.51.100.1\n\
         route add default via inet6 2001:db8:1::1\n"
    );
    for (number, case) in cases.iter().enumerate() {
        case.write_kernel(number, &mut batch);
    }
    let path = files.path("guest.batch");
    fs::write(&path, batch).unwrap();
    let done = guest.try_to(&json!({ "do": "run", "argv": ["ip", "-batch", path] }))?;
    assert_eq!(done["code"], 0, "{}", done["text"]);
    guest.ask(&json!({ "do": "decapsulate", "port": 4500 }));
    guest.ask(&json!({ "do": "echo", "port": ECHO }));
    Ok(())
}

/// The inner addresses of the guest in a case.
fn inner(number: usize) -> (Ipv4Addr, Ipv6Addr) {
    let number = number as u16;
    (Ipv4Addr::new(10, 100, number as u8, 2), Ipv6Addr::new(0xfd00, 0x100, number, 0, 0, 0, 0, 2))
}

impl Case {
    fn name(&self, number: usize) -> String {
        let mode = if self.mode == Tunnel { "tunnel" } else { "transport" };
        let outer = if self.outer == V4 { 4 } else { 6 };
        let esn = if self.esn { "-esn" } else { "" };
        let udp = if self.udp { "-udp" } else { "" };
        format!("{number}-{mode}{outer}-{}{esn}{udp}", self.suite)
    }

    /// Outer addresses, of the gateway and of the guest. In transport mode the guest has one for each case.
    fn ends(&self, number: usize) -> (String, String) {
        let host = if self.mode == Tunnel { 2 } else { number + 16 };
        match self.outer {
            V4 => ("198.51.100.1".into(), format!("198.51.100.{host}")),
            V6 => ("2001:db8:1::1".into(), format!("2001:db8:1::{host:x}")),
        }
    }

    /// Keys, of what the gateway sends and of what the guest sends, in hexadecimal.
    fn keys(&self, number: usize) -> [String; 2] {
        let number = number as u64;
        [2 * number + 1, 2 * number + 2].map(|number| key(number, self.suite))
    }

    fn yaml(&self, number: usize, files: &mut Files) -> String {
        let ((v4, v6), (local, remote)) = (inner(number), self.ends(number));
        for (direction, key) in ["out", "in"].iter().zip(self.keys(number)) {
            files.key_file(&format!("{number}-{direction}.key"), &key);
        }
        let (mode, selectors) = match self.mode {
            Transport => ("transport", String::new()),
            Tunnel => (
                "tunnel",
                format!(
                    ", selectors: {{ local: [10.1.0.0/16, 'fd00:1::/64'], remote: [{v4}/32, '{v6}/128'] }}"
                ),
            ),
        };
        let udp = if self.udp { ", encap: { local_port: 4500, remote_port: 4500 }" } else { "" };
        let window = if self.first.is_some() { ", replay_window: 64" } else { "" };
        format!(
            "  {}: {{ protocol: {}, mode: {mode}, suite: {}, esn: {}, local: '{local}', remote: '{remote}', \
             outbound: {{ spi: {}, key_file: {number}-out.key }}, inbound: {{ spi: {}, key_file: {number}-in.key }}, \
             allow_weak: [sha1, 3des]{udp}{window}{selectors} }}\n",
            self.name(number),
            self.protocol(),
            self.suite,
            self.esn,
            0x10_0000 + number,
            0x20_0000 + number,
        )
    }

    /// The guest's side, as a batch for `ip`.
    fn write_kernel(&self, number: usize, batch: &mut String) {
        let (gateway, guest) = self.ends(number);
        let [from_gateway, from_guest] = self.keys(number);
        let mode = if self.mode == Tunnel { "tunnel" } else { "transport" };
        let protocol = self.protocol();
        // RFC 4302 s3.3.3.2.1.1: on IPv4 the ICV is padded to 32 bits; the kernel pads to 64 unless told.
        let align = if self.suite.is_ah() && self.outer == V4 { " flag align4" } else { "" };
        let esn = if self.esn { " flag esn" } else { "" };
        // Both families inside.
        let any = if self.mode == Tunnel { " flag af-unspec" } else { "" };
        let udp = if self.udp { " encap espinudp 4500 4500 ::" } else { "" };
        let first = self.first.map_or(String::new(), |first| format!(" replay-oseq 0x{:x}", first - 1));
        for (source, destination, spi, key, first) in [
            (&gateway, &guest, 0x10_0000 + number, from_gateway, ""),
            (&guest, &gateway, 0x20_0000 + number, from_guest, first.as_str()),
        ] {
            let algorithms = kernel_algorithms(self.suite, &key).expect("the kernel knows the suite");
            let udp = if self.outer == V4 { udp.replace("::", "0.0.0.0") } else { udp.to_owned() };
            let _ = writeln!(
                batch,
                "xfrm state add src {source} dst {destination} proto {protocol} spi {spi} reqid {} mode {mode} \
                 replay-window 64{first}{esn}{align}{any} {algorithms}{udp}",
                number + 1
            );
        }
        let mut policy = |local: &str, remote: &str, [asks, answers]: [&str; 2]| {
            let template = format!("proto {protocol} reqid {} mode {mode}", number + 1);
            let _ = write!(
                batch,
                "xfrm policy add src {local} dst {remote}{asks} dir out tmpl src {guest} dst {gateway} {template}\n\
                 xfrm policy add src {remote} dst {local}{answers} dir in tmpl src {gateway} dst {guest} {template}\n"
            );
        };
        match self.mode {
            Tunnel => {
                let (v4, v6) = inner(number);
                policy(&v4.to_string(), "10.1.0.0/16", ["", ""]);
                policy(&v6.to_string(), "fd00:1::/64", ["", ""]);
                let _ = write!(batch, "addr add {v4}/32 dev lo\naddr add {v6}/128 dev lo nodad\n");
            }
            Transport => {
                let pings = match self.outer {
                    V4 => [" proto icmp"; 2],
                    // Not Neighbour Discovery of the addresses themselves.
                    V6 => [" proto ipv6-icmp type 128 code 0", " proto ipv6-icmp type 129 code 0"],
                };
                policy(&guest, &gateway, pings);
                let len = if self.outer == V4 { "24" } else { "64 nodad" };
                let _ = writeln!(batch, "addr add {guest}/{len} dev {DEVICE}");
            }
        }
    }

    fn protocol(&self) -> &'static str {
        if self.suite.is_ah() { "ah" } else { "esp" }
    }
}

/// A suite in the words of `ip xfrm state`, with its key; `None` for what the kernel does not have.
fn kernel_algorithms(suite: Suite, key: &str) -> Option<String> {
    let icv = 8 * suite.icv_len();
    let integrity = suite.integrity().map(|integrity| {
        Some(match integrity {
            Integrity::HmacSha1 => "hmac(sha1)",
            Integrity::HmacSha256 => "hmac(sha256)",
            Integrity::HmacSha384 => "hmac(sha384)",
            Integrity::HmacSha512 => "hmac(sha512)",
            Integrity::AesCmac => "cmac(aes)",
            Integrity::AesXcbc => "xcbc(aes)",
            // Not in AH.
            Integrity::AesGmac(_) => return None,
        })
    });
    let aead = |name: &str| Some(format!("aead {name} 0x{key} {icv}"));
    let cipher = match suite.encryption() {
        Some(Encryption::AesGcm(..)) => return aead("rfc4106(gcm(aes))"),
        Some(Encryption::AesGmac(_)) => return aead("rfc4543(gcm(aes))"),
        Some(Encryption::ChaCha20Poly1305) => return aead("rfc7539esp(chacha20,poly1305)"),
        Some(Encryption::AesGcmImplicitIv(_) | Encryption::ChaCha20Poly1305ImplicitIv) => return None,
        Some(Encryption::AesCbc(_)) => Some("cbc(aes)"),
        Some(Encryption::TripleDesCbc) => Some("cbc(des3_ede)"),
        Some(Encryption::Null) => Some("ecb(cipher_null)"),
        None => None,
    };
    let (cipher_key, integrity_key) =
        key.split_at_checked(2 * suite.encryption_key_len()).unwrap_or_default();
    let cipher = cipher.map_or(String::new(), |name| match cipher_key {
        "" => format!("enc {name} \"\" "),
        key => format!("enc {name} 0x{key} "),
    });
    Some(format!("{cipher}auth-trunc {} 0x{integrity_key} {icv}", integrity??))
}
