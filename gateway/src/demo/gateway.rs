//! A gateway of the demo: an ordinary `spillway run` with an ordinary configuration, in a namespace of its own.

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use aws_lc_rs::rand;
use dataplane::drops::DropReason;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde::de::DeserializeOwned;
use zeroize::Zeroizing;

use super::netns::Namespace;
use super::plan::{LAN, Side, WAN};
use crate::control::{Client, What};
use crate::snapshot;

/// How long a gateway may take to start, and to stop.
const PATIENCE: Duration = Duration::from_secs(10);
/// Key and salt of AES-128-GCM in ESP (RFC 4106 s8.1).
const KEY_LEN: usize = 16 + 4;
/// Lines of a gateway's log that are shown when something failed.
const LOG_LINES: usize = 10;

/// SPIs of one tunnel, by the side that sends.
#[derive(Clone, Copy, Debug)]
pub(super) struct Spis {
    left: u32,
    right: u32,
}

impl Spis {
    /// Two that differ.
    pub(super) fn random() -> Result<Self> {
        let mut bytes = [0; 4];
        rand::fill(&mut bytes).context("random numbers")?;
        // 0 to 255 are reserved (RFC 4303 s2.1).
        let left = u32::from_be_bytes(bytes) | 0x100;
        Ok(Self { left, right: left ^ 0x8000_0000 })
    }

    /// The SPI of what a side sends.
    pub(super) const fn sent_by(self, side: Side) -> u32 {
        match side {
            Side::Left => self.left,
            Side::Right => self.right,
        }
    }
}

/// Writes new keys for both directions, which both gateways read. They must be new for every run: sequence
/// numbers start at 1 each time, since no state is kept, and AES-GCM must never see a key and an IV twice (RFC 4106 s2).
pub(super) fn write_keys(directory: &Path) -> Result<()> {
    for side in Side::ALL {
        let mut key = Zeroizing::new([0; KEY_LEN]);
        rand::fill(key.as_mut()).context("random numbers")?;
        let mut hex = Zeroizing::new([0; 2 * KEY_LEN]);
        for (digits, byte) in hex.chunks_exact_mut(2).zip(key.iter()) {
            let digit = |value: u8| if value < 10 { b'0' + value } else { b'a' + value - 10 };
            digits.copy_from_slice(&[digit(byte >> 4), digit(byte & 15)]);
        }
        let mut file = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(directory.join(key_file(side)))
            .context("cannot write a key file")?;
        file.write_all(hex.as_ref()).context("cannot write a key file")?;
    }
    Ok(())
}

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
        spis: Spis,
        (worker_core, control_core): (usize, usize),
    ) -> Result<Self> {
        let config = directory.join(format!("{side}.yaml"));
        fs::write(&config, configuration(side, spis, worker_core, control_core))
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

fn configuration(side: Side, spis: Spis, worker_core: usize, control_core: usize) -> String {
    let peer = side.other();
    let (spi_out, spi_in) = (spis.sent_by(side), spis.sent_by(peer));
    format!(
        "\
gateway: {{ name: {side}, control_socket: {side}.sock, state: off }}
workers: {{ cores: [{worker_core}], control_core: {control_core}, idle: adaptive }}
ports:
  {WAN}: {{ driver: af_packet, device: {WAN}, addresses: [{}] }}
  {LAN}: {{ driver: af_packet, device: {LAN}, addresses: [{}] }}
manual_sas:
  demo:
    mode: tunnel
    suite: aes128gcm16
    esn: true
    local: {}
    remote: {}
    outbound: {{ spi: {spi_out:#x}, key_file: {} }}
    inbound: {{ spi: {spi_in:#x}, key_file: {} }}
    selectors: {{ local: [{}], remote: [{}] }}
",
        side.wan(),
        side.lan(),
        side.wan().addr(),
        peer.wan().addr(),
        key_file(side),
        key_file(peer),
        side.lan().trunc(),
        peer.lan().trunc(),
    )
}

/// The key of what a side sends.
fn key_file(side: Side) -> String {
    format!("from-{side}.key")
}

fn log_file(directory: &Path, side: Side) -> PathBuf {
    directory.join(format!("{side}.log"))
}

fn socket(directory: &Path, side: Side) -> PathBuf {
    directory.join(format!("{side}.sock"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::parse;
    use crate::host::Host;

    #[test]
    fn the_configurations_are_good_and_fit_each_other() {
        let directory = tempfile::tempdir().unwrap();
        write_keys(directory.path()).unwrap();
        let spis = Spis::random().unwrap();
        let host = Host { cores: vec![0, 1] };
        let load = |side| {
            let text = configuration(side, spis, 0, 1);
            let loaded = parse(&text, "demo.yaml", directory.path(), &host).unwrap();
            // Only that manual SAs need new keys for every start, which the demo's have.
            let warnings = loaded.warnings.to_string();
            assert!(
                warnings.lines().count() == 1 && warnings.contains("warning: manual_sas: "),
                "{warnings}"
            );
            loaded.config.manual_sas.into_values().next().unwrap()
        };
        let (left, right) = (load(Side::Left), load(Side::Right));
        assert_eq!((left.local, left.remote), (right.remote, right.local));
        assert_eq!((left.outbound.spi, left.inbound.spi), (right.inbound.spi, right.outbound.spi));
        assert!(left.esn && right.esn);
    }

    #[test]
    fn every_run_has_keys_and_spis_of_its_own() {
        let read = || {
            let directory = tempfile::tempdir().unwrap();
            write_keys(directory.path()).unwrap();
            Side::ALL.map(|side| fs::read_to_string(directory.path().join(key_file(side))).unwrap())
        };
        let (first, second) = (read(), read());
        assert_eq!(first[0].len(), 2 * KEY_LEN);
        assert!(first[0] != first[1] && first[0] != second[0] && first[1] != second[1]);
        let (first, second) = (Spis::random().unwrap(), Spis::random().unwrap());
        assert!(first.left >= 0x100 && first.right >= 0x100 && first.left != first.right);
        assert_ne!(first.left, second.left);
    }
}
