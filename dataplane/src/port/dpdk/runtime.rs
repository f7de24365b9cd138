//! capsule's runtime, on a thread of its own, and the crew of its threads.
//!
//! The runtime is not `Send`, and running it blocks, so a thread has it from beginning to end: it builds it, waits for
//! the fleet's tasks, installs each as a pipeline on its core, runs them, and takes everything down. It is EAL's
//! main thread and stands on the control core. A worker whose core that is runs on this very thread.
//!
//! The runtime ends by a signal, and only when the fleet is done: SIGTERM is heard by whoever drains the fleet, and
//! then [`Crew::end`] sends SIGHUP. So no pipeline holds a buffer when the ports and pools go, wherever it runs.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::JoinHandle;
use std::time::Duration;

use capsule::Runtime;
use capsule::config::RuntimeConfig;
use capsule_ffi::port::{Port as FfiPort, Settings, prepare};
use capsule_ffi::{eal, pool};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::json;

use super::device::Name;
use super::pipeline::{Finished, WorkerPipeline};
use super::queue::DpdkPort;
use super::{Config, Opened, PortConfig, data_room};
use crate::crew::Crew;
use crate::fleet::Task;
use crate::port::{Device, DeviceInfo, QueueOpener};
use crate::worker::thread::guard;

/// Buffers that each thread keeps at hand, the most that DPDK allows.
const CACHE: usize = 512;
/// UDP port of IKE (RFC 7296 s2). Port 4500 is not steered: all ESP in UDP (RFC 3948 s2.1) comes by it, and would come to
/// one worker. A rule that tells IKE there from ESP, by the marker of four zeros (RFC 3948 s2.2), needs a NIC that matches
/// payload. IKE that arrives at another worker is handed to the control thread in the same way.
const IKE_PORT: u16 = 500;

/// Starts the runtime's thread and waits until the ports are started.
pub(super) fn start(config: Config) -> io::Result<Opened> {
    // Kept from killing the process should it come before capsule listens.
    signal_hook::flag::register(signal_hook::consts::SIGHUP, Arc::new(AtomicBool::new(false)))?;
    let flags = Flags::default();
    let (tell, told) = sync_channel(1);
    let (tasks, assigned) = sync_channel(1);
    let thread = std::thread::Builder::new().name("dpdk".to_owned()).spawn({
        let flags = flags.clone();
        // Its panic would leave workers without anybody who ends them.
        move || guard("dpdk", || run(&config, &flags, &tell, &assigned))
    })?;
    let devices =
        told.recv().map_err(|_| io::Error::other("the DPDK thread ended before it was ready"))??;
    let crew = Capsule {
        flags,
        assigned: Vec::new(),
        finished: Vec::new(),
        tasks: Some(tasks),
        thread: Some(thread),
    };
    Ok(Opened { devices, crew: Box::new(crew) })
}

/// What the runtime's thread and the others tell each other.
#[derive(Clone, Default)]
struct Flags {
    /// The fleet is done: the next signal ends the runtime.
    ending: Arc<AtomicBool>,
    /// The runtime goes without having run: pipelines must not begin.
    given_up: Arc<AtomicBool>,
}

/// Started ports.
type Devices = Vec<Box<dyn Device>>;

/// A task, and what says that it is done.
type Assigned = (usize, Task, Finished);

/// The life of the runtime's thread.
fn run(
    config: &Config,
    flags: &Flags,
    tell: &SyncSender<io::Result<Devices>>,
    tasks: &Receiver<Vec<Assigned>>,
) -> io::Result<()> {
    let mut runtime = match build(config) {
        Ok((runtime, devices)) => {
            // Whoever opened the ports waits for them.
            let _ = tell.send(Ok(devices));
            runtime
        }
        Err(error) => {
            let _ = tell.send(Err(error));
            return Ok(());
        }
    };
    let done = match tasks.recv() {
        Ok(tasks) => execute(&mut runtime, tasks, flags),
        // The fleet was never started.
        Err(_) => Ok(()),
    };
    flags.given_up.store(true, Ordering::Release);
    drop(runtime);
    done
}

fn execute(runtime: &mut Runtime, tasks: Vec<Assigned>, flags: &Flags) -> io::Result<()> {
    for (core, task, finished) in tasks {
        // capsule wants a closure that threads could share.
        let begun = std::sync::Mutex::new(Some((task, finished)));
        let given_up = Arc::clone(&flags.given_up);
        let installed = runtime.add_pipeline_to_core(core, move |_queues| {
            let (task, finished) = begun
                .into_inner()
                .unwrap_or_else(std::sync::PoisonError::into_inner)
                .expect("a closure that is called once takes what was put in once");
            WorkerPipeline::begin(task, finished, &given_up)
        });
        installed.map_err(|error| failed("cannot run a worker", &error))?;
    }
    let ending = Arc::clone(&flags.ending);
    runtime.set_on_signal(move |_| ending.load(Ordering::Acquire));
    runtime.execute().map_err(|error| failed("cannot run the ports", &error))
}

