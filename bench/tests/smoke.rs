//! Every bench runs, carries its packets, and writes the documented JSON. Nothing is asserted about time.
#![cfg(test)]

use std::process::Command;

use serde_json::Value;

/// Runs the bench with these arguments and returns its JSON.
fn run(arguments: &str) -> Value {
    let directory = tempfile::tempdir().unwrap();
    let json = directory.path().join("report.json");
    let output = Command::new(env!("CARGO_BIN_EXE_spillway-bench"))
        .args(arguments.split_whitespace())
        .arg("--json")
        .arg(&json)
        .output()
        .unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "spillway-bench {arguments}: {errors}");
    let report: Value = serde_json::from_slice(&std::fs::read(&json).unwrap()).unwrap();
    assert_eq!(report["schema"], 1);
    assert!(report["machine"]["cpu"].is_string());
    for row in rows(&report) {
        for (name, figure) in row["figures"].as_object().unwrap() {
            assert!(figure.as_f64().is_some_and(|figure| figure >= 0.0), "{arguments}: {name} is {figure}");
        }
    }
    for finding in report["findings"].as_array().unwrap() {
        assert!(finding["value"].is_number() && finding["unit"].is_string(), "{arguments}: {finding}");
    }
    report
}

fn rows(report: &Value) -> &Vec<Value> {
    report["rows"].as_array().unwrap()
}

/// Rows that have this label.
fn with<'r>(report: &'r Value, label: &str, value: &str) -> Vec<&'r Value> {
    rows(report).iter().filter(|row| row["labels"][label] == value).collect()
}

#[test]
fn crypto() {
    // The last one is no multiple of a block of CBC, and is padded.
    let report = run("crypto --suites aes128gcm16,aes128-sha256 --sizes 64,imix,1420 --rounds 1 --bursts 1");
    for size in ["64", "imix", "1420"] {
        let suites = with(&report, "bytes", size).into_iter().map(|row| &row["labels"]["suite"]);
        let suites: std::collections::BTreeSet<_> = suites.filter_map(Value::as_str).collect();
        assert_eq!(suites.into_iter().collect::<Vec<_>>(), ["aes128-sha256", "aes128gcm16"], "{size}");
    }
    assert!(!with(&report, "operation", "seal").is_empty());
    assert!(!with(&report, "engine", "bare call").is_empty());
    assert!(!with(&report, "suite", "aes128-sha256").is_empty());
}

#[test]
fn esp() {
    let report = run("esp --suites aes128gcm16,aes128-sha256,null-sha256 --sizes 64,imix --sas 1,20 \
                      --order random,round-robin --engines aws-lc --rounds 1 --ahead 100 --times 1");
    // Two sizes; one SA, and 20 SAs in two orders; and of the first suite the bare call.
    for suite in ["aes128gcm16", "aes128-sha256", "null-sha256"] {
        let paths = with(&report, "suite", suite);
        let count = |what| paths.iter().filter(|row| row["labels"]["what"] == what).count();
        assert_eq!(
            (count("outbound"), count("inbound"), count("seal"), count("open")),
            (6, 6, 2, 2),
            "{suite}"
        );
        assert_eq!(count("bare seal"), if suite == "aes128gcm16" { 2 } else { 0 });
    }
    let findings = report["findings"].to_string();
    assert!(findings.contains("whole path outbound minus the bare AEAD call"), "{findings}");
    assert!(findings.contains("20 SAs, random, over one, inbound"), "{findings}");
}

#[test]
fn scale() {
    let report =
        run("scale --parts sas,cores,churn --sas 1,10 --sizes 64 --engines aws-lc --rounds 2 --packets 2000");
    let notes = report["notes"].to_string();
    let two = rows(&report)
        .iter()
        .filter(|row| row["labels"]["case"].as_str().is_some_and(|case| case.starts_with('2')));
    if notes.contains("SKIPPED: one SA on 2 workers") {
        eprintln!("SKIPPED: one SA on 2 workers");
    } else {
        assert_eq!(two.count(), 5);
        assert!(notes.contains("Checked on the shared SA"), "{notes}");
    }
    let values = |what: &str| -> Vec<f64> {
        let findings = report["findings"].as_array().unwrap().iter();
        let named = findings.filter(|finding| finding["what"].as_str().unwrap().ends_with(what));
        named.map(|finding| finding["value"].as_f64().unwrap()).collect()
    };
    // Of SAs that come and go, and of two workers where there are two. A machine that stands still for long enough fills
    // the queues, which is not the workers' doing.
    let (lost, stalls) = (values(": packets lost"), values(": longest stall"));
    let stood_still = stalls.iter().any(|&us| us > 500.0);
    assert!(!lost.is_empty() && (stood_still || lost.iter().all(|&packets| packets == 0.0)), "{lost:?}");
    assert_eq!(with(&report, "SAs", "10").len(), 4);
    assert_eq!(with(&report, "load", "50 %").len(), 2);
}

