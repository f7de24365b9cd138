//! dpdk-testpmd: a generator, and what it forwards itself.

use std::io::{BufRead, BufReader, Read};
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Child, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use dataplane::port::Mac;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::WAN;
use super::forward::Drops;

/// Frames that are sent, in bytes.
const FRAME: usize = 64;
/// How long to wait for a socket or for figures.
const PATIENCE: Duration = Duration::from_secs(20);

/// Sends 64-byte frames of the LAN's host into the tunnel, as fast as one core can.
pub struct Generator {
    // Ends it when dropped.
    testpmd: Testpmd,
}

impl Generator {
    /// Starts it behind a memif socket.
    ///
    /// # Errors
    /// When it does not start.
    pub fn start(socket: &Path, core: usize, to: Mac) -> anyhow::Result<Self> {
        let device = format!("net_memif0,role=server,socket-abstract=no,socket={}", socket.display());
        let peer = to.map(|byte| format!("{byte:02x}")).join(":");
        let forward = [
            "--forward-mode=txonly".to_owned(),
            format!("--txpkts={FRAME}"),
            format!("--eth-peer=0,{peer}"),
            "--tx-ip=10.1.0.5,10.64.0.1".to_owned(),
        ];
        let testpmd = Testpmd::start(&[device], &forward, core, core)?;
        let end = Instant::now() + PATIENCE;
        while !socket.exists() {
            ensure!(Instant::now() < end, "dpdk-testpmd made no socket");
            std::thread::sleep(Duration::from_millis(10));
        }
        Ok(Self { testpmd })
    }

    /// Ends it. The packets that it could not hand over, of its whole time: it sends what the other end does not take.
    /// `None` when it could not say: net_memif of DPDK 22.11 may crash while it sends and the other end goes.
    ///
    /// # Errors
    /// When it does not say though it lived.
    pub fn finish(mut self) -> anyhow::Result<Option<u64>> {
        // It waits for the end of its input, and goes through all that it does until then: a signal could come before it has
        // begun, and then it says nothing.
        drop(self.testpmd.process.stdin.take());
        match self.testpmd.last_words() {
            Ok(Dropped { tx, .. }) => Ok(Some(tx)),
            Err(error) => match self.testpmd.process.wait()?.signal() {
                Some(signal) if signal == Signal::SIGSEGV as i32 || signal == Signal::SIGBUS as i32 => {
                    Ok(None)
                }
                _ => Err(error),
            },
        }
    }
}

/// What testpmd forwarded from a device to net_null.
pub struct IoForward {
    /// The packets a second that it sent, in the middle of the time.
    pub rate: f64,
    /// What it lost, of its whole time.
    pub drops: Drops,
}

impl IoForward {
    /// Has it forward from `lan` for a while.
    ///
    /// # Errors
    /// When it does not start, or forwards nothing.
    pub fn measure(lan: &str, core: usize, main_core: usize, span: Duration) -> anyhow::Result<Self> {
        let devices = [lan.to_owned(), WAN.to_owned()];
        let forward = ["--forward-mode=io".to_owned(), "--stats-period=1".to_owned()];
        let mut testpmd = Testpmd::start(&devices, &forward, core, main_core)?;
        // Its first figures are of its start; one for each second of ours follows.
        let wanted = 2 + span.as_secs().max(1) as usize;
        let mut rates = Vec::new();
        let end = Instant::now() + PATIENCE + span;
        for line in testpmd.output.by_ref().lines() {
            ensure!(Instant::now() < end, "dpdk-testpmd forwards nothing");
            // Each port has such a line, and only net_null sends.
            let rate = line?.trim().strip_prefix("Tx-pps:").and_then(|rest| {
                rest.split_whitespace().next().and_then(|number| number.parse::<f64>().ok())
            });
            rates.extend(rate.filter(|&rate| rate > 0.0));
            if rates.len() >= wanted {
                break;
            }
        }
        let mut rates = rates.split_off(2.min(rates.len()));
        rates.sort_by(f64::total_cmp);
        let rate = rates.get(rates.len() / 2).copied().context("dpdk-testpmd forwarded nothing")?;
        // Between its figures it hears a signal alone.
        let _gone = kill(Pid::from_raw(testpmd.process.id() as i32), Signal::SIGINT);
        let Dropped { rx, tx } = testpmd.last_words()?;
        let mut drops = Drops::default();
        drops.add("rx_missed", rx);
        drops.add("tx_full", tx);
        Ok(Self { rate, drops })
    }
}

