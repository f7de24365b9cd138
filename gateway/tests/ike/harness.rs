//! strongSwan with itself: what fails here is the fault of the harness.

use crate::lab::{Lab, Nat, outer_address};
use crate::netns::privileged;
use crate::site::{Family, host_address};
use crate::strongswan::{Charon, Setup, TOOLS};
use crate::traffic::{Fragments, Pinger};
use crate::{PATIENCE, serial};

fn conf(family: Family, side: u8) -> String {
    let other = 3 - side;
    let (local, remote) = (outer_address(family, side), outer_address(family, other));
    format!(
        "connections {{ net {{
            version = 2
            local_addrs = {local}
            remote_addrs = {remote}, 203.0.113.254, 2001:db8:2::fe
            encap = yes
            local {{ auth = psk
                id = side{side}.example.net }}
            remote {{ auth = psk
                id = side{other}.example.net }}
            children {{ lan {{
                local_ts = 10.{side}.0.0/16
                remote_ts = 10.{other}.0.0/16
                esp_proposals = aes128gcm16 }} }}
        }} }}
        secrets {{ ike-1 {{ secret = swordfish }} }}"
    )
}

#[test]
fn two_charons_have_a_tunnel_through_a_nat_and_without_one() {
    privileged(&[TOOLS, &["nft"]].concat(), || {
        let _alone = serial();
        let lab = Lab::new(1);
        lab.left.ip("addr add 198.51.100.1/24 dev wan0");
        lab.left.ip("addr add 10.1.0.2/32 dev lo");
        lab.left.ip("route add default via 198.51.100.254");
        for nat in [Nat::None, Nat::Left] {
            lab.translate(nat);
            let [left, _right] = [(&lab.left, 1), (&lab.right, 2)].map(|(namespace, side)| {
                Charon::start(namespace, &Setup { conf: conf(Family::V4, side), ..Setup::default() })
            });
            left.initiate("lan");
            let sas = left.sas();
            assert!(sas.contains("lan: #1") && sas.contains("INSTALLED"), "{sas}");
            let mut pinger = Pinger::new(&lab.left, host_address(Family::V4, 2), Fragments::Allowed);
            pinger.ping_until_answered(100, PATIENCE);
        }
    });
}
