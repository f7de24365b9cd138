//! Tunnels with strongSwan that packets ask for.

use std::time::Duration;

use crate::netns::privileged;
use crate::pair::{Pair, Plan};
use crate::strongswan::TOOLS;
use crate::traffic::{Fragments, Pinger};
use crate::{PATIENCE, serial, wait_for};

/// What strongSwan has as two children, `lan` and `rest`.
const PEER_CHILDREN: &str = "local_ts = 10.2.0.0/16
                             remote_ts = 10.1.0.0/16
                             esp_proposals = aes128gcm16 }
                             rest {
                             local_ts = 10.3.0.0/16
                             remote_ts = 10.1.0.0/16
                             esp_proposals = aes128gcm16";

/// Spillway protects both at once; `start` is the key of that name.
fn pair(start: &str) -> Pair {
    let child =
        format!("local: [10.1.0.0/16], remote: [10.2.0.0/15], proposals: [aes128gcm16], start: {start}");
    let pair = Pair::new(&Plan { child: &child, peer_child: PEER_CHILDREN, ..Plan::default() });
    pair.lab.right.ip("addr add 10.3.0.2/16 dev lo");
    pair
}

impl Pair {
    fn reach(&self, address: &str) {
        let mut pinger = Pinger::new(&self.lab.host, address.parse().unwrap(), Fragments::Allowed);
        pinger.ping_until_answered(56, PATIENCE);
        assert_eq!(pinger.ping(500, Duration::from_secs(3)), Ok(()), "{}", self.logs());
    }

    /// strongSwan has these of the two children, and all came with one IKE SA.
    fn assert_children(&self, lan: bool, rest: bool) {
        let sas = self.charon.sas();
        let has = ["local  10.2.0.0/16", "local  10.3.0.0/16"].map(|selector| sas.contains(selector));
        assert_eq!(has, [lan, rest], "{sas}");
        assert_eq!(sas.matches("INSTALLED").count(), usize::from(lan) + usize::from(rest), "{sas}");
        assert_eq!(self.charon.log().matches("parsed IKE_SA_INIT request").count(), 1, "{}", self.logs());
    }
}

/// The packet says which child it needs (RFC 7296 s2.9), and what was narrowed away is asked for when a packet needs it.
#[test]
fn each_packet_brings_up_the_child_that_it_needs() {
    privileged(TOOLS, || {
        let _alone = serial();
        let pair = pair("traffic");
        // The second child of the two: the first one would do for a part of what is asked for.
        pair.reach("10.3.0.2");
        pair.assert_children(false, true);
        pair.reach("10.2.0.2");
        pair.reach("10.3.0.2");
        pair.assert_children(true, true);
        assert_eq!(pair.gateway.show("sas").as_array().unwrap().len(), 4, "two tunnels");
    });
}

#[test]
fn what_is_narrowed_away_from_a_child_that_starts_at_boot_comes_with_a_packet() {
    privileged(TOOLS, || {
        let _alone = serial();
        let pair = pair("boot");
        wait_for("the tunnel to come up", || pair.is_up().then_some(()));
        let sas = pair.charon.sas();
        let (first, second) = if sas.contains("local  10.2.0.0/16") {
            ("10.2.0.2", "10.3.0.2")
        } else {
            ("10.3.0.2", "10.2.0.2")
        };
        pair.reach(first);
        assert_eq!(pair.charon.sas().matches("INSTALLED").count(), 1);
        pair.reach(second);
        pair.assert_children(true, true);
    });
}
