//! How the demo ends before its time, and that nothing of it stays then either.

use std::io::{BufRead, BufReader, Read};
use std::os::unix::process::CommandExt;
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill, killpg};
use nix::unistd::Pid;

use crate::program::Program;

/// A demo whose traffic flows, in a process group of its own.
fn under_way(program: &Program) -> Child {
    let mut demo = program.demo(&["--seconds", "60"]);
    // A group of its own, as in a shell.
    demo.process_group(0);
    let mut demo = demo.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(demo.stdout.take().unwrap()).lines();
    assert!(lines.any(|line| line.unwrap().contains(" of 60 s ")), "no traffic");
    assert!(program.processes().len() >= 4, "outer and inner process, two gateways");
    demo
}

fn send(demo: &Child, signal: Signal) {
    kill(Pid::from_raw(demo.id().cast_signed()), signal).unwrap();
}

#[test]
fn ctrl_c_ends_everything() {
    let Some(program) = Program::new("ctrl_c_ends_everything") else { return };
    for (signal, code) in [(Signal::SIGINT, 130), (Signal::SIGTERM, 143), (Signal::SIGHUP, 129)] {
        let mut demo = under_way(&program);
        let start = Instant::now();
        send(&demo, signal);
        assert_eq!(demo.wait().unwrap().code(), Some(code));
        assert!(start.elapsed() < Duration::from_secs(5), "at once");
        // When it has said that all is gone, all is gone.
        program.left_nothing(Duration::ZERO);
        let mut err = String::new();
        demo.stderr.take().unwrap().read_to_string(&mut err).unwrap();
        assert_eq!(err, "\nspillway: demo: interrupted; everything that it made is gone\n");
    }
}

/// What a terminal does: the signal goes to all processes of the group at once.
#[test]
fn ctrl_c_of_a_terminal_ends_everything() {
    let Some(program) = Program::new("ctrl_c_of_a_terminal_ends_everything") else { return };
    let mut demo = under_way(&program);
    killpg(Pid::from_raw(demo.id().cast_signed()), Signal::SIGINT).unwrap();
    assert_eq!(demo.wait().unwrap().code(), Some(130));
    program.left_nothing(Duration::ZERO);
    let mut err = String::new();
    demo.stderr.take().unwrap().read_to_string(&mut err).unwrap();
    assert_eq!(err, "\nspillway: demo: interrupted; everything that it made is gone\n");
}

#[test]
fn a_demo_that_is_killed_leaves_nothing() {
    let Some(program) = Program::new("a_demo_that_is_killed_leaves_nothing") else { return };
    let mut demo = under_way(&program);
    send(&demo, Signal::SIGKILL);
    demo.wait().unwrap();
    program.left_nothing(Duration::from_secs(5));
}

#[test]
fn a_gateway_that_dies_is_told() {
    let Some(program) = Program::new("a_gateway_that_dies_is_told") else { return };
    let mut demo = program
        .demo(&["--seconds", "3", "--json"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let end = Instant::now() + Duration::from_secs(10);
    let gateway = loop {
        let processes = program.processes();
        let found = processes.iter().find(|process| {
            std::fs::read_to_string(process.join("cmdline")).is_ok_and(|line| line.contains("right.yaml"))
        });
        match found {
            Some(process) => break process.file_name().unwrap().to_str().unwrap().parse().unwrap(),
            None => assert!(Instant::now() < end, "no gateway starts"),
        }
    };
    kill(Pid::from_raw(gateway), Signal::SIGKILL).unwrap();
    let mut out = String::new();
    demo.stdout.take().unwrap().read_to_string(&mut out).unwrap();
    assert_eq!(demo.wait().unwrap().code(), Some(1));
    let report: serde_json::Value = serde_json::from_str(&out).unwrap();
    assert_eq!(report["passed"], false);
    // Which step finds it depends on when it died.
    let failures = report["failures"].as_array().unwrap();
    assert!(failures.iter().any(|failure| failure.as_str().unwrap().contains("gateway right")), "{report}");
    program.left_nothing(Duration::ZERO);
}
