//! Restarts, crashes, new keys, full disks: each test starts the gateway's SAs from a configuration, as a start does.

use std::fs::{self, OpenOptions};
use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use dataplane::crypto::{Crypto, EngineChoice};
use dataplane::drops::DropReason;

use super::super::State;
use super::*;
use crate::appliance::manual;
use crate::appliance::tunnels::Tunnels;
use crate::config::{Config, parse};
use crate::host::Host;

/// A manual SA in a directory that also has its state.
struct Site {
    directory: PathBuf,
    _temporary: Option<tempfile::TempDir>,
    name: &'static str,
    spi: u32,
    keys: (u8, u8),
    esn: bool,
}

impl Site {
    fn new() -> Self {
        let temporary = tempfile::tempdir().unwrap();
        let directory = temporary.path().to_owned();
        Self { _temporary: Some(temporary), ..Self::at(&directory) }
    }

    fn at(directory: &Path) -> Self {
        let directory = directory.to_owned();
        Self { directory, _temporary: None, name: "lab", spi: 0x1001, keys: (1, 2), esn: true }
    }

    fn state(&self) -> PathBuf {
        self.directory.join("state")
    }

    fn config(&self) -> Config {
        for (file, seed) in [("out.key", self.keys.0), ("in.key", self.keys.1)] {
            let path = self.directory.join(file);
            let mut options = OpenOptions::new();
            let mut file = options.write(true).create(true).truncate(true).mode(0o600).open(path).unwrap();
            file.write_all(format!("{seed:02x}").repeat(20).as_bytes()).unwrap();
        }
        let text = format!(
            "\
gateway: {{ state: state }}
ports: {{ wan: {{ driver: tap, device: a, addresses: [198.51.100.1/24] }} }}
manual_sas:
  {}:
    suite: aes128gcm16
    esn: {}
    local: 198.51.100.1
    remote: 198.51.100.2
    outbound: {{ spi: {}, key_file: out.key }}
    inbound: {{ spi: 0x2001, key_file: in.key }}
    selectors: {{ local: 10.1.0.0/16, remote: 10.2.0.0/16 }}
",
            self.name, self.esn, self.spi
        );
        parse(&text, "gateway.yaml", &self.directory, &Host { cores: vec![0, 1] }).unwrap().config
    }

    fn try_start(&self) -> Result<Running> {
        let config = self.config();
        let crypto = Crypto::new(EngineChoice::AwsLc)?;
        let state = State::open(&config)?.expect("there is a manual SA");
        let made = manual::make(&config, &crypto, Some(&state), &mut Tunnels::new(1))?;
        let tunnel = made.first().expect("there is one tunnel");
        let (outbound, inbound) = (Arc::clone(&tunnel.outbound), Arc::clone(&tunnel.inbound));
        Ok(Running { keeper: state.keep(manual::kept(&made, &config))?, outbound, inbound })
    }

    fn start(&self) -> Running {
        self.try_start().unwrap()
    }

    fn refusal(&self) -> String {
        format!("{:#}", self.try_start().err().expect("it does not start"))
    }
}

/// SAs at work.
struct Running {
    keeper: Keeper,
    outbound: Arc<OutboundSa>,
    inbound: Arc<InboundSa>,
}

impl Running {
    fn send(&self, count: u64) -> Option<u64> {
        self.outbound.sequence.reserve(count)
    }

    fn receive(&self, number: u64) -> Result<(), DropReason> {
        self.inbound.replay.as_ref().unwrap().accept(number)
    }

    fn stop(self) {
        self.keeper.finish();
    }

    /// Nothing is written any more.
    fn crash(self) {
        let Keeper { finish, thread } = self.keeper;
        drop(finish);
        thread.join().unwrap();
    }
}

