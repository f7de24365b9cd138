//! A gateway of the demo: an ordinary `spillway run` with an ordinary configuration, in a namespace of its own.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use dataplane::drops::DropReason;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde::de::DeserializeOwned;

use super::authority::{CA, certificate_file, identity, key_file};
use super::netns::Namespace;
use super::plan::{LAN, Side, WAN};
use crate::control::{Client, Request, Target, What};
use crate::snapshot;

/// How long a gateway may take to start, and to stop.
const PATIENCE: Duration = Duration::from_secs(10);
/// Lines of a gateway's log that are shown when something failed.
const LOG_LINES: usize = 10;

/// The connection of both gateways, and its child.
const CONNECTION: &str = "demo";
const CHILD: &str = "net";
/// Key exchange of the IKE SA: X25519, and ML-KEM-768 on top of it (RFC 9370).
const IKE_PROPOSAL: &str = "aes256gcm16-prfsha384-x25519-ke1_mlkem768";
const ESP_PROPOSAL: &str = "aes128gcm16-esn";

/// A running gateway. Dropping it kills it.
pub(super) struct Gateway {
    pub(super) side: Side,
    process: Child,
    directory: PathBuf,
}

impl Gateway {
    /// Starts the gateway of a side in its namespace, with one worker on `worker_core`. Files go to `directory`.
    pub(super) fn start(
        side: Side,
        namespace: &Namespace,
        directory: &Path,
        (worker_core, control_core): (usize, usize),
    ) -> Result<Self> {
        let config = directory.join(format!("{side}.yaml"));
        fs::write(&config, configuration(side, worker_core, control_core))
            .context("cannot write the configuration")?;
        let log = File::create(log_file(directory, side)).context("cannot write the log")?;
        let process = namespace.run(|| {
            Command::new("/proc/self/exe")
                .arg0("spillway")
                .arg("run")
                .arg("--config")
                .arg(&config)
                .stdin(Stdio::null())
                .stdout(Stdio::null())
                .stderr(log)
                // Ctrl-C on the terminal is for the demo, which then ends its gateways.
                .process_group(0)
                .spawn()
                .context("cannot start the gateway")
        })?;
        Ok(Self { side, process, directory: directory.to_owned() })
    }

    /// Waits until the gateway answers on its control socket: then its workers run.
    pub(super) fn wait_until_up(&mut self) -> Result<snapshot::Status> {
        let end = Instant::now() + PATIENCE;
        loop {
            match self.ask(What::Status) {
                Ok(status) => return Ok(status),
                Err(error) if Instant::now() > end => {
                    return Err(error).with_context(|| format!("gateway {} does not come up", self.side));
                }
                Err(_) => {}
            }
            if let Some(status) = self.process.try_wait()? {
                bail!("gateway {} stopped at once: {status}", self.side);
            }
            sleep(Duration::from_millis(10));
        }
    }

    /// Waits until the connection and its child are up.
    pub(super) fn wait_until_connected(&self) -> Result<()> {
        let end = Instant::now() + PATIENCE;
        loop {
            let connection = self.connection()?;
            if connection.children.iter().any(|child| child.tunnels > 0) {
                return Ok(());
            }
            if Instant::now() > end {
                let reason = connection.last_error.map_or("no reason is known".into(), |error| error.reason);
                bail!("the connection of gateway {} does not come up: {reason}", self.side);
            }
            sleep(Duration::from_millis(10));
        }
    }

    /// The SPIs of the child's SAs now, in both directions.
    pub(super) fn spis(&self) -> Result<Vec<u32>> {
        let children = self.connection()?.ike_sas.into_iter().flat_map(|ike| ike.children);
        Ok(children.flat_map(|child| [child.spi_in, child.spi_out]).collect())
    }

    /// Replaces the keys of the child, as `spillway rekey demo/net` does.
    pub(super) fn rekey_child(&self) -> Result<()> {
        self.rekey(Some(CHILD))
    }

    /// Replaces the IKE SA, as `spillway rekey demo` does.
    pub(super) fn rekey_ike(&self) -> Result<()> {
        self.rekey(None)
    }

    fn rekey(&self, child: Option<&str>) -> Result<()> {
        let target = Target { connection: CONNECTION.into(), child: child.map(str::to_owned) };
        let socket = socket(&self.directory, self.side);
        let done = Client::connect(&socket).and_then(|mut client| client.ask(&Request::Rekey(target)));
        done.map(drop).with_context(|| format!("gateway {} cannot rekey", self.side))
    }

    fn connection(&self) -> Result<snapshot::Connection> {
        let connections: Vec<snapshot::Connection> = self.ask(What::Connections)?;
        connections.into_iter().next().context("the gateway has no connection")
    }

    /// Asks the gateway, as `spillway show` does.
    pub(super) fn ask<T: DeserializeOwned>(&self, what: What) -> Result<T> {
        let socket = socket(&self.directory, self.side);
        let answer = Client::connect(&socket).and_then(|mut client| client.show(what));
        let answer = answer.with_context(|| format!("gateway {} does not answer", self.side))?;
        Ok(serde_json::from_value(answer)?)
    }

