//! The command line: what it prints, where, and its exit code.

use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use crate::files::{Files, GOOD};

/// Standard output, standard error and exit code; the directory is written `DIR`.
fn spillway(files: &Files, arguments: &[&str]) -> (String, String, Option<i32>) {
    let output = Command::new(env!("CARGO_BIN_EXE_spillway"))
        .current_dir(files.path())
        .args(arguments)
        .output()
        .unwrap();
    let text = |bytes: Vec<u8>| {
        String::from_utf8(bytes).unwrap().replace(&files.path().display().to_string(), "DIR")
    };
    (text(output.stdout), text(output.stderr), output.status.code())
}

const SMALL: &str = "\
workers: { cores: [0], control_core: 0 }
ports:
  wan: { driver: tap, device: wan0, vlan: 7, addresses: [198.51.100.1/24] }
  file: { driver: pcap, write: out.pcap }
routes: [ { to: 0.0.0.0/0, via: 198.51.100.254 } ]
policies: [ { action: bypass, local: 10.1.0.0/16, remote: 10.1.0.0/16 } ]
";

#[test]
fn check_sums_a_good_configuration_up() {
    let files = Files::new();
    files.secret("small.yaml", SMALL);
    let (out, err, code) = spillway(&files, &["check", "--config", "small.yaml"]);
    assert_eq!(
        out,
        "\
small.yaml: good
gateway spillway: control socket /run/spillway/control.sock, no metrics
workers: cores 0, idle adaptive, crypto auto; control core 0
ports: 2
  wan: tap wan0 VLAN 7, MTU 1500, 198.51.100.1/24
  file: pcap from nothing to out.pcap, MTU 1500, no address
routes: 1
  0.0.0.0/0 via 198.51.100.254 on wan
connections: 0
manual SAs: 0
policies: 1, and discard for what nothing matches
"
    );
    assert_eq!(
        err,
        "small.yaml:1:24: warning: workers.control_core: core 0 is a worker's too: both will wait\n"
    );
    assert_eq!(code, Some(0));
}

#[test]
fn check_shows_tunnels() {
    let files = Files::new();
    files.secret("gateway.yaml", &GOOD.replace("cores: [1, 2]", "cores: [8191]"));
    let (out, _, code) = spillway(&files, &["check", "--config", "gateway.yaml"]);
    assert_eq!(code, Some(0));
    for line in [
        "gateway pop1: control socket /run/spillway/control.sock, metrics at http://127.0.0.1:9464/metrics",
        "  10.9.0.0/16 on lan",
        "  branch: to 203.0.113.7, children lan",
        "  lab: ESP tunnel 198.51.100.1 to 203.0.113.9, aes128gcm16, SPIs out 0x1001 in 0x2001, 2 selectors",
        "  far: ESP transport 2001:db8:1::1 to 2001:db8:1::9, aes256-sha256, SPIs out 0x1002 in 0x2002, 1 selectors",
    ] {
        assert!(out.lines().any(|found| found == line), "{line}\nnot in\n{out}");
    }
}

#[test]
fn check_shows_problems_on_standard_error_and_fails() {
    let files = Files::new();
    files.secret("bad.yaml", &SMALL.replace("tap", "tab").replace("bypass", "byepass"));
    let (out, err, code) = spillway(&files, &["check", "--config", "bad.yaml"]);
    let lines: Vec<_> = err.lines().filter(|line| line.contains(": error: ")).collect();
    assert_eq!(
        lines,
        [
            "bad.yaml:3:10: error: ports.wan.driver: found \"tab\", expected af_packet, af_xdp, tap, pcap or dpdk; did you mean `tap`?",
            "bad.yaml:6:15: error: policies[0].action: found \"byepass\", expected bypass, discard or protect; did you mean `bypass`?",
        ]
    );
    assert_eq!((out.as_str(), code), ("", Some(1)));
}

#[test]
fn a_missing_file_is_one_plain_error() {
    let (out, err, code) = spillway(&Files::new(), &["check", "--config", "none.yaml"]);
    assert_eq!(err, "spillway: none.yaml: No such file or directory (os error 2)\n");
    assert_eq!((out.as_str(), code), ("", Some(1)));
}