/// Starts EAL, makes the pools, configures and starts the ports.
fn build(config: &Config) -> io::Result<(Runtime, Devices)> {
    eal::log_to(|line| tracing::debug!(target: "dpdk", "{line}"))?;
    // Buffers of the size that the largest MTU needs; capsule's own fit an MTU of 1500.
    let room = data_room(config.largest_mtu());
    pool::set_data_room(
        u16::try_from(room).map_err(|_| io::Error::other(format!("no buffers of {room} bytes")))?,
    );
    let names = config.ports.iter().map(|port| Name::parse(&port.device)).collect::<io::Result<Vec<_>>>()?;
    for (name, port) in names.iter().zip(&config.ports) {
        prepare(
            name.c_name(),
            Settings {
                mtu: port.mtu.min(u16::MAX.into()) as u16,
                rss_key: random_key()?,
                // capsule cuts it in the same way; a configuration has no more.
                descriptors: port.descriptors.min(u16::MAX.into()) as u16,
                queues: config.cores.len().min(u16::MAX.into()) as u16,
            },
        );
    }
    let runtime: RuntimeConfig = serde_json::from_value(capsule_config(config, &names))?;
    let runtime = Runtime::build(runtime).map_err(|error| explain(&error, config))?;
    let devices = names.iter().zip(&config.ports).map(|(name, port)| device(name, port, config));
    let devices = devices.collect::<io::Result<Vec<_>>>()?;
    Ok((runtime, devices))
}

/// capsule's configuration. Its types cannot be made but from text.
fn capsule_config(config: &Config, names: &[Name]) -> serde_json::Value {
    let ports = names.iter().zip(&config.ports).map(|(name, port)| {
        json!({
            "name": name.name,
            "device": name.name,
            "args": name.arguments,
            "cores": config.cores,
            "rxd": port.descriptors,
            "txd": port.descriptors,
            "promiscuous": false,
            "multicast": true,
        })
    });
    json!({
        "app_name": "spillway",
        "master_core": config.control_core,
        "mempool": { "capacity": config.capacity(), "cache_size": CACHE.min(config.capacity() / 2) },
        "ports": ports.collect::<Vec<_>>(),
        "dpdk_args": eal_arguments(config, names).join(" "),
    })
}

fn eal_arguments(config: &Config, names: &[Name]) -> Vec<String> {
    let megabytes = (config.memory >> 20).to_string();
    // Nothing in files: several gateways can run, and huge pages are free again however the process ends.
    // (EAL takes `--in-memory` with huge pages only.)
    let nowhere: &[&str] = if config.huge_pages { &["--in-memory"] } else { &["--no-huge", "--no-shconf"] };
    let mut arguments: Vec<_> = nowhere.iter().map(|&argument| argument.to_owned()).collect();
    arguments.extend(["--no-telemetry".to_owned(), "-m".to_owned(), megabytes]);
    if !names.iter().any(Name::is_pci) {
        arguments.push("--no-pci".to_owned());
    }
    arguments.extend(config.eal.iter().cloned());
    arguments
}

