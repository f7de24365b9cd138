//! What the gateway tells of itself: rows of `spillway show` and of the metrics.
//!
//! The wiring implements [`Snapshot`] over the data plane's counters; control socket and metrics only ask. Rows
//! are plain data with stable field names, since scripts read them as JSON. Counters only ever grow while the
//! gateway runs.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};

use dataplane::drops::DropCounters;
use hdrhistogram::Histogram;
use ipnet::IpNet;
use serde::{Deserialize, Serialize};

/// Answers questions about the running gateway, from any thread.
pub trait Snapshot: Send + Sync + 'static {
    /// Reads everything anew: the answers after it are no older than this call, unless the workers do not answer.
    fn refresh(&self);
    /// The gateway in one look.
    fn status(&self) -> Status;
    /// Every tunnel that is configured, those that are down too.
    fn tunnels(&self) -> Vec<Tunnel>;
    /// IKEv2: every connection that is configured, those that are down too.
    fn ike(&self) -> Ike;
    /// Every SA that is installed.
    fn sas(&self) -> Vec<Sa>;
    /// The SPD, in the order in which it is searched.
    fn policies(&self) -> Vec<Policy>;
    /// Ports, in the order of the configuration.
    fn ports(&self) -> Vec<Port>;
    /// Workers.
    fn workers(&self) -> Vec<Worker>;
    /// Drops of all workers.
    fn drops(&self) -> DropCounters;
    /// Routes.
    fn routes(&self) -> Vec<Route>;
    /// Neighbours that were asked for.
    fn neighbours(&self) -> Vec<Neighbour>;
}

/// The gateway in one look.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Status {
    /// Its name in the configuration.
    pub name: String,
    /// Version of the program.
    pub version: String,
    /// Process ID.
    pub pid: u32,
    /// Seconds since it was started.
    pub uptime_seconds: u64,
    /// The engine that encrypts.
    pub crypto: String,
    /// Number of workers.
    pub workers: usize,
    /// Number of ports.
    pub ports: usize,
    /// Number of tunnels.
    pub tunnels: usize,
    /// How many of them are up.
    pub tunnels_up: usize,
    /// Number of SAs.
    pub sas: usize,
}

/// A Child SA by its name, or a manual SA. Its counters outlive a rekey.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Tunnel {
    /// `CONNECTION/CHILD`, or the name of the manual SA.
    pub name: String,
    /// Packets can be sent.
    pub up: bool,
    /// Our outer address.
    pub local: Option<IpAddr>,
    /// The peer's outer address; `None` until it is known.
    pub remote: Option<IpAddr>,
    /// What was received.
    pub inbound: Totals,
    /// What was sent.
    pub outbound: Totals,
}

/// How IKEv2 stands.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Ike {
    /// Connections, in the order of the configuration.
    pub connections: Vec<Connection>,
    /// What was not accepted, by name.
    pub rejections: Vec<Drop>,
    /// IKE SAs that a peer has begun and not authenticated yet.
    pub half_open: usize,
    /// First requests that were served with the solution of their puzzle (RFC 8019),
    pub puzzles_solved: u64,
    /// and by lot, without one.
    pub puzzles_by_lot: u64,
}

/// A connection of the configuration.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Connection {
    /// Its name.
    pub name: String,
    /// Whether it has an IKE SA.
    pub state: ConnectionState,
    /// Our address; `None` for any.
    pub local: Option<IpAddr>,
    /// The peer's address; `None` for any.
    pub remote: Option<IpAddr>,
    /// Who we are.
    pub local_id: String,
    /// Who the peer must be.
    pub remote_id: String,
    /// How often we tried to set it up.
    pub tries: u64,
    /// Seconds since the last try.
    pub last_try_seconds: Option<u64>,
    /// The last thing that went wrong, which may be over.
    pub last_error: Option<Trouble>,
    /// What the peer gave us, while there is an IKE SA.
    pub assigned: Option<Assigned>,
    /// Its IKE SAs.
    pub ike_sas: Vec<IkeSa>,
    /// Its children, up or down.
    pub children: Vec<ConnectionChild>,
}

