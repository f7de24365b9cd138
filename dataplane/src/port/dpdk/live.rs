//! Tests with EAL and capsule's threads. EAL starts once in a process, so each body runs in a process of its own.

use std::io;
use std::os::fd::BorrowedFd;
use std::process::Command;
use std::sync::Arc;
use std::sync::mpsc::{Sender, channel};
use std::time::Duration;

use capsule_ffi::thread::{Registered, lcore};

use super::{Config, PortConfig, open};
use crate::buffer::{Burst, Pool};
use crate::crypto::{Crypto, EngineChoice};
use crate::fleet::{Fleet, FleetConfig, frame_size_for};
use crate::host::reassembly::ReassemblyConfig;
use crate::port::{Device, DeviceInfo, Port, PortCounters, QueueOpener};
use crate::worker::thread::{EXIT_WORKER_DIED, Idle};
use crate::worker::{OnDemand, WorkerConfig};

/// Set in the processes of the bodies.
const CHILD: &str = "SPILLWAY_TEST_DPDK_CHILD";

/// Runs the test of this name again in a process of its own, which has `what` from [`in_child`]: its exit code, and what it said.
fn child(test: &str, what: &str) -> (Option<i32>, String) {
    let output = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", &format!("port::dpdk::live::{test}"), "--nocapture"])
        .env(CHILD, what)
        .output()
        .unwrap();
    let said = [output.stdout, output.stderr].concat();
    (output.status.code(), String::from_utf8_lossy(&said).into_owned())
}

fn in_child() -> Option<String> {
    std::env::var(CHILD).ok()
}

/// A device beside DPDK's, whose queue is what `open` makes on the worker's thread.
struct Beside {
    info: DeviceInfo,
    open: fn(Sender<Seen>) -> Box<dyn Port>,
    seen: Sender<Seen>,
}

impl Device for Beside {
    fn info(&self) -> &DeviceInfo {
        &self.info
    }

    fn queues(self: Box<Self>) -> Vec<QueueOpener> {
        vec![Box::new(move |_pool| Ok((self.open)(self.seen)))]
    }
}

/// What DPDK calls a worker's thread at some moment.
type Seen = (&'static str, Option<u32>);

/// A queue on which nothing comes. It tells what its thread is.
struct Quiet(Sender<Seen>);

impl Port for Quiet {
    fn rx(&mut self, _pool: &Pool, _burst: &mut Burst) {}

    fn tx(&mut self, _burst: &mut Burst) {}

    fn poll_fd(&self) -> Option<BorrowedFd<'_>> {
        None
    }

    fn counters(&mut self) -> PortCounters {
        PortCounters::default()
    }
}

impl Drop for Quiet {
    fn drop(&mut self) {
        let _told = self.0.send(("closed", lcore()));
    }
}

/// A queue that panics when the worker polls it.
struct Dies;

impl Port for Dies {
    fn rx(&mut self, _pool: &Pool, _burst: &mut Burst) {
        panic!("out of order")
    }

    fn tx(&mut self, _burst: &mut Burst) {}

    fn poll_fd(&self) -> Option<BorrowedFd<'_>> {
        None
    }

    fn counters(&mut self) -> PortCounters {
        PortCounters::default()
    }
}

