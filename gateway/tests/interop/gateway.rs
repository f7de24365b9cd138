//! A Spillway process in a namespace.

use std::fs::{self, OpenOptions};
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use dataplane::crypto::Suite;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

use crate::netns::Namespace;
use crate::{PATIENCE, wait_for};

/// The files of a gateway: its configuration, its keys, its socket, what it says.
pub struct Files {
    directory: tempfile::TempDir,
    keys: u64,
    /// Where the gateway is to answer for its metrics.
    pub metrics: Option<&'static str>,
}

impl Files {
    pub fn new() -> Self {
        Self { directory: tempfile::tempdir().expect("makes a directory"), keys: 0, metrics: None }
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// Writes a key file.
    pub fn key_file(&self, name: &str, key: &str) {
        let path = self.path(name);
        let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path).unwrap();
        file.write_all(key.as_bytes()).unwrap();
    }

    /// Writes a key file with a new key of the suite; returns the key in hexadecimal.
    pub fn new_key(&mut self, name: &str, suite: Suite) -> String {
        self.keys += 1;
        let key = key(self.keys, suite);
        self.key_file(name, &key);
        key
    }

    /// Runs `spillway` in the directory: standard output, standard error, exit code.
    pub fn spillway(&self, arguments: &[&str]) -> (String, String, Option<i32>) {
        let output =
            Command::new(SPILLWAY).current_dir(self.directory.path()).args(arguments).output().unwrap();
        let text = |bytes| String::from_utf8(bytes).unwrap();
        (text(output.stdout), text(output.stderr), output.status.code())
    }
}

/// A key of the suite that is another for each number, in hexadecimal.
pub fn key(number: u64, suite: Suite) -> String {
    let mut state = number.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let bytes = (0..suite.key_len()).map(|_| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 56) as u8
    });
    bytes.map(|byte| format!("{byte:02x}")).collect()
}

const SPILLWAY: &str = env!("CARGO_BIN_EXE_spillway");

/// A running gateway. Dropped, it is killed.
pub struct Gateway {
    pub files: Files,
    process: Child,
}

impl Gateway {
    /// Starts a gateway with `ports`, `manual_sas` and so on in YAML; it answers when this returns.
    pub fn start(namespace: &Namespace, files: Files, yaml: &str) -> Self {
        let socket = files.path("control.sock");
        let _stale = fs::remove_file(&socket);
        let metrics = files.metrics.map_or(String::new(), |address| format!(", metrics: '{address}'"));
        let state = files.path("state");
        let text = format!(
            "gateway: {{ control_socket: {}, state: {}{metrics} }}\n{yaml}",
            socket.display(),
            state.display()
        );
        let config = files.path("gateway.yaml");
        fs::write(&config, text).unwrap();
        let log = OpenOptions::new().create(true).append(true).open(files.path("log")).unwrap();
        let process = namespace.run(|| {
            Command::new(SPILLWAY)
                .args(["run", "--config"])
                .arg(&config)
                .stdin(Stdio::null())
                .stdout(Stdio::null())
                .stderr(log)
                .spawn()
        });
        let mut gateway = Self { files, process: process.unwrap() };
        wait_for("the gateway to come up", || gateway.is_up().then_some(()));
        gateway
    }

    fn is_up(&mut self) -> bool {
        if let Some(status) = self.process.try_wait().unwrap() {
            panic!("the gateway ended ({status}): {}", self.log());
        }
        self.files.path("control.sock").exists() && self.try_show("status").is_some()
    }

    fn try_show(&self, what: &str) -> Option<Value> {
        let socket = self.files.path("control.sock");
        let (out, _, code) = self.files.spillway(&["show", what, "--json", "--socket", path_text(&socket)]);
        (code == Some(0)).then(|| serde_json::from_str(&out).expect("JSON"))
    }

    /// What `spillway show WHAT --json` says.
    pub fn show(&self, what: &str) -> Value {
        self.try_show(what).unwrap_or_else(|| panic!("show {what}: no answer; {}", self.log()))
    }

    /// A row of a table.
    pub fn row(&self, what: &str, is_it: impl Fn(&Value) -> bool) -> Value {
        let table = self.show(what);
        let rows = table.as_array().expect("a table");
        rows.iter().find(|row| is_it(row)).cloned().unwrap_or_else(|| panic!("no such row in {table}"))
    }

    /// Packets dropped for a reason, all workers together.
    pub fn drops(&self, reason: &str) -> u64 {
        count(&self.row("drops", |row| row["reason"] == reason)["packets"])
    }

    /// What was dropped, by reason, for messages.
    pub fn all_drops(&self) -> String {
        let table = self.show("drops");
        let rows = table.as_array().expect("a table").iter();
        let rows = rows.filter(|row| row["packets"] != 0);
        rows.map(|row| format!("{}={} ", row["reason"], row["packets"])).collect()
    }

    /// The SA of a tunnel in one direction.
    pub fn sa(&self, tunnel: &str, direction: &str) -> Value {
        self.row("sas", |row| row["tunnel"] == tunnel && row["direction"] == direction)
    }

    /// What the gateway logged.
    pub fn log(&self) -> String {
        fs::read_to_string(self.files.path("log")).unwrap_or_default()
    }

    /// Kills it without warning; what it leaves behind.
    #[allow(dead_code, reason = "not all tests that share this need it")]
    pub fn kill(mut self) -> Files {
        self.process.kill().unwrap();
        let _status = self.process.wait();
        std::mem::replace(&mut self.files, Files::new())
    }

    /// `spillway VERB TARGET`: what it prints, or its error.
    #[allow(dead_code, reason = "not all tests that share this need it")]
    pub fn operate(&self, verb: &str, target: &str) -> Result<String, String> {
        let socket = self.files.path("control.sock");
        let (out, error, code) = self.files.spillway(&[verb, target, "--socket", path_text(&socket)]);
        if code == Some(0) { Ok(out.trim().to_owned()) } else { Err(error.trim().to_owned()) }
    }

    /// Sends SIGTERM; how it ended, and how long that took.
    pub fn terminate(mut self) -> (ExitStatus, Duration, Files) {
        let since = Instant::now();
        kill(Pid::from_raw(self.process.id() as i32), Signal::SIGTERM).unwrap();
        while since.elapsed() < PATIENCE {
            if let Some(status) = self.process.try_wait().unwrap() {
                let files = std::mem::replace(&mut self.files, Files::new());
                return (status, since.elapsed(), files);
            }
            std::thread::sleep(Duration::from_millis(2));
        }
        panic!("the gateway does not end: {}", self.log());
    }
}

impl Drop for Gateway {
    fn drop(&mut self) {
        let _gone = self.process.kill();
        let status = self.process.wait();
        if std::thread::panicking() {
            eprintln!("a gateway of the failed test ended ({status:?}); it said:\n{}", self.log());
        }
    }
}

/// A number in JSON.
pub fn count(value: &Value) -> u64 {
    value.as_u64().unwrap_or_else(|| panic!("{value} is no count"))
}

fn path_text(path: &Path) -> &str {
    path.to_str().expect("a path in UTF-8")
}