/// Whether a connection has an IKE SA.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ConnectionState {
    /// One is established.
    Up,
    /// One is on its way.
    Connecting,
    /// None.
    Down,
}

/// What went wrong.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Trouble {
    /// What, with what was expected and what came.
    pub reason: String,
    /// Seconds since then.
    pub seconds: u64,
}

/// What a peer gave us (RFC 7296 s2.19).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Assigned {
    /// Our inner addresses.
    pub addresses: Vec<IpAddr>,
    /// Name servers.
    pub dns: Vec<IpAddr>,
    /// Prefixes behind the peer; empty when it did not say.
    pub subnets: Vec<IpNet>,
}

/// One IKE SA.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct IkeSa {
    /// Our SPI in hexadecimal.
    pub spi: String,
    /// The peer's.
    pub peer_spi: String,
    /// `established`, `connecting`, `rekeyed` and so on.
    pub state: String,
    /// Our address and port.
    pub local: SocketAddr,
    /// The peer's.
    pub remote: SocketAddr,
    /// Who the peer proved to be.
    pub peer: Option<String>,
    /// Inner addresses that we gave the peer.
    pub given: Vec<IpAddr>,
    /// Its Child SAs.
    pub children: Vec<ChildSa>,
}

/// One Child SA.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChildSa {
    /// Name of the child.
    pub name: String,
    /// SPI that we receive on.
    pub spi_in: u32,
    /// SPI that we send on.
    pub spi_out: u32,
    /// We send on it. There are two of a child during a rekey.
    pub sending: bool,
}

/// A child of a connection.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ConnectionChild {
    /// Its name.
    pub name: String,
    /// How many tunnels it has, one a peer. 0 is down.
    pub tunnels: usize,
    /// `boot`, `traffic` or `wait`.
    pub start: String,
    /// The last thing that went wrong, unless it is up.
    pub last_error: Option<Trouble>,
}

/// Counters of one direction.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Totals {
    /// Packets carried.
    pub packets: u64,
    /// Their bytes, as inner packets.
    pub bytes: u64,
    /// Packets dropped, by [`DropReason::name`](dataplane::drops::DropReason::name).
    pub drops: BTreeMap<String, u64>,
}

/// Direction of an SA.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Direction {
    /// Packets that we receive.
    Inbound,
    /// Packets that we send.
    Outbound,
}

/// One SA in one direction.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Sa {
    /// Name of its tunnel.
    pub tunnel: String,
    /// Direction.
    pub direction: Direction,
    /// SPI.
    pub spi: u32,
    /// `esp` or `ah`.
    pub protocol: String,
    /// `tunnel` or `transport`.
    pub mode: String,
    /// Keyword of its algorithms.
    pub suite: String,
    /// 64-bit sequence numbers.
    pub esn: bool,
    /// Our outer address.
    pub local: IpAddr,
    /// The peer's outer address.
    pub remote: IpAddr,
    /// UDP ports, ours and the peer's, when it is encapsulated.
    pub udp: Option<(u16, u16)>,
    /// Outbound the last sequence number sent, inbound the highest received.
    pub sequence: u64,
    /// Width of the replay window in packets; `None` when it is off, and outbound.
    pub replay_window: Option<u32>,
    /// Seconds since it was installed.
    pub age_seconds: u64,
    /// Seconds until its hard limit of time.
    pub expires_seconds: Option<u64>,
    /// A hard limit was reached: it carries nothing any more.
    pub expired: bool,
    /// Counters.
    #[serde(flatten)]
    pub totals: Totals,
}