/// Sets what is set on a configured port, starts it, and adds what is set on a started one.
fn device(name: &Name, config: &PortConfig, all: &Config) -> io::Result<Box<dyn Device>> {
    let port = FfiPort::find(&name.c_name())
        .ok_or_else(|| io::Error::other(format!("DPDK lost the port {}", name.name)))?;
    let wanted = config.mtu.min(u16::MAX.into()) as u16;
    // A driver without an MTU of its own keeps what it was configured with.
    if let Err(error) = port.set_mtu(wanted) {
        tracing::debug!(device = name.name, %error, "the driver sets no MTU");
    }
    // capsule would do it when it runs; rules of a NIC can only be made on a started port.
    port.start().map_err(|error| failed(&format!("cannot start {}", name.name), &error))?;

    let (info, applied) = (port.info()?, port.applied());
    let queues = all.cores.len() as u16;
    let worker_0 = queue_of(0, &all.cores);
    let made = |rule: &str, made: io::Result<()>| {
        made.inspect_err(|error| tracing::debug!(device = name.name, rule, %error, "no rule in the NIC"))
            .is_ok()
    };
    let ike_steered = queues > 1 && made("IKE", port.steer_udp(IKE_PORT, worker_0));
    let esp = if applied.rss.contains(&"esp") {
        "rss"
    } else if queues > 1 && made("ESP", port.spread_esp(queues)) {
        "flow rule"
    } else {
        "off"
    };
    let on = |on: bool| if on { "on" } else { "off" }.to_owned();
    let rss = if applied.rss.is_empty() { "off".to_owned() } else { applied.rss.join("+") };
    let mtu = config.mtu.min(port.mtu()?.into());
    if mtu < config.mtu {
        tracing::warn!(
            device = name.name,
            wanted = config.mtu,
            mtu,
            "the device carries no packets as large as its `mtu`"
        );
    }
    let info = DeviceInfo {
        driver: "dpdk",
        device: config.device.clone(),
        mac: Some(port.mac()?),
        mtu,
        queues: all.cores.len(),
        features: vec![
            ("pmd", info.driver),
            ("descriptors", descriptors(port.descriptors())),
            ("rss", rss),
            ("rss_key", if applied.rss_key { "random" } else { "the driver's" }.to_owned()),
            ("esp_by_spi", esp.to_owned()),
            ("ike_to_worker_0", on(ike_steered)),
            ("rx_checksum", on(applied.rx_checksum)),
            ("fast_free", on(applied.fast_free)),
            ("huge_pages", on(all.huge_pages)),
        ],
    };
    Ok(Box::new(DpdkDevice { info, port, cores: all.cores.clone() }))
}

/// The length of its queues in words: they may differ where a device has limits.
fn descriptors((rx, tx): (u16, u16)) -> String {
    if rx == tx { rx.to_string() } else { format!("{rx} to receive, {tx} to send") }
}

/// A started port.
struct DpdkDevice {
    info: DeviceInfo,
    port: FfiPort,
    cores: Vec<usize>,
}

impl Device for DpdkDevice {
    fn info(&self) -> &DeviceInfo {
        &self.info
    }

    fn queues(self: Box<Self>) -> Vec<QueueOpener> {
        let port = self.port;
        let open = |(worker, &core): (usize, &usize)| -> QueueOpener {
            let queue = queue_of(worker, &self.cores);
            Box::new(move |_pool| Ok(Box::new(DpdkPort::open(port, queue, core, worker == 0)?)))
        };
        self.cores.iter().enumerate().map(open).collect()
    }
}

/// The queue of a worker: capsule gives them out in the order of the cores' numbers, and does not tell.
fn queue_of(worker: usize, cores: &[usize]) -> u16 {
    let core = cores.get(worker).copied().unwrap_or_default();
    cores.iter().filter(|&&other| other < core).count() as u16
}

/// The threads of capsule's runtime.
struct Capsule {
    flags: Flags,
    assigned: Vec<Assigned>,
    /// One a worker.
    finished: Vec<Arc<AtomicBool>>,
    tasks: Option<SyncSender<Vec<Assigned>>>,
    thread: Option<JoinHandle<io::Result<()>>>,
}

impl Crew for Capsule {
    fn assign(&mut self, task: Task, core: usize) -> io::Result<()> {
        let finished = Arc::new(AtomicBool::new(false));
        self.finished.push(Arc::clone(&finished));
        self.assigned.push((core, task, Finished(finished)));
        Ok(())
    }

    fn begin(&mut self) -> io::Result<()> {
        let tasks = std::mem::take(&mut self.assigned);
        // When it fails, the thread is gone, and the tasks with it: `end` says why.
        if let Some(to) = &self.tasks {
            let _ = to.send(tasks);
        }
        Ok(())
    }

    fn is_finished(&self, worker: usize) -> bool {
        self.finished.get(worker).is_none_or(|finished| finished.load(Ordering::Acquire))
    }

    fn end(&mut self) -> io::Result<()> {
        // A thread that still waits for tasks goes by this.
        self.tasks = None;
        self.assigned.clear();
        let Some(thread) = self.thread.take() else { return Ok(()) };
        self.flags.ending.store(true, Ordering::Release);
        while !thread.is_finished() {
            // Again and again: it may come before capsule listens. Nobody else has a use for it now.
            kill(Pid::this(), Signal::SIGHUP)?;
            std::thread::sleep(Duration::from_millis(5));
        }
        thread.join().unwrap_or_else(|_| Err(io::Error::other("the DPDK thread panicked")))
    }
}