#[test]
fn latency() {
    let report = run("latency --sizes 64,imix --loads 10,50 --sas 3 --engines aws-lc --packets 500");
    assert_eq!(rows(&report).len(), 8);
    assert!(
        rows(&report)
            .iter()
            .all(|row| row["figures"]["p999_us"].as_f64() <= row["figures"]["max_us"].as_f64())
    );
}

/// Everything takes a core and polls, so it is short.
#[cfg(feature = "dpdk")]
#[test]
fn dpdk() {
    let report = run("dpdk --sizes 64 --rounds 1 --seconds 0.2");
    assert_eq!(with(&report, "ports", "memory").len(), 1);
    let path = with(&report, "ports", "net_pcap to net_null");
    let memif = with(&report, "ports", "net_memif to net_null");
    assert_eq!((path.len(), memif.len()), (2, 2));
    // A rate, and what was lost by the gateway, by testpmd, and before either.
    let figure = |row: &Value, name: &str| row["figures"][name].as_f64();
    for row in path.iter().chain(&memif) {
        assert!(figure(row, "mpps") > Some(0.0) && figure(row, "gbits") > Some(0.0), "{row}");
        let gateway = ["tx_full", "tx_errors", "rx_missed", "rx_errors", "rx_no_buffer", "other_drops"];
        let testpmd = ["tx_full", "rx_missed", "other_drops"];
        let is_testpmd = row["labels"]["what"] == "testpmd io-forward";
        for name in if is_testpmd { &testpmd[..] } else { &gateway[..] } {
            assert!(figure(row, name).is_some(), "{name}: {row}");
        }
    }
    // net_null takes all; the generator is faster than what it sends to.
    assert!(path.iter().all(|row| figure(row, "tx_full") == Some(0.0)), "{path:?}");
    // A generator may crash in its driver when the other end goes. That is said, and it does not say what it kept.
    let crashed =
        report["notes"].as_array().unwrap().iter().filter(|note| note.to_string().contains("crashed"));
    let told = memif.iter().filter(|row| figure(row, "unsent") > Some(0.0)).count();
    assert_eq!(told + crashed.count(), memif.len(), "{memif:?}");
    assert_eq!(report["findings"].as_array().unwrap().len(), 3);
}

#[test]
fn handshake() {
    let report = run("handshake --rounds 1 --handshakes 2 --tunnels 300");
    for side in ["initiator", "responder"] {
        let rows = with(&report, "side", side);
        let kinds: Vec<_> = rows.iter().filter_map(|row| row["labels"]["kind"].as_str()).collect();
        assert_eq!(kinds, ["psk", "ecdsa", "rsa", "hybrid"]);
        assert_eq!(rows.iter().filter(|row| row["labels"]["established"] == "300").count(), 1);
    }
    let findings = report["findings"].to_string();
    assert!(
        findings.contains("psk, handshakes a second") && findings.contains("memory of a tunnel"),
        "{findings}"
    );
}

#[test]
fn an_option_that_makes_no_sense_is_named() {
    for (arguments, wrong) in [
        ("esp --ahead 0", "--ahead"),
        ("esp --sizes 1439 --suites aes128-sha256", "--sizes"),
        ("esp --sizes 20", "--sizes"),
        ("esp --suites sha256", "--suites"),
        ("esp --suites rot13", "--suites"),
        ("esp --engines gpu", "--engines"),
        ("crypto --suites aes128-sha256 --sizes 9001", "--sizes"),
        ("crypto --sizes mix", "--sizes"),
        ("latency --loads 100", "--loads"),
        ("scale --sizes 30", "--sizes"),
        ("handshake --ike aes128", "--ike"),
        ("handshake --tunnels 0", "--tunnels"),
        ("handshake --kinds fax", "--kinds"),
    ] {
        let output =
            Command::new(env!("CARGO_BIN_EXE_spillway-bench")).args(arguments.split(' ')).output().unwrap();
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success() && errors.contains(wrong), "{arguments}: {errors}");
    }
}