/// The numbers on the disk: sent, received.
fn on_disk(site: &Site) -> (u64, u64) {
    let text = fs::read_to_string(site.state().join("manual-sas")).unwrap();
    let entries: serde_json::Value = serde_json::from_str(text.split_once('\n').unwrap().1).unwrap();
    let used = |direction: &str| {
        let mut found = entries.as_array().unwrap().iter().filter(|entry| entry[1]["direction"] == direction);
        found.next().unwrap()[1]["used"].as_u64().unwrap()
    };
    (used("outbound"), used("inbound"))
}

fn wait_until(what: &str, mut is_so: impl FnMut() -> bool) {
    let end = Instant::now() + Duration::from_secs(20);
    while !is_so() {
        assert!(Instant::now() < end, "waited in vain: {what}");
        thread::sleep(Duration::from_millis(10));
    }
}

#[test]
fn a_restart_goes_on_where_the_last_run_stopped() {
    let site = Site::new();
    let first = site.start();
    assert_eq!(first.send(10), Some(1), "RFC 4303 s3.3.3");
    assert_eq!((first.receive(5_000_000_000), first.receive(4_999_999_990)), (Ok(()), Ok(())));
    first.stop();
    assert_eq!(on_disk(&site), (10, 5_000_000_000));
    let second = site.start();
    assert_eq!(second.send(1), Some(11));
    assert_eq!(second.receive(5_000_000_000), Err(DropReason::ReplayDuplicate));
    assert_eq!(second.receive(4_999_999_990), Err(DropReason::ReplayDuplicate));
    assert_eq!(second.receive(5_000_000_001), Ok(()));
    second.stop();
    let third = site.start();
    third.stop();
    assert_eq!(on_disk(&site), (11, 5_000_000_001), "a run without packets changes nothing");
}

#[test]
fn a_crash_costs_numbers_and_repeats_none() {
    for esn in [true, false] {
        let site = Site { esn, ..Site::new() };
        let first = site.start();
        let reach = Reach::of(esn);
        assert_eq!(on_disk(&site).0, reach.least, "on the disk before the first packet");
        assert_eq!(first.send(10), Some(1));
        first.receive(77).unwrap();
        wait_until("the highest number received to be written", || on_disk(&site).1 == 77);
        first.crash();
        let second = site.start();
        assert_eq!(second.send(1), Some(reach.least + 1));
        assert_eq!(second.receive(77), Err(DropReason::ReplayDuplicate));
        second.stop();
        // The peer follows: the leap is less than 2^32 even after many crashes (RFC 4303 appendix A2.2).
        assert!(!esn || 255 * reach.least + 65_536 < 1 << 32);
    }
}

#[test]
fn new_keys_start_afresh_and_new_names_do_not() {
    let site = Site::new();
    let first = site.start();
    first.send(10);
    first.receive(20).unwrap();
    first.stop();
    let site = Site { name: "renamed", spi: 0x9009, ..site };
    let second = site.start();
    assert_eq!(second.send(1), Some(11), "the key is what a nonce must not be used with twice");
    second.stop();
    let site = Site { keys: (3, 4), ..site };
    let third = site.start();
    assert_eq!((third.send(5), third.receive(1)), (Some(1), Ok(())));
    third.stop();
    let site = Site { keys: (1, 2), ..site };
    assert_eq!(site.start().send(1), Some(12), "the old keys are not forgotten");
}

#[test]
fn a_key_that_changed_its_direction_is_refused() {
    let site = Site::new();
    site.start().stop();
    let site = Site { keys: (2, 1), ..site };
    let message = site.refusal();
    assert!(message.contains("its outbound key was the inbound key of lab before"), "{message}");
    assert!(message.contains("new keys on both sides"), "{message}");
    let site = Site { keys: (5, 1), ..site };
    assert!(site.refusal().contains("its inbound key was the outbound key"));
}

#[test]
fn a_damaged_file_is_refused() {
    let site = Site::new();
    site.start().stop();
    fs::write(site.state().join("manual-sas"), "spillway").unwrap();
    let message = site.refusal();
    assert!(message.contains("is damaged") && message.contains("new keys on both sides"), "{message}");
}

