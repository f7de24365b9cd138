//! dpdk-testpmd: a generator, and what it forwards itself.

use std::io::{BufRead, BufReader, Read};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use dataplane::port::Mac;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// Frames that are sent, in bytes.
const FRAME: usize = 64;
/// How long to wait for a socket or for figures.
const PATIENCE: Duration = Duration::from_secs(20);

/// Sends 64-byte frames of the LAN's host into the tunnel, as fast as one core can.
pub struct Generator {
    // Ends it when dropped.
    _testpmd: Testpmd,
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
        Ok(Self { _testpmd: testpmd })
    }
}

/// testpmd forwarding from a memif socket to net_null.
pub struct IoForward;

impl IoForward {
    /// The packets a second that it sends, in the middle of the time.
    ///
    /// # Errors
    /// When it does not start, or forwards nothing.
    pub fn measure(socket: &Path, core: usize, main_core: usize, span: Duration) -> anyhow::Result<f64> {
        let devices = [
            format!("net_memif0,role=client,socket-abstract=no,socket={}", socket.display()),
            "net_null0,no-rx=1".to_owned(),
        ];
        let forward = ["--forward-mode=io".to_owned(), "--stats-period=1".to_owned()];
        let mut testpmd = Testpmd::start(&devices, &forward, core, main_core)?;
        let output = testpmd.process.stdout.take().context("no output of dpdk-testpmd")?;
        // Its first figures are of its start; one for each second of ours follows.
        let wanted = 2 + span.as_secs().max(1) as usize;
        let mut rates = Vec::new();
        let end = Instant::now() + PATIENCE + span;
        for line in BufReader::new(output).lines() {
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
        rates.get(rates.len() / 2).copied().context("dpdk-testpmd forwarded nothing")
    }
}

/// A testpmd process. Dropped, it ends.
struct Testpmd {
    process: Child,
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
        let process = command.spawn().context("dpdk-testpmd (Debian: dpdk-dev)")?;
        Ok(Self { process })
    }
}

impl Drop for Testpmd {
    fn drop(&mut self) {
        // What it still has to say must not keep it from ending.
        let output = self.process.stdout.take();
        let _gone = kill(Pid::from_raw(self.process.id() as i32), Signal::SIGINT);
        if let Some(mut output) = output {
            let _read = output.read_to_end(&mut Vec::new());
        }
        let _gone = self.process.kill();
        let _status = self.process.wait();
    }
}