#[test]
fn stages_add_up_and_are_those_of_the_direction() {
    let report = run(
        "esp --suites aes128gcm16 --sizes 64 --sas 1,300 --engines aws-lc --rounds 2 --path-only --stages",
    );
    let stages = |what: &str, sas: &str| -> Vec<(String, f64)> {
        let of = |row: &&Value| row["labels"]["what"] == what && row["labels"]["SAs"] == sas;
        let staged = rows(&report).iter().filter(|row| row["labels"]["stage"].is_string()).filter(of);
        staged
            .map(|row| {
                let name = row["labels"]["stage"].as_str().unwrap().to_owned();
                (name, row["figures"]["ns"].as_f64().unwrap())
            })
            .collect()
    };
    if cfg!(target_arch = "x86_64") {
        let staged = rows(&report).iter().filter(|row| row["labels"]["stage"].is_string());
        for row in staged {
            let [ns, cycles] = ["ns", "cycles"].map(|figure| row["figures"][figure].as_f64().unwrap());
            assert!(if ns > 0.0 { cycles > 0.0 } else { cycles == 0.0 }, "{row}");
        }
    }
    for sas in ["1", "300"] {
        for (what, own) in [("outbound", "seal"), ("inbound", "open")] {
            let stages = stages(what, sas);
            let (all, parts) = stages.split_last().unwrap();
            assert_eq!(all.0, "all");
            let sum: f64 = parts.iter().map(|(_, ns)| ns).sum();
            assert!((sum - all.1).abs() < 0.01 * all.1, "{parts:?}");
            assert!(parts.iter().any(|(name, ns)| name == own && *ns > 0.0), "{what}: {parts:?}");
            assert_eq!(parts.iter().any(|(name, _)| name == "wrap"), what == "outbound");
        }
    }
}

#[test]
fn html_is_one_page_with_plots() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("report.html");
    let path = path.to_str().unwrap();
    let report = run(&format!("latency --sizes 64 --loads 10 --packets 2000 --engines aws-lc --html {path}"));
    let page = std::fs::read_to_string(path).unwrap();
    assert!(page.starts_with("<!DOCTYPE html>") && page.contains("<svg") && page.contains("p99.9"));
    // The machine that it was measured on.
    let cpu = report["machine"]["cpu"].as_str().unwrap();
    assert!(page.contains(cpu) && page.contains("flags: "), "{cpu}");
}

#[test]
fn the_peer_runs_in_the_same_rounds() {
    let report = if Command::new("sh")
        .args(["-c", "ldconfig -p | grep -q libIPSec_MB.so.1"])
        .status()
        .unwrap()
        .success()
    {
        run(
            "esp --suites aes128gcm16 --sizes 64 --sas 1,20 --order random,round-robin --engines aws-lc --rounds 1 \
             --vs ipsec-mb",
        )
    } else {
        assert!(std::env::var_os("CI").is_none(), "libipsec-mb1 is not installed");
        return eprintln!("SKIPPED: the peer of the bench, since libipsec-mb1 is not installed");
    };
    // One key, and twenty in each of the orders.
    let peer = with(&report, "engine", "ipsec-mb");
    let orders: Vec<_> = peer.iter().map(|row| row["labels"]["order"].as_str().unwrap()).collect();
    assert_eq!(orders, ["-", "random", "round robin"]);
    assert!(report["findings"].to_string().contains("ipsec-mb's bare call with as many keys"));
}

#[test]
fn a_fixed_number_of_packets() {
    let report = run("fixed --packets 200 --direction inbound --sas 3");
    assert_eq!(rows(&report)[0]["labels"]["packets"], "192");
    assert_eq!(rows(&report)[0]["labels"]["engine"], "aws-lc");
    #[cfg(target_arch = "x86_64")]
    if is_x86_feature_detected!("avx")
        && is_x86_feature_detected!("aes")
        && is_x86_feature_detected!("pclmulqdq")
    {
        let report = run("fixed --packets 64 --engine aes-ni");
        assert_eq!(rows(&report)[0]["labels"]["engine"], "aes-ni");
    }
}