#[test]
fn the_ceiling_stays_ahead_of_a_fast_sender_and_on_the_disk() {
    let site = Site { esn: false, ..Site::new() };
    let running = site.start();
    let least = Reach::of(false).least;
    let mut sent = 0;
    wait_until("numbers", || {
        while let Some(first) = running.send(1 << 14) {
            sent = first + (1 << 14) - 1;
            // At every moment: a crash now would start behind it.
            assert!(on_disk(&site).0 >= sent);
        }
        sent > 8 * least
    });
    running.crash();
    let first = site.start().send(1).unwrap();
    assert!(first > sent && first <= sent + Reach::of(false).most, "{first} after {sent}");
}

#[test]
fn a_disk_that_fails_stops_the_sender_and_nothing_is_sent_unsaved() {
    let site = Site { esn: false, ..Site::new() };
    let running = site.start();
    let (ceiling, _) = on_disk(&site);
    let moved = site.directory.join("moved");
    fs::rename(site.state(), &moved).unwrap();
    while let Some(first) = running.send(1 << 16) {
        assert!(first + (1 << 16) - 1 <= ceiling);
    }
    thread::sleep(3 * LOOK_EVERY);
    assert_eq!(running.send(1), None, "not one number more");
    assert!(!running.outbound.sequence.is_exhausted(), "it waits, and is not at its end");
    fs::rename(&moved, site.state()).unwrap();
    wait_until("the sender to go on", || running.send(1).is_some());
    assert!(on_disk(&site).0 > ceiling);
}

#[test]
fn a_window_that_is_off_leaves_what_is_known() {
    let site = Site::new();
    let first = site.start();
    first.receive(1_000).unwrap();
    first.stop();
    let mut config = site.config();
    config.manual_sas[0].esn = false;
    config.manual_sas[0].options.replay_window = None;
    let state = State::open(&config).unwrap().unwrap();
    let crypto = Crypto::new(EngineChoice::AwsLc).unwrap();
    let made = manual::make(&config, &crypto, Some(&state), &mut Tunnels::new(1)).unwrap();
    state.keep(manual::kept(&made, &config)).unwrap().finish();
    assert_eq!(on_disk(&site).1, 1_000);
}

const CHILD: &str = "SPILLWAY_TEST_STATE";

#[test]
fn after_kill_9_nothing_is_sent_twice() {
    let site = Site { esn: false, ..Site::new() };
    let mut sent = 0;
    for round in 0..3 {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "--ignored", "--nocapture"])
            .arg("appliance::state::keeper::tests::sends_until_it_is_killed")
            .env(CHILD, &site.directory)
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let mut numbers = 0;
        for line in lines {
            let line = line.unwrap();
            let Some((first, last)) = line.strip_prefix("sent ").and_then(|line| line.split_once('-')) else {
                continue;
            };
            // The last line may be cut off.
            let (Ok(first), Some(Ok(last))) =
                (first.parse::<u64>(), last.strip_suffix('.').map(str::parse::<u64>))
            else {
                continue;
            };
            assert!(first > sent, "round {round}: {first} after {sent}");
            sent = last;
            numbers += 1;
            if numbers == 50 {
                child.kill().unwrap();
            }
        }
        assert!(!child.wait().unwrap().success());
        assert!(numbers >= 50, "round {round}: {numbers}");
    }
    assert!(site.start().send(1).unwrap() > sent);
}

#[test]
#[ignore = "the process that the test above kills"]
fn sends_until_it_is_killed() {
    let directory = std::env::var_os(CHILD).unwrap();
    let running = Site { esn: false, ..Site::at(Path::new(&directory)) }.start();
    loop {
        match running.send(1 << 16) {
            Some(first) => println!("sent {first}-{}.", first + (1 << 16) - 1),
            None => thread::sleep(Duration::from_millis(1)),
        }
    }
}