    /// Packets that it dropped, by reason, those of its ports included (`wan.rx_missed`). Only what is not zero.
    pub(super) fn drops(&self) -> Result<BTreeMap<String, u64>> {
        let reasons: Vec<snapshot::Drop> = self.ask(What::Drops)?;
        let mut drops: BTreeMap<_, _> = reasons.into_iter().map(|drop| (drop.reason, drop.packets)).collect();
        for port in self.ask::<Vec<snapshot::Port>>(What::Ports)? {
            let counters = port.counters;
            for (name, packets) in [
                ("rx_missed", counters.rx_missed),
                ("rx_errors", counters.rx_errors),
                ("rx_too_long", counters.rx_too_long),
                ("rx_no_buffer", counters.rx_no_buffer),
                ("tx_errors", counters.tx_errors),
            ] {
                drops.insert(format!("{}.{name}", port.name), packets);
            }
        }
        drops.retain(|_, packets| *packets > 0);
        Ok(drops)
    }

    /// Packets that it dropped for one reason.
    pub(super) fn dropped(&self, reason: DropReason) -> Result<u64> {
        let reasons: Vec<snapshot::Drop> = self.ask(What::Drops)?;
        let found = reasons.iter().find(|drop| drop.reason == reason.name());
        found
            .map(|drop| drop.packets)
            .with_context(|| format!("the gateway does not count {}", reason.name()))
    }

    /// Tells the gateway to stop, and waits until it did.
    pub(super) fn stop(mut self) -> Result<()> {
        kill(Pid::from_raw(self.process.id().cast_signed()), Signal::SIGTERM)?;
        let end = Instant::now() + PATIENCE;
        loop {
            match self.process.try_wait()? {
                Some(status) if status.success() => return Ok(()),
                Some(status) => bail!("gateway {} stopped with {status}", self.side),
                None if Instant::now() > end => bail!("gateway {} does not stop", self.side),
                None => sleep(Duration::from_millis(5)),
            }
        }
    }
}

impl Drop for Gateway {
    fn drop(&mut self) {
        // Both fail only when the gateway has stopped and was waited for.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// The last lines that both gateways logged.
pub(super) fn logs(directory: &Path) -> String {
    let mut text = String::new();
    for side in Side::ALL {
        let log = fs::read_to_string(log_file(directory, side)).unwrap_or_default();
        let lines: Vec<_> = log.lines().collect();
        for line in lines.iter().skip(lines.len().saturating_sub(LOG_LINES)) {
            text.push_str(&format!("gateway {side}: {line}\n"));
        }
    }
    text
}

fn configuration(side: Side, worker_core: usize, control_core: usize) -> String {
    let peer = side.other();
    let start = match side {
        Side::Left => "boot",
        Side::Right => "wait",
    };
    format!(
        "\
gateway: {{ name: {side}, control_socket: {side}.sock, state: off }}
workers: {{ cores: [{worker_core}], control_core: {control_core}, idle: adaptive }}
ports:
  {WAN}: {{ driver: af_packet, device: {WAN}, addresses: [{}] }}
  {LAN}: {{ driver: af_packet, device: {LAN}, addresses: [{}] }}
connections:
  {CONNECTION}:
    local: {{ address: {}, id: {} }}
    remote: {{ address: {}, id: {} }}
    auth: {{ cert: {}, key: {}, ca: {CA} }}
    ike: {{ proposals: [{IKE_PROPOSAL}] }}
    children:
      {CHILD}: {{ mode: tunnel, local: [{}], remote: [{}], proposals: [{ESP_PROPOSAL}], start: {start} }}
",
        side.wan(),
        side.lan(),
        side.wan().addr(),
        identity(side),
        peer.wan().addr(),
        identity(peer),
        certificate_file(side),
        key_file(side),
        side.lan().trunc(),
        peer.lan().trunc(),
    )
}

fn log_file(directory: &Path, side: Side) -> PathBuf {
    directory.join(format!("{side}.log"))
}

fn socket(directory: &Path, side: Side) -> PathBuf {
    directory.join(format!("{side}.sock"))
}

#[cfg(test)]
mod tests {
    use super::super::authority;
    use super::*;
    use crate::config::{Connection, parse};
    use crate::host::Host;

    #[test]
    fn the_configurations_are_good_and_fit_each_other() {
        let directory = tempfile::tempdir().unwrap();
        authority::issue(directory.path()).unwrap();
        let host = Host { cores: vec![0, 1] };
        let load = |side| {
            let text = configuration(side, 0, 1);
            let loaded = parse(&text, "demo.yaml", directory.path(), &host).unwrap();
            assert_eq!(loaded.warnings.to_string(), "");
            loaded.config.connections.into_values().next().unwrap()
        };
        let (left, right) = (load(Side::Left), load(Side::Right));
        let addresses = |one: &Connection| (one.local.address, one.remote.address);
        let ((from, to), (back, forth)) = (addresses(&left), addresses(&right));
        assert_eq!((from, to), (forth, back));
        for (this, that) in [(&left, &right), (&right, &left)] {
            assert!(
                that.remote.id.matches(&this.local.id).is_some(),
                "{} is not who is expected",
                this.local.id
            );
        }
    }
}
