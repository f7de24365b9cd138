//! What the demo shows.

use std::os::unix::process::CommandExt;
use std::process::{Command, Output};
use std::time::Duration;

use nix::unistd::geteuid;
use serde_json::Value;

use crate::program::{Program, skip};

/// A user and a group without any right.
const NOBODY: u32 = 65_534;

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

/// The report of a demo that succeeded, after looking at all of it.
fn proved(output: &Output) -> Value {
    let (out, err) = (text(&output.stdout), text(&output.stderr));
    assert_eq!(output.status.code(), Some(0), "{out}{err}");
    assert_eq!(err, "");
    let report: Value = serde_json::from_str(&out).expect("nothing but JSON");
    assert_eq!(report["passed"], true);
    assert_eq!(report["failures"], serde_json::json!([]));

    let tunnel = &report["tunnel"];
    assert_eq!([&tunnel["protocol"], &tunnel["mode"], &tunnel["suite"]], ["esp", "tunnel", "aes128gcm16"]);
    assert_eq!(tunnel["esn"], true);
    for (pings, from) in report["pings"].as_array().unwrap().iter().zip(["left", "right"]) {
        assert_eq!(pings["from"], from);
        assert!(number(&pings["sent"]) > 0);
        assert_eq!(pings["answered"], pings["sent"]);
    }

    let flows = report["throughput"]["flows"].as_array().unwrap();
    assert_eq!([&flows[0]["from"], &flows[1]["from"]], ["left", "right"]);
    let mut carried = 0;
    for flow in flows {
        let (sent, received) = (number(&flow["sent"]), number(&flow["received"]));
        assert_eq!(number(&flow["lost"]), sent - received);
        assert!(received > 1000, "a second of traffic: {flow}");
        let (p50, p99) = (number(&flow["latency"]["p50_ns"]), number(&flow["latency"]["p99_ns"]));
        assert!(1_000 < p50 && p50 <= p99 && p99 < 1_000_000_000, "{flow}");
        assert!(flow["mbit_per_second"].as_f64().unwrap() > 1.0);
        carried += received;
    }
    let rekey = &report["rekey"];
    assert!(number(&rekey["child_rekeys"]) >= 3 && number(&rekey["ike_rekeys"]) >= 1, "{rekey}");
    for flow in rekey["flows"].as_array().unwrap() {
        assert!(number(&flow["sent"]) > 100, "{flow}");
        assert_eq!(flow["lost"], 0, "{flow}");
        carried += number(&flow["received"]);
    }
    assert_eq!(report["gateways"].as_array().unwrap().len(), 2);

    let proof = &report["proof"];
    let wire = &proof["wire"];
    assert!(number(&wire["esp"]) >= carried, "every packet was on the wire: {wire}");
    assert_eq!([&wire["other"], &wire["with_plaintext"]], [0, 0]);
    assert!(wire["lost"].is_u64(), "{wire}");
    let kinds = ["esp", "ike", "arp", "nd"].map(|kind| number(&wire[kind]));
    assert_eq!(number(&wire["frames"]), kinds.iter().sum::<u64>());
    assert!(kinds[1] >= 6, "two messages of IKE_SA_INIT, IKE_INTERMEDIATE and IKE_AUTH each: {wire}");
    // Two of each Child SA.
    assert_eq!(wire["spis"].as_array().unwrap().len() as u64, 2 + 2 * number(&rekey["child_rekeys"]));
    assert!(number(&proof["lan"]["with_plaintext"]) > 0, "the search finds plaintext where it is");
    for (attack, reason) in [(&proof["tampered"], "icv_bad"), (&proof["replayed"], "replay_duplicate")] {
        assert_eq!(attack["reason"], reason);
        assert_eq!(number(&attack["dropped_after"]), number(&attack["dropped_before"]) + 1);
        assert_eq!(attack["answered"], false);
    }
    assert_eq!(proof["genuine_answered"], true);
    report
}

fn number(value: &Value) -> u64 {
    value.as_u64().unwrap_or_else(|| panic!("{value} is no number"))
}