/// One entry of the SPD.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Policy {
    /// `protect`, `bypass` or `discard`.
    pub action: String,
    /// The tunnel that protects.
    pub tunnel: Option<String>,
    /// Our side.
    pub local: IpNet,
    /// The peer's side.
    pub remote: IpNet,
    /// IP protocol number; `None` for any.
    pub protocol: Option<u8>,
    /// First and last port on our side; `None` for all.
    pub local_ports: Option<(u16, u16)>,
    /// First and last port on the peer's side; `None` for all.
    pub remote_ports: Option<(u16, u16)>,
}

/// One port, all of its queues together.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Port {
    /// Its name in the configuration.
    pub name: String,
    /// Driver.
    pub driver: String,
    /// Interface, file or PCI address.
    pub device: String,
    /// Our Ethernet address, as `02:00:00:00:00:01`; `None` where packets have none.
    pub mac: Option<String>,
    /// Largest IP packet in bytes.
    pub mtu: u32,
    /// Our addresses.
    pub addresses: Vec<IpNet>,
    /// Queue pairs.
    pub queues: usize,
    /// The other end of the wire is there; `None` where nobody knows.
    pub link: Option<bool>,
    /// What the driver has to say, such as `mode: zero-copy`.
    pub features: BTreeMap<String, String>,
    /// Stations that were seen with one of our addresses.
    pub conflicts: Vec<Conflict>,
    /// Counters.
    #[serde(flatten)]
    pub counters: PortCounters,
}

/// Another station on the link uses an address of ours.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Conflict {
    /// The address.
    pub address: IpAddr,
    /// Its Ethernet address.
    pub mac: String,
    /// Seconds since it was last seen.
    pub seconds_ago: u64,
}

/// Counters of a port. All in packets unless the name says otherwise.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PortCounters {
    /// Received.
    pub rx_packets: u64,
    /// Bytes received, link layer included.
    pub rx_bytes: u64,
    /// Dropped by kernel or NIC because we were too slow.
    pub rx_missed: u64,
    /// Dropped because they were malformed at the link layer.
    pub rx_errors: u64,
    /// Dropped because they were larger than a packet buffer.
    pub rx_too_long: u64,
    /// Dropped because no frame was free.
    pub rx_no_buffer: u64,
    /// Sent.
    pub tx_packets: u64,
    /// Bytes sent, link layer included.
    pub tx_bytes: u64,
    /// Refused by the device.
    pub tx_errors: u64,
}

impl From<dataplane::port::PortCounters> for PortCounters {
    fn from(counters: dataplane::port::PortCounters) -> Self {
        let dataplane::port::PortCounters {
            rx_packets,
            rx_bytes,
            rx_missed,
            rx_errors,
            rx_too_long,
            rx_no_buffer,
            tx_packets,
            tx_bytes,
            tx_errors,
        } = counters;
        Self {
            rx_packets,
            rx_bytes,
            rx_missed,
            rx_errors,
            rx_too_long,
            rx_no_buffer,
            tx_packets,
            tx_bytes,
            tx_errors,
        }
    }
}

impl std::ops::Add for PortCounters {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self {
            rx_packets: self.rx_packets + other.rx_packets,
            rx_bytes: self.rx_bytes + other.rx_bytes,
            rx_missed: self.rx_missed + other.rx_missed,
            rx_errors: self.rx_errors + other.rx_errors,
            rx_too_long: self.rx_too_long + other.rx_too_long,
            rx_no_buffer: self.rx_no_buffer + other.rx_no_buffer,
            tx_packets: self.tx_packets + other.tx_packets,
            tx_bytes: self.tx_bytes + other.tx_bytes,
            tx_errors: self.tx_errors + other.tx_errors,
        }
    }
}