impl Drop for Capsule {
    fn drop(&mut self) {
        if let Err(error) = self.end() {
            tracing::error!(%error, "DPDK did not end well");
        }
    }
}

/// As many random bytes as any NIC's hash takes.
fn random_key() -> io::Result<Vec<u8>> {
    let mut key = vec![0; u8::MAX.into()];
    aws_lc_rs::rand::fill(&mut key).map_err(|_| io::Error::other("no random numbers"))?;
    Ok(key)
}

/// Says what would mend an error of building the runtime.
fn explain(error: &dyn std::fmt::Display, config: &Config) -> io::Error {
    let text = error.to_string();
    mend(&text, &eal::last_words(), config.cores.len())
        .map_or_else(|| failed("DPDK does not start", &text), io::Error::other)
}

/// What mends an error of capsule's, after which DPDK said this, with so many workers.
fn mend(error: &str, said: &str, workers: usize) -> Option<String> {
    if error.contains("Insufficient number of") {
        return Some(format!(
            "a device has fewer queues than the {workers} workers ({error}): net_af_packet takes `qpairs={workers}`, \
             net_af_xdp `queue_count={workers}`; or have fewer `workers.cores`"
        ));
    }
    // The device is then not there, which is all that capsule sees.
    if said.contains("larger than combined queue count") {
        return Some(format!(
            "net_af_xdp takes no more queues than its interface has combined channels ({said}): `ethtool -l` shows them and \
             `ethtool -L INTERFACE combined {workers}` sets them, where the interface has any (a veth has not); or have \
             fewer `workers.cores`"
        ));
    }
    None
}

/// An error with the last that DPDK said, which is often the reason.
fn failed(what: &str, error: &dyn std::fmt::Display) -> io::Error {
    let said = eal::last_words();
    let said = if said.is_empty() { said } else { format!(" (DPDK said: {said})") };
    io::Error::other(format!("{what}: {error}{said}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config() -> Config {
        Config {
            ports: vec![
                PortConfig { device: "net_null0,size=64".into(), mtu: 1500, descriptors: 512 },
                PortConfig { device: "0000:3b:00.0".into(), mtu: 9000, descriptors: 1024 },
            ],
            cores: vec![3, 1],
            control_core: 0,
            huge_pages: false,
            memory: 512 << 20,
            buffers: 8192,
            eal: vec!["--log-level=8".into()],
        }
    }

    fn names(config: &Config) -> Vec<Name> {
        config.ports.iter().map(|port| Name::parse(&port.device).unwrap()).collect()
    }

    #[test]
    fn queues_go_by_the_order_of_cores() {
        assert_eq!([0, 1, 2].map(|worker| queue_of(worker, &[3, 1, 2])), [2, 0, 1]);
    }

    #[test]
    fn capsule_takes_our_configuration() {
        let config = config();
        let made = capsule_config(&config, &names(&config));
        assert_eq!(made["ports"][0]["args"], "size=64");
        assert_eq!(made["ports"][1]["cores"], json!([3, 1]));
        let parsed: RuntimeConfig = serde_json::from_value(made).unwrap();
        assert_eq!(parsed.mempool.capacity, 2 * (8192 + 2 * 512 + 2 * 1024));
        assert!(parsed.ports.iter().all(|port| port.multicast && !port.promiscuous && !port.kni));
    }

    #[test]
    fn an_error_about_queues_says_what_mends_it() {
        let mended = mend("Insufficient number of RX queues '1'.", "", 2).unwrap();
        assert!(mended.contains("the 2 workers") && mended.contains("`qpairs=2`"), "{mended}");
        let said = "init_internals(): Specified queue count 4 is larger than combined queue count 1.";
        let mended = mend("No such device", said, 4).unwrap();
        assert!(mended.contains(said) && mended.contains("`ethtool -L INTERFACE combined 4`"), "{mended}");
        assert_eq!(mend("No such device", "", 4), None);
    }

    #[test]
    fn queues_are_told_as_they_are() {
        assert_eq!(descriptors((512, 512)), "512");
        assert_eq!(descriptors((512, 256)), "512 to receive, 256 to send");
    }

    #[test]
    fn eal_looks_for_nics_only_when_there_is_one() {
        let mut config = config();
        let arguments = eal_arguments(&config, &names(&config)).join(" ");
        assert_eq!(arguments, "--no-huge --no-shconf --no-telemetry -m 512 --log-level=8");
        config.ports.pop();
        config.huge_pages = true;
        let arguments = eal_arguments(&config, &names(&config)).join(" ");
        assert_eq!(arguments, "--in-memory --no-telemetry -m 512 --no-pci --log-level=8");
    }
}
