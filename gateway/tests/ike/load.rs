//! Rekeys while traffic flows: not one packet is lost.

use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use serde_json::Value;

use crate::gateway::count;
use crate::netns::privileged;
use crate::site::{CONNECTION, Connection, Family, Site, Sites, TUNNEL, host_address};
use crate::traffic::is_listening;
use crate::{serial, wait_for};

/// Rekeys of the child, and of the IKE SA.
const CHILD_REKEYS: usize = 200;
const IKE_REKEYS: usize = 20;
/// Pause before a rekey, so that all of them take two runs, one each way.
const BETWEEN: Duration = Duration::from_millis(70);
/// Seconds of one run of iperf3; there are as many as the rekeys take.
const RUN: usize = 10;

#[test]
fn two_hundred_child_rekeys_and_twenty_ike_rekeys_lose_no_packet() {
    privileged(&["iperf3"], || {
        let _alone = serial();
        let left = Connection { child: "start: boot", ..Connection::default() };
        let sites = Sites::new(&left, &Connection::default());
        sites.wait_until_up();
        sites.ping();
        let done = AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                // However it ends, the traffic ends too.
                let _end = SetWhenDropped(&done);
                rekey(&sites);
            });
            let (mut runs, mut packets) = (0, 0);
            while !done.load(Ordering::Relaxed) {
                packets += run(&sites, runs % 2 == 1);
                runs += 1;
            }
            assert!(packets >= runs * 900 * RUN, "{packets} packets in {runs} runs");
        });
        // Whatever one gateway protected, from the first packet to the last, the other one accepted.
        let counted = |site: &Site, direction: &str| count(&site.tunnel()[direction]["packets"]);
        let both = || {
            let of = |from, to| (counted(from, "outbound"), counted(to, "inbound"));
            [of(&sites.left, &sites.right), of(&sites.right, &sites.left)]
        };
        wait_for("what is under way to arrive", || {
            both().iter().all(|(sent, came)| sent == came).then_some(())
        });
        assert!(both().iter().all(|(sent, _)| *sent > 10_000), "{:?}", both());
    });
}

/// Each side rekeys in turn.
fn rekey(sites: &Sites) {
    for number in 0..CHILD_REKEYS {
        std::thread::sleep(BETWEEN);
        let both = [&sites.left, &sites.right];
        let done = both[number % 2].gateway.operate("rekey", TUNNEL);
        assert_eq!(done, Ok("rekeyed".to_owned()), "{number}");
        let every = CHILD_REKEYS / IKE_REKEYS;
        if number % every == 0 {
            let done = both[(number / every + 1) % 2].gateway.operate("rekey", CONNECTION);
            assert_eq!(done, Ok("rekeyed".to_owned()), "{number}");
        }
    }
}

/// UDP for some seconds, 1,000 packets a second from left to right or back, of which none is lost; how many were sent.
fn run(sites: &Sites, back: bool) -> usize {
    let server = &sites.right.host;
    let serving = server.run(|| {
        let mut command = Command::new("iperf3");
        command.args(["-s", "-1", "-J"]).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
        command.spawn().expect("iperf3 starts")
    });
    wait_for("iperf3 to listen", || server.run(|| is_listening(5201)).then_some(()));
    let to = host_address(Family::V4, 2);
    let back_flag = if back { "-R" } else { "" };
    let arguments = format!("60 iperf3 -c {to} -u -b 2M -l 250 -w 1M -t {RUN} -J {back_flag}");
    let ours: Value = serde_json::from_str(&sites.left.host.command("timeout", &arguments)).expect("JSON");
    let theirs = serving.wait_with_output().expect("iperf3 ends").stdout;
    let theirs: Value = serde_json::from_slice(&theirs).expect("JSON");
    let (sender, receiver) = if back { (&theirs, &ours) } else { (&ours, &theirs) };
    let sent = count(&sender["end"]["sum_sent"]["packets"]);
    // The receiver stops counting when it is told that this is the end, and the last packets may come after that.
    let arrived = &receiver["end"]["sum_received"];
    assert_eq!(count(&arrived["lost_packets"]), 0, "{}", sites.drops());
    assert!(count(&arrived["packets"]) + 100 > sent, "{arrived}, {sent} sent");
    sent as usize
}

struct SetWhenDropped<'a>(&'a AtomicBool);

impl Drop for SetWhenDropped<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}