/// A testpmd process. Dropped, it ends.
struct Testpmd {
    process: Child,
    output: BufReader<ChildStdout>,
}

/// Packets that testpmd lost by its own account, over all of its ports: those that its devices had no room for, and those that
/// a device did not take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Dropped {
    rx: u64,
    tx: u64,
}

impl Dropped {
    /// From what testpmd says when it ends.
    fn parse(text: &str) -> Option<Self> {
        let (_, sums) = text.split_once("Accumulated forward statistics for all ports")?;
        let number = |name: &str| sums.split_once(name)?.1.split_whitespace().next()?.parse().ok();
        Some(Self { rx: number("RX-dropped:")?, tx: number("TX-dropped:")? })
    }
}

impl Testpmd {
    fn start(devices: &[String], forward: &[String], core: usize, main_core: usize) -> anyhow::Result<Self> {
        let mut command = Command::new("dpdk-testpmd");
        // lcore 0 waits, lcore 1 forwards.
        command.args(["--lcores", &format!("0@{main_core},1@{core}"), "--main-lcore", "0"]);
        command.args(["--no-huge", "--no-shconf", "-m", "256", "--no-pci", "--no-telemetry"]);
        for device in devices {
            command.args(["--vdev", device]);
        }
        command.args([
            "--",
            "--total-num-mbufs=16384",
            "--no-mlockall",
            "--nb-cores=1",
            "--txd=1024",
            "--rxd=1024",
        ]);
        command.args(forward);
        // It ends when its input does.
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
        let mut process = command.spawn().context("dpdk-testpmd (Debian: dpdk-dev)")?;
        let output = process.stdout.take().context("no output of dpdk-testpmd")?;
        Ok(Self { process, output: BufReader::new(output) })
    }

    /// What it lost, as it says when it ends.
    fn last_words(&mut self) -> anyhow::Result<Dropped> {
        let mut text = String::new();
        self.output.read_to_string(&mut text)?;
        Dropped::parse(&text).with_context(|| format!("dpdk-testpmd does not say what it lost: {text}"))
    }
}

impl Drop for Testpmd {
    fn drop(&mut self) {
        let _gone = kill(Pid::from_raw(self.process.id() as i32), Signal::SIGINT);
        // What it still has to say must not keep it from ending.
        let _read = self.output.read_to_end(&mut Vec::new());
        let _gone = self.process.kill();
        let _status = self.process.wait();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn losses_are_those_of_all_ports() {
        let said = "
  ---------------------- Forward statistics for port 0  ----------------------
  RX-packets: 10             RX-dropped: 1             RX-total: 11
  TX-packets: 0              TX-dropped: 0             TX-total: 0
  ----------------------------------------------------------------------------

  +++++++++++++++ Accumulated forward statistics for all ports+++++++++++++++
  RX-packets: 10             RX-dropped: 1             RX-total: 11
  TX-packets: 7              TX-dropped: 3             TX-total: 10
  ++++++++++++++++++++++++++++++++++++++++++++++++++++++++++++++++++++++++++++
";
        assert_eq!(Dropped::parse(said), Some(Dropped { rx: 1, tx: 3 }));
        assert_eq!(Dropped::parse("  RX-packets: 10   RX-dropped: 1"), None);
    }
}