/// One worker.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Worker {
    /// Its index.
    pub index: usize,
    /// The core that it runs on.
    pub core: usize,
    /// Packets received.
    pub rx_packets: u64,
    /// Packets sent.
    pub tx_packets: u64,
    /// Packets dropped, by [`DropReason::name`](dataplane::drops::DropReason::name). Only reasons that occurred.
    pub drops: BTreeMap<String, u64>,
    /// Turns of the poll loop.
    pub polls: u64,
    /// Turns that found no packet.
    pub empty_polls: u64,
    /// Times that it slept.
    pub sleeps: u64,
    /// Packet buffers that are free.
    pub free_frames: usize,
    /// All packet buffers.
    pub frames: usize,
    /// From receipt to transmission; `None` before the first packet.
    pub latency: Option<Latency>,
    /// The same as a histogram, which can be summed over workers and differenced over time.
    pub latency_histogram: LatencyHistogram,
}

/// Upper bounds of all buckets of a [`LatencyHistogram`] but the last, in nanoseconds.
pub const LATENCY_BOUNDS_NS: [u64; 13] = [
    1_000, 2_000, 5_000, 10_000, 20_000, 50_000, 100_000, 200_000, 500_000, 1_000_000, 2_000_000, 5_000_000,
    10_000_000,
];

/// How many packets stayed in a worker for how long.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LatencyHistogram {
    /// Packets that took no longer than a bound of [`LATENCY_BOUNDS_NS`], and longer than the one before; in the
    /// end, those that took longer than all.
    pub packets: [u64; LATENCY_BOUNDS_NS.len() + 1],
    /// Nanoseconds of all packets.
    pub sum_ns: u64,
}

impl From<&Histogram<u64>> for LatencyHistogram {
    fn from(histogram: &Histogram<u64>) -> Self {
        let mut sums = Self::default();
        for step in histogram.iter_recorded() {
            let (value, packets) = (step.value_iterated_to(), step.count_at_value());
            let bucket = LATENCY_BOUNDS_NS.partition_point(|&bound| bound < value);
            if let Some(count) = sums.packets.get_mut(bucket) {
                *count += packets;
            }
            let typical = histogram.median_equivalent(value);
            sums.sum_ns = sums.sum_ns.saturating_add(typical.saturating_mul(packets));
        }
        sums
    }
}

/// How long packets stay in a worker, in nanoseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Latency {
    /// Half of the packets took no longer.
    pub p50_ns: u64,
    /// 99 in 100.
    pub p99_ns: u64,
    /// 999 in 1,000.
    pub p999_ns: u64,
    /// The longest.
    pub max_ns: u64,
}

/// Packets dropped for one reason, or IKE messages that were not accepted.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Drop {
    /// [`DropReason::name`](dataplane::drops::DropReason::name), or `ike_` and the name of a
    /// [`Rejection`](controlplane::rejection::Rejection).
    pub reason: String,
    /// Packets.
    pub packets: u64,
}

/// One route.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Route {
    /// Destinations.
    pub to: IpNet,
    /// The port that leads there.
    pub port: String,
    /// Next hop; `None` when the destinations are on the port's own link.
    pub via: Option<IpAddr>,
    /// Packets go there. Of several routes to the same destinations it is one: the first whose port has its link.
    pub in_force: bool,
}

/// One neighbour.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Neighbour {
    /// Its address.
    pub address: IpAddr,
    /// The port whose link it is on.
    pub port: String,
    /// Its Ethernet address; `None` while it does not answer.
    pub mac: Option<String>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_packet_is_in_one_bucket_and_in_the_sum() {
        let mut histogram = dataplane::snapshot::latency_histogram();
        for (ns, packets) in [(900, 3), (1_500, 2), (150_000, 1), (500_000_000, 4)] {
            histogram.record_n(ns, packets).unwrap();
        }
        let sums = LatencyHistogram::from(&histogram);
        assert_eq!(sums.packets, [3, 2, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 4]);
        let exact = 3 * 900 + 2 * 1_500 + 150_000 + 4 * 500_000_000;
        assert!(sums.sum_ns.abs_diff(exact) < exact / 100, "{} is not {exact}", sums.sum_ns);
        assert_eq!(
            LatencyHistogram::from(&dataplane::snapshot::latency_histogram()),
            LatencyHistogram::default()
        );
    }
}
