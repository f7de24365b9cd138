//! What the program refuses, as its user sees it: exit code 1, and a message that says what and where.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use crate::gateway::Files;
use crate::netns::{Namespace, privileged};
use crate::serial;

const GOOD: &str = "\
gateway: { control_socket: control.sock, state: state }
workers: { cores: [0], control_core: 0 }
ports:
  wan: { driver: af_packet, device: wan0, addresses: [198.51.100.1/24] }
manual_sas:
  lab:
    suite: aes128gcm16
    local: 198.51.100.1
    remote: 198.51.100.2
    outbound: { spi: 0x1001, key_file: out.key }
    inbound: { spi: 0x2001, key_file: in.key }
    selectors: { local: 10.1.0.0/16, remote: 10.2.0.0/16 }
";

fn files(yaml: &str) -> Files {
    let mut files = Files::new();
    files.new_key("out.key", "aes128gcm16".parse().unwrap());
    files.new_key("in.key", "aes128gcm16".parse().unwrap());
    fs::write(files.path("gateway.yaml"), yaml).unwrap();
    files
}

/// Both `check` and `run` must fail with a message that contains all of `parts`.
fn refused(files: &Files, parts: &[&str]) {
    for command in ["check", "run"] {
        let (out, err, code) = files.spillway(&[command, "--config", "gateway.yaml"]);
        assert_eq!((out.as_str(), code), ("", Some(1)), "{command}: {err}");
        for part in parts {
            assert!(err.contains(part), "{command}: no \"{part}\" in {err}");
        }
        assert!(!err.contains("panicked"), "{err}");
    }
}

#[test]
fn a_key_file_that_others_can_read_is_refused() {
    let files = files(GOOD);
    assert_eq!(files.spillway(&["check", "--config", "gateway.yaml"]).2, Some(0));
    for mode in [0o640, 0o604, 0o644, 0o660] {
        fs::set_permissions(files.path("in.key"), fs::Permissions::from_mode(mode)).unwrap();
        refused(&files, &["gateway.yaml:11:", "manual_sas.lab.inbound.key_file", "in.key", "chmod 600"]);
    }
    for mode in [0o600, 0o400] {
        fs::set_permissions(files.path("in.key"), fs::Permissions::from_mode(mode)).unwrap();
        assert_eq!(files.spillway(&["check", "--config", "gateway.yaml"]).2, Some(0));
    }
}

#[test]
fn no_message_shows_a_key() {
    let files = files(&GOOD.replace("aes128gcm16", "aes256gcm16"));
    let key = fs::read_to_string(files.path("in.key")).unwrap();
    for command in ["check", "run"] {
        let (out, err, code) = files.spillway(&[command, "--config", "gateway.yaml"]);
        assert_eq!(code, Some(1), "{err}");
        assert!(err.contains("36"), "its length is wrong: {err}");
        assert!(!err.contains(&key[..8]) && !out.contains(&key[..8]), "{err}");
    }
}

#[test]
fn every_problem_of_a_file_is_told_at_once() {
    let text = GOOD
        .replace("aes128gcm16", "aes128")
        .replace("spi: 0x1001", "spi: 7")
        .replace("remote: 198.51.100.2", "remote: 2001:db8::1")
        .replace("key_file: in.key", "keyfile: in.key");
    let parts = ["manual_sas.lab.suite", "manual_sas.lab.outbound.spi", "manual_sas.lab.remote", "key_file"];
    refused(&files(&text), &parts);
}

#[test]
fn what_is_no_yaml_is_refused() {
    refused(&files("ports: [\n  wan: }\n"), &["gateway.yaml:2:"]);
    refused(&files(""), &["ports"]);
    let binary = files("");
    fs::write(binary.path("gateway.yaml"), [0xff, 0xfe, 0, 1, 2]).unwrap();
    refused(&binary, &["gateway.yaml"]);
}

#[test]
fn a_device_that_is_not_there_is_named_and_nothing_is_left_behind() {
    privileged(&[], || {
        let _alone = serial();
        let namespace = Namespace::new();
        let files = files(GOOD);
        let (_, err, code) = namespace.run(|| files.spillway(&["run", "--config", "gateway.yaml"]));
        assert_eq!(code, Some(1), "{err}");
        for part in ["ports.wan", "af_packet", "wan0"] {
            assert!(err.contains(part), "no \"{part}\" in {err}");
        }
        assert!(!files.path("control.sock").exists());
    });
}