#[test]
fn run_refuses_what_this_machine_does_not_have_and_logs_warnings_as_the_configuration_says() {
    let files = Files::new();
    let text = GOOD.replace("cores: [1, 2]", "cores: [8191]").replace("format: text", "format: json");
    files.secret("gateway.yaml", &text);
    let (_, err, code) = spillway(&files, &["run", "--config", "gateway.yaml"]);
    let (logged, told): (Vec<_>, Vec<_>) = err.lines().partition(|line| line.starts_with('{'));
    assert!(told[0].contains("this machine has no core 8191"), "{err}");
    assert_eq!((told.len(), code), (1, Some(1)));
    let messages: Vec<serde_json::Value> =
        logged.iter().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(messages.len(), 2, "{err}");
    assert!(messages.iter().all(|message| message["level"] == "WARN"));
    assert!(messages[1]["message"].as_str().unwrap().contains("manual_sas: keys that are set by hand"));
}

/// A gateway on capture files, which needs no privilege, with one manual SA.
const MANUAL: &str = "\
gateway: { control_socket: control.sock, state: state }
workers: { cores: [0], control_core: 0 }
ports: { wan: { driver: pcap, write: wan.pcap, addresses: [198.51.100.1/24] } }
manual_sas:
  lab:
    suite: aes128gcm16
    local: 198.51.100.1
    remote: 198.51.100.2
    outbound: { spi: 0x1001, key_file: out.key }
    inbound: { spi: 0x2001, key_file: in.key }
    selectors: { local: 10.1.0.0/16, remote: 10.2.0.0/16 }
";

/// A gateway; killed when it is dropped.
struct Running(Child);

impl Running {
    /// SIGKILL.
    fn kill(&mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Starts the gateway, and waits until it answers. Returns the last sequence number of its outbound SA, too.
fn run(files: &Files) -> (Running, u64) {
    let gateway = Command::new(env!("CARGO_BIN_EXE_spillway"))
        .current_dir(files.path())
        .args(["run", "--config", "manual.yaml"])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let mut gateway = Running(gateway);
    let end = Instant::now() + Duration::from_secs(20);
    loop {
        let (out, _, code) = spillway(files, &["show", "sas", "--json", "--socket", "control.sock"]);
        if code == Some(0) {
            let sas: serde_json::Value = serde_json::from_str(&out).unwrap();
            let mut rows = sas.as_array().unwrap().iter();
            let outbound = rows.find(|row| row["direction"] == "outbound").unwrap();
            return (gateway, outbound["sequence"].as_u64().unwrap());
        }
        assert!(gateway.0.try_wait().unwrap().is_none() && Instant::now() < end, "it does not come up");
        sleep(Duration::from_millis(20));
    }
}

#[test]
fn sequence_numbers_survive_a_stop_and_a_crash() {
    let files = Files::new();
    files.secret("manual.yaml", MANUAL);
    let (mut gateway, sequence) = run(&files);
    assert_eq!(sequence, 0);
    let (_, err, code) = spillway(&files, &["run", "--config", "manual.yaml"]);
    assert!(err.contains("state of manual SAs: state is in use by another gateway"), "{err}");
    assert_eq!(code, Some(1));
    gateway.kill();
    let (mut gateway, after_crash) = run(&files);
    assert_eq!(after_crash, 1 << 24);
    let stopped = Command::new("kill").arg(gateway.0.id().to_string()).status().unwrap();
    assert!(stopped.success() && gateway.0.wait().unwrap().success(), "SIGTERM ends it with 0");
    let (_gateway, after_stop) = run(&files);
    assert_eq!(after_stop, after_crash, "a stop costs nothing");
}

#[test]
fn run_refuses_a_state_that_is_damaged() {
    let files = Files::new();
    files.secret("manual.yaml", MANUAL);
    files.secret("state/manual-sas", "spillway");
    let (_, err, code) = spillway(&files, &["run", "--config", "manual.yaml"]);
    let told = err.lines().last().unwrap();
    assert!(told.starts_with("spillway: state of manual SAs: state/manual-sas is damaged"), "{err}");
    assert!(told.contains("give every one of them new keys on both sides"), "{err}");
    assert_eq!(code, Some(1));
}
