//! Tunnels with strongSwan that packets ask for.

use std::time::Duration;

use crate::netns::privileged;
use crate::pair::{Pair, Plan};
use crate::strongswan::TOOLS;
use crate::traffic::{Fragments, Pinger};
use crate::{PATIENCE, serial};

/// What Spillway protects at once, strongSwan has as two children. The packet says which one it is (RFC 7296 s2.9), and
/// what was narrowed away is asked for when a packet needs it.
#[test]
fn each_packet_brings_up_the_child_that_it_needs() {
    privileged(TOOLS, || {
        let _alone = serial();
        let pair = Pair::new(&Plan {
            child: "local: [10.1.0.0/16], remote: [10.2.0.0/15], proposals: [aes128gcm16], start: traffic",
            peer_child: "local_ts = 10.2.0.0/16\n remote_ts = 10.1.0.0/16\n esp_proposals = aes128gcm16\n }
                         rest {\n local_ts = 10.3.0.0/16\n remote_ts = 10.1.0.0/16\n esp_proposals = aes128gcm16",
            ..Plan::default()
        });
        pair.lab.right.ip("addr add 10.3.0.2/16 dev lo");
        let reach = |address: &str| {
            let mut pinger = Pinger::new(&pair.lab.host, address.parse().unwrap(), Fragments::Allowed);
            pinger.ping_until_answered(56, PATIENCE);
            assert_eq!(pinger.ping(500, Duration::from_secs(3)), Ok(()), "{}", pair.logs());
        };
        // The second child of the two: the first one would do for a part of what is asked for.
        reach("10.3.0.2");
        let sas = pair.charon.sas();
        assert!(sas.contains("local  10.3.0.0/16") && !sas.contains("local  10.2.0.0/16"), "{sas}");
        reach("10.2.0.2");
        reach("10.3.0.2");
        let sas = pair.charon.sas();
        assert!(sas.contains("local  10.3.0.0/16") && sas.contains("local  10.2.0.0/16"), "{sas}");
        assert_eq!(sas.matches("INSTALLED").count(), 2, "{sas}");
        assert_eq!(pair.charon.log().matches("parsed IKE_SA_INIT request").count(), 1, "{}", pair.logs());
        // What strongSwan has no policy for is not asked for in vain again and again.
        let sas = pair.gateway.show("sas").as_array().unwrap().len();
        assert_eq!(sas, 4, "two tunnels");
    });
}