/// A worker over a port of DPDK's and one beside it. With `own_core` it has a thread of its own, else the runtime's.
fn start(own_core: bool, open_beside: fn(Sender<Seen>) -> Box<dyn Port>, seen: Sender<Seen>) -> Fleet {
    let cores: Vec<usize> = core_affinity::get_core_ids().unwrap().iter().map(|core| core.id).collect();
    let (control_core, core) = (cores[0], cores[usize::from(own_core)]);
    let opened = open(Config {
        ports: vec![PortConfig { device: "net_null0,no-rx=1".into(), mtu: 1500, descriptors: 64 }],
        cores: vec![core],
        control_core,
        huge_pages: false,
        memory: 64 << 20,
        buffers: 1024,
        eal: Vec::new(),
    });
    let opened = opened.unwrap();
    let mut devices = opened.devices;
    assert!(
        devices[0].info().features.contains(&("descriptors", "64".to_owned())),
        "{:?}",
        devices[0].info()
    );
    let info = DeviceInfo {
        driver: "test",
        device: "beside".into(),
        mac: None,
        mtu: 1500,
        queues: 1,
        features: Vec::new(),
    };
    devices.push(Box::new(Beside { info, open: open_beside, seen }));
    let port = crate::worker::PortConfig {
        addresses: Vec::new(),
        mac: Some([2, 0, 0, 0, 0, 1]),
        mtu: 1500,
        vlan: None,
        reverse_path: true,
    };
    let worker = WorkerConfig {
        index: 0,
        max_sas: 4,
        max_tunnels: 4,
        on_demand: OnDemand::default(),
        max_policies: 4,
        reassembly: ReassemblyConfig::default(),
        answers_per_second: 10,
        nat_port: 4500,
        ports: vec![port.clone(), port],
    };
    let config = FleetConfig {
        cores: vec![core],
        pin: true,
        idle: Idle::Adaptive,
        frames: 64,
        frame_size: frame_size_for(1500),
        worker,
        devices,
        crypto: Arc::new(Crypto::new(EngineChoice::Auto).unwrap()),
    };
    let fleet = Fleet::start_on(config, opened.crew).unwrap();
    fleet.receive();
    fleet
}

/// Whether there is a core for a worker of its own.
fn has_two_cores() -> bool {
    core_affinity::get_core_ids().is_some_and(|cores| cores.len() > 1)
}

#[test]
fn a_worker_that_panics_ends_the_process_as_over_other_ports() {
    const TEST: &str = "a_worker_that_panics_ends_the_process_as_over_other_ports";
    if let Some(what) = in_child() {
        let dies: fn(Sender<Seen>) -> Box<dyn Port> = match what.as_str() {
            "on opening, own" | "on opening, shared" => |_| panic!("out of order"),
            _ => |_| Box::new(Dies),
        };
        let fleet = start(what.ends_with("own"), dies, channel().0);
        // The process has an end without anybody who looks at the fleet.
        std::thread::sleep(Duration::from_secs(60));
        fleet.stop();
        return;
    }
    for what in ["on opening, own", "on opening, shared", "at work, own", "at work, shared"] {
        if what.ends_with("own") && !has_two_cores() {
            continue;
        }
        let (code, said) = child(TEST, what);
        assert_eq!(code, Some(EXIT_WORKER_DIED), "{what}: {said}");
        assert!(said.contains("out of order"), "{what}: {said}");
    }
}

#[test]
fn a_worker_is_on_a_thread_that_dpdk_knows() {
    const TEST: &str = "a_worker_is_on_a_thread_that_dpdk_knows";
    if let Some(what) = in_child() {
        let (seen, told) = channel();
        let opens: fn(Sender<Seen>) -> Box<dyn Port> = |seen| {
            seen.send(("opened", lcore())).unwrap();
            Box::new(Quiet(seen))
        };
        let fleet = start(what == "own", opens, seen);
        // Another thread is known only while it is registered.
        let of_others = std::thread::spawn(|| -> io::Result<_> {
            let before = lcore();
            let registered = Registered::new()?;
            let meanwhile = lcore();
            drop(registered);
            Ok((before, meanwhile, lcore()))
        });
        let (before, meanwhile, after) = of_others.join().unwrap().unwrap();
        assert_eq!((before, after), (None, None));
        fleet.stop();
        let workers: Vec<Seen> = told.iter().collect();
        let [("opened", Some(opened)), ("closed", Some(closed))] = workers[..] else {
            panic!("{workers:?}");
        };
        // Also when its buffers go.
        assert_eq!(opened, closed);
        // 0 is the main thread, which is the runtime's.
        assert_eq!(opened == 0, what != "own");
        assert!(meanwhile.is_some_and(|other| other != opened), "{meanwhile:?}");
        return;
    }
    for what in ["own", "shared"] {
        if what == "own" && !has_two_cores() {
            continue;
        }
        let (code, said) = child(TEST, what);
        assert!(code == Some(0) && said.contains("1 passed"), "{what}: {said}");
    }
}
