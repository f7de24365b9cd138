//! A charon of strongSwan in a namespace, with the ESP that it has in user space.
//!
//! It has a mount namespace of its own, since charon insists on files in /run; everything else that it reads and writes
//! is in a directory of its own. swanctl controls it. `kernel-libipsec` carries ESP in UDP only, without ESN, through a
//! TUN device; charon's networks sit on its loopback device.

use std::fs;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use crate::netns::Namespace;
use crate::wait_for;

/// What a test needs installed.
pub const TOOLS: &[&str] = &["swanctl", "unshare"];

const CHARON: &str = "/usr/lib/ipsec/charon";

/// `kernel-libipsec` must come before `kernel-netlink`, which serves addresses and routes.
const PLUGINS: &str = "random nonce aes sha1 sha2 hmac kdf cmac md5 pem pkcs1 pkcs8 x509 constraints revocation pubkey \
                       curve25519 gcm chapoly openssl socket-default kernel-libipsec kernel-netlink vici updown attr resolve \
                       eap-identity eap-mschapv2 eap-tls";

/// A running charon. Dropped, it is killed.
pub struct Charon {
    directory: tempfile::TempDir,
    process: Child,
}

/// What it is given: the text of a swanctl.conf, and files below the directory of swanctl, such as `x509/peer.pem`.
#[derive(Default)]
pub struct Setup<'a> {
    pub conf: String,
    pub files: Vec<(&'a str, String)>,
    /// More lines of the section `charon` of strongswan.conf.
    pub charon: &'a str,
}

impl Charon {
    /// Starts it and loads its connections; it answers when this returns.
    pub fn start(namespace: &Namespace, setup: &Setup<'_>) -> Self {
        let directory = tempfile::tempdir().expect("makes a directory");
        let path = |name: &str| directory.path().join(name);
        for below in ["x509", "x509ca", "x509ocsp", "x509aa", "x509ac", "x509crl", "pubkey", "private", "rsa"]
            .into_iter()
            .chain(["ecdsa", "bliss", "pkcs8", "pkcs12"])
        {
            fs::create_dir(path(below)).unwrap();
        }
        fs::write(path("swanctl.conf"), &setup.conf).unwrap();
        for (name, text) in &setup.files {
            fs::write(path(name), text).unwrap();
        }
        fs::write(path("strongswan.conf"), settings(&directory.path().display().to_string(), setup.charon))
            .unwrap();
        let script = format!("mount -t tmpfs none /run && exec {CHARON}");
        let process = namespace.run(|| {
            Command::new("unshare")
                .args(["-m", "sh", "-c", &script])
                .env("STRONGSWAN_CONF", path("strongswan.conf"))
                .stdin(Stdio::null())
                .stdout(Stdio::null())
                .stderr(Stdio::null())
                .spawn()
        });
        let mut charon = Self { directory, process: process.expect("charon starts") };
        wait_for("charon to come up", || charon.answers().then_some(()));
        charon.swanctl(&[
            "--load-all",
            "--noprompt",
            "--file",
            charon.path("swanctl.conf").to_str().unwrap(),
        ]);
        charon
    }

    fn answers(&mut self) -> bool {
        if let Some(status) = self.process.try_wait().unwrap() {
            panic!("charon ended ({status}): {}", self.log());
        }
        self.path("vici").exists() && self.try_swanctl(&["--stats"]).is_ok()
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// Runs swanctl; panics with charon's log when it fails.
    pub fn swanctl(&self, arguments: &[&str]) -> String {
        self.try_swanctl(arguments)
            .unwrap_or_else(|output| panic!("swanctl {arguments:?}: {output}\n{}", self.log()))
    }

    /// Runs swanctl: what it says, and whether it succeeded.
    pub fn try_swanctl(&self, arguments: &[&str]) -> Result<String, String> {
        let uri = format!("unix://{}", self.path("vici").display());
        let output = Command::new("swanctl")
            .args(arguments)
            .args(["--uri", &uri])
            .env("STRONGSWAN_CONF", self.path("strongswan.conf"))
            .stdin(Stdio::null())
            .output()
            .expect("swanctl runs");
        let said = [output.stdout, output.stderr].concat();
        let said = String::from_utf8_lossy(&said).into_owned();
        if output.status.success() { Ok(said) } else { Err(said) }
    }

    /// Sets up a child, within seconds.
    pub fn initiate(&self, child: &str) {
        self.swanctl(&["--initiate", "--child", child, "--timeout", "15"]);
    }

    /// What `swanctl --list-sas` says.
    pub fn sas(&self) -> String {
        self.swanctl(&["--list-sas"])
    }

    /// Ends it without warning.
    pub fn kill(&mut self) {
        self.process.kill().unwrap();
        let _status = self.process.wait();
    }

    /// What charon logged.
    pub fn log(&self) -> String {
        fs::read_to_string(self.path("log")).unwrap_or_default()
    }

    /// Waits for charon to log something.
    pub fn wait_for_log(&self, text: &str) {
        wait_for(&format!("charon to log `{text}`"), || self.log().contains(text).then_some(()));
    }
}

impl Drop for Charon {
    fn drop(&mut self) {
        let _gone = self.process.kill();
        let _status = self.process.wait();
        if std::thread::panicking() {
            eprintln!("charon said:\n{}", self.log());
        }
    }
}

fn settings(directory: &str, charon: &str) -> String {
    format!(
        "charon {{\n\
         load_modular = no\n\
         load = {PLUGINS}\n\
         retransmit_timeout = 1.0\n\
         retransmit_base = 1.4\n\
         {charon}\n\
         filelog {{ log {{\n path = {directory}/log\n default = 1\n ike = 2\n flush_line = yes\n }} }}\n\
         plugins {{\n\
         vici {{ socket = unix://{directory}/vici }}\n\
         openssl {{ load_legacy = yes }}\n\
         kernel-libipsec {{ allow_peer_ts = yes }}\n\
         }}\n}}\n"
    )
}