#[test]
fn a_tunnel_that_carries_and_repels() {
    let Some(program) = Program::new("a_tunnel_that_carries_and_repels") else { return };
    let output = program.demo(&["--seconds", "1", "--json"]).output().unwrap();
    proved(&output);
    program.left_nothing(Duration::ZERO);
}

#[test]
fn no_root_is_needed() {
    if !geteuid().is_root() {
        // Then the other tests show it.
        return;
    }
    let Some(program) = Program::new("no_root_is_needed") else { return };
    let mut may = Command::new("unshare");
    if !may.args(["-Urn", "true"]).uid(NOBODY).gid(NOBODY).status().is_ok_and(|status| status.success()) {
        return skip("no_root_is_needed", "this kernel has no user namespaces without root");
    }
    let output = program.demo(&["--seconds", "1", "--json"]).uid(NOBODY).gid(NOBODY).output().unwrap();
    proved(&output);
    program.left_nothing(Duration::ZERO);
}

#[test]
fn people_get_lines_a_table_and_a_proof() {
    let Some(program) = Program::new("people_get_lines_a_table_and_a_proof") else { return };
    let output = program.demo(&["--seconds", "2"]).output().unwrap();
    let (out, err) = (text(&output.stdout), text(&output.stderr));
    assert_eq!((output.status.code(), err.as_str()), (Some(0), ""), "{out}");
    for expected in [
        "Tunnel   ESP in tunnel mode, both ways, aes128gcm16 with 64-bit sequence numbers (ESN)",
        "Keys     by IKEv2: X25519 and ML-KEM-768, ECDSA certificates",
        "Ping     host left to host right: 5 of 5 answered",
        "Ping     host right to host left: 5 of 5 answered",
        " of 2 s  ",
        "DIRECTION      MBIT/S",
        "\nleft to right ",
        "\nright to left ",
        " times the IKE SA, from both sides, under traffic: ",
        " received, 0 lost",
        ", 0 anything else.",
        "The wiretap itself lost ",
        "A ping with one bit flipped: dropped, icv_bad 0 -> 1.",
        "The genuine packet after it: accepted and answered.",
        "The same packet once more: dropped, replay_duplicate 0 -> 1.",
    ] {
        assert!(out.contains(expected), "{expected:?} is not in\n{out}");
    }
    let header: Vec<_> =
        out.lines().find(|line| line.starts_with("DIRECTION")).unwrap().split_whitespace().collect();
    assert_eq!(header, ["DIRECTION", "MBIT/S", "PACKETS", "PACKETS/S", "LOST", "P50", "P99", "P99.9"]);
    let is_drops = |line: &str| {
        line.split_whitespace().eq(["DROPS", "REASON", "PACKETS"])
            || line == "Drops    none in either gateway"
    };
    assert_eq!(out.lines().filter(|line| is_drops(line)).count(), 1, "{out}");
    assert!(!out.contains('\x1b'), "no terminal, no escape sequences");
    program.left_nothing(Duration::ZERO);
}

#[test]
fn a_kernel_that_forbids_namespaces_is_explained() {
    let Some(program) = Program::new("a_kernel_that_forbids_namespaces_is_explained") else { return };
    // The limits of a user namespace can be lowered inside of it without anybody else's noticing.
    let limit = "echo 0 > /proc/sys/user/max_net_namespaces && exec \"$0\" demo --json";
    let path = program.path();
    let output = Command::new("unshare").args(["-Ur", "sh", "-c", limit]).arg(path).output().unwrap();
    let err = text(&output.stderr);
    assert_eq!(output.status.code(), Some(1));
    assert!(err.contains("the sysctl user.max_net_namespaces is 0"), "{err}");
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(report["passed"], false);
    assert!(err.contains(report["failures"][0].as_str().unwrap()));
    program.left_nothing(Duration::ZERO);
}

#[test]
fn the_inner_process_does_not_run_by_itself() {
    let Some(program) = Program::new("the_inner_process_does_not_run_by_itself") else { return };
    let output = program.demo(&["--inside"]).output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(text(&output.stderr).contains("for `spillway demo` itself"));
    program.left_nothing(Duration::ZERO);
}
