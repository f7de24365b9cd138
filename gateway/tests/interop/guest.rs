//! A real Linux kernel as the peer: user-mode Linux, which is a process. `guest.py` is its init and does what it
//! is asked; the kernel's messages go to a log.

use std::fs::File;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::Duration;

use serde_json::{Value, json};

use crate::netns::Namespace;

/// How long the guest may take for a request, its start included, on a machine that is busy with other things.
const PATIENCE: Duration = Duration::from_secs(60);
/// Its interface.
pub const DEVICE: &str = "vec0";

/// A running guest. Dropped, it is killed.
pub struct Guest {
    /// `unshare`, with the guest as PID 1 of a namespace: none of the guest's processes outlives it.
    process: Child,
    requests: ChildStdin,
    answers: Receiver<String>,
}

impl Guest {
    /// Boots a guest whose only link is `device` of the namespace; it answers when this returns.
    pub fn boot(namespace: &Namespace, device: &str, log: &Path) -> Self {
        let init = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/interop/guest.py");
        let log = File::create(log).expect("makes the guest's log");
        let start = || {
            Command::new("unshare")
                .args(["--pid", "--fork", "--kill-child", "linux.uml"])
                .args(["mem=128M", "root=/dev/root", "rootfstype=hostfs", "rootflags=/", "ro", "quiet"])
                .arg(format!("init={init}"))
                .arg(format!("{DEVICE}:transport=raw,ifname={device},depth=128"))
                .args(["con=null", "con0=null,fd:2", "con1=fd:0,fd:1"])
                .stdin(Stdio::piped())
                .stdout(Stdio::piped())
                .stderr(log)
                .spawn()
                .expect("starts unshare")
        };
        let mut process = namespace.run(start);
        let requests = process.stdin.take().expect("it is piped");
        let output = BufReader::new(process.stdout.take().expect("it is piped"));
        let (line, answers) = channel();
        // It ends with the guest, or when nobody listens any more.
        std::thread::spawn(move || output.lines().map_while(Result::ok).try_for_each(|text| line.send(text)));
        let guest = Self { process, requests, answers };
        guest.answer("start");
        guest
    }

    /// Runs a program in the guest, with arguments split at blanks; panics with its output when it fails.
    pub fn run(&mut self, command: &str) -> String {
        let argv: Vec<&str> = command.split_whitespace().collect();
        let done = self.ask(&json!({ "do": "run", "argv": argv }));
        let text = done["text"].as_str().expect("text").to_owned();
        assert_eq!(done["code"], 0, "{command}: {text}");
        text
    }

    /// Asks for something else that `guest.py` can do; panics when it cannot.
    pub fn ask(&mut self, request: &Value) -> Value {
        self.try_to(request).unwrap_or_else(|error| panic!("{error}"))
    }

    /// Asks for something that `guest.py` can do; what it says when it cannot.
    pub fn try_to(&mut self, request: &Value) -> Result<Value, String> {
        writeln!(self.requests, "{request}").expect("the guest takes requests");
        let answer = self.answer(&request.to_string());
        answer.get("ok").cloned().ok_or_else(|| format!("{request}: {}", answer["error"]))
    }

    fn answer(&self, request: &str) -> Value {
        loop {
            // Longer than the guest's own patience, so that it can say what it waited for.
            let line = match self.answers.recv_timeout(3 * PATIENCE) {
                Ok(line) => line,
                Err(RecvTimeoutError::Timeout) => panic!("the guest does not answer: {request}"),
                Err(RecvTimeoutError::Disconnected) => panic!("the guest is gone: {request}"),
            };
            // Before the console is raw, user-mode Linux may write of its own.
            if let Ok(answer) = serde_json::from_str(&line) {
                return answer;
            }
        }
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        let _gone = self.process.kill();
        let _status = self.process.wait();
    }
}
