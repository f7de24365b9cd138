//! A gateway that stands still: fixed rows behind the control socket and the metrics.

use std::collections::BTreeMap;

use controlplane::waiters::Verb;
use dataplane::drops::{DropCounters, DropReason};
use gateway::control::{Operator, Target};
use gateway::snapshot::{
    Assigned, ChildSa, Conflict, Connection, ConnectionChild, ConnectionState, Direction, Drop, Ike, IkeSa,
    Latency, LatencyHistogram, Neighbour, Policy, Port, PortCounters, Route, Sa, Snapshot, Status, Totals,
    Trouble, Tunnel, Worker,
};

/// Rows that are always the same. `sas` says how many SAs there are.
pub struct Fixed {
    pub sas: usize,
}

impl Snapshot for Fixed {
    fn refresh(&self) {}

    fn status(&self) -> Status {
        Status {
            name: "pop1".to_owned(),
            version: "0.1.0".to_owned(),
            pid: 42,
            uptime_seconds: 3723,
            crypto: "vaes".to_owned(),
            workers: 1,
            ports: 1,
            tunnels: 2,
            tunnels_up: 1,
            sas: self.sas,
        }
    }

    fn tunnels(&self) -> Vec<Tunnel> {
        let drops = BTreeMap::from([("replay_duplicate".to_owned(), 3)]);
        let inbound = Totals { packets: 10, bytes: 1000, drops };
        vec![
            Tunnel {
                name: "lab".to_owned(),
                up: true,
                local: Some("198.51.100.1".parse().unwrap()),
                remote: Some("203.0.113.9".parse().unwrap()),
                inbound,
                outbound: Totals { packets: 20, bytes: 2000, drops: BTreeMap::new() },
            },
            Tunnel {
                name: "branch/lan".to_owned(),
                up: false,
                local: None,
                remote: None,
                inbound: Totals { packets: 7, ..Totals::default() },
                outbound: Totals::default(),
            },
        ]
    }

    fn ike(&self) -> Ike {
        let trouble = |reason: &str, seconds| Some(Trouble { reason: reason.to_owned(), seconds });
        let connection = Connection {
            name: "branch".to_owned(),
            state: ConnectionState::Down,
            local: Some("198.51.100.1".parse().unwrap()),
            remote: None,
            local_id: "pop1.example.net".to_owned(),
            remote_id: "branch.example.net".to_owned(),
            tries: 3,
            last_try_seconds: Some(70),
            last_error: trouble("peer says AUTHENTICATION_FAILED", 69),
            assigned: None,
            ike_sas: Vec::new(),
            children: vec![ConnectionChild {
                name: "lan".to_owned(),
                tunnels: 0,
                start: "boot".to_owned(),
                last_error: None,
            }],
        };
        let sa = IkeSa {
            spi: "0123456789abcdef".to_owned(),
            peer_spi: "fedcba9876543210".to_owned(),
            state: "established".to_owned(),
            local: "198.51.100.1:4500".parse().unwrap(),
            remote: "203.0.113.9:1027".parse().unwrap(),
            peer: Some("a.example.net".to_owned()),
            given: vec!["10.9.1.7".parse().unwrap()],
            children: vec![ChildSa { name: "lan".to_owned(), spi_in: 7, spi_out: 8, sending: true }],
        };
        let up = Connection {
            name: "mobile".to_owned(),
            state: ConnectionState::Up,
            remote_id: "*.example.net".to_owned(),
            tries: 0,
            last_try_seconds: None,
            last_error: None,
            assigned: Some(Assigned {
                addresses: vec!["10.8.0.1".parse().unwrap()],
                dns: vec!["10.1.0.53".parse().unwrap()],
                subnets: vec!["10.1.0.0/16".parse().unwrap()],
            }),
            ike_sas: vec![sa],
            children: vec![ConnectionChild { tunnels: 1, ..connection.children[0].clone() }],
            ..connection.clone()
        };
        let rejections = vec![Drop { reason: "ike_unknown_spi".to_owned(), packets: 4 }];
        Ike {
            connections: vec![connection, up],
            rejections,
            half_open: 2,
            puzzles_solved: 6,
            puzzles_by_lot: 1,
        }
    }

    fn sas(&self) -> Vec<Sa> {
        let sa = |spi| Sa {
            tunnel: "lab".to_owned(),
            direction: Direction::Inbound,
            spi,
            protocol: "esp".to_owned(),
            mode: "tunnel".to_owned(),
            suite: "aes128gcm16".to_owned(),
            esn: true,
            local: "198.51.100.1".parse().unwrap(),
            remote: "203.0.113.9".parse().unwrap(),
            udp: Some((4500, 31_337)),
            sequence: 5_000_000_000,
            replay_window: Some(4096),
            age_seconds: 60,
            expires_seconds: Some(3540),
            expired: false,
            totals: Totals { packets: 10, bytes: 1000, drops: BTreeMap::new() },
        };
        (0..self.sas).map(|n| sa(0x2001 + u32::try_from(n).unwrap())).collect()
    }

    fn policies(&self) -> Vec<Policy> {
        vec![Policy {
            action: "protect".to_owned(),
            tunnel: Some("lab".to_owned()),
            local: "10.1.0.0/16".parse().unwrap(),
            remote: "10.3.0.0/16".parse().unwrap(),
            protocol: Some(6),
            local_ports: None,
            remote_ports: Some((443, 443)),
        }]
    }

    fn ports(&self) -> Vec<Port> {
        vec![Port {
            name: "wan".to_owned(),
            driver: "af_xdp".to_owned(),
            device: "eth0".to_owned(),
            mac: Some("02:00:00:00:00:01".to_owned()),
            mtu: 1500,
            addresses: vec!["198.51.100.1/24".parse().unwrap()],
            queues: 1,
            link: Some(true),
            features: BTreeMap::from([("mode".to_owned(), "copy".to_owned())]),
            conflicts: vec![Conflict {
                address: "198.51.100.1".parse().unwrap(),
                mac: "02:00:00:00:00:09".to_owned(),
                seconds_ago: 12,
            }],
            counters: PortCounters {
                rx_packets: 1234,
                rx_missed: 5,
                tx_bytes: 99,
                ..PortCounters::default()
            },
        }]
    }

    fn workers(&self) -> Vec<Worker> {
        let latency = Latency { p50_ns: 900, p99_ns: 4200, p999_ns: 18_000, max_ns: 2_000_000 };
        vec![Worker {
            index: 0,
            core: 1,
            rx_packets: 1234,
            tx_packets: 1200,
            drops: BTreeMap::from([("icv_bad".to_owned(), 31), ("dummy".to_owned(), 3)]),
            polls: 1000,
            empty_polls: 250,
            sleeps: 2,
            free_frames: 16_000,
            frames: 16_384,
            latency: Some(latency),
            latency_histogram: LatencyHistogram {
                packets: [600, 500, 122, 0, 10, 0, 0, 0, 0, 0, 2, 0, 0, 0],
                sum_ns: 2_500_000,
            },
        }]
    }

    fn drops(&self) -> DropCounters {
        let mut drops = DropCounters::default();
        drops.add(DropReason::IcvBad, 31);
        drops.add(DropReason::Dummy, 3);
        drops
    }

    fn routes(&self) -> Vec<Route> {
        let via = Some("198.51.100.254".parse().unwrap());
        let to = "0.0.0.0/0".parse().unwrap();
        let standby = Route { to, port: "lte".to_owned(), via: None, in_force: false };
        vec![Route { to, port: "wan".to_owned(), via, in_force: true }, standby]
    }

    fn neighbours(&self) -> Vec<Neighbour> {
        vec![Neighbour { address: "198.51.100.254".parse().unwrap(), port: "wan".to_owned(), mac: None }]
    }
}

/// Says what it is told to do, and cannot rekey.
impl Operator for Fixed {
    fn operate(&self, verb: Verb, target: &Target) -> Result<String, String> {
        match verb {
            Verb::Rekey => Err("connection `branch` is not up".to_owned()),
            verb => Ok(format!("{verb:?} {} {}", target.connection, target.child.as_deref().unwrap_or("-"))),
        }
    }
}
