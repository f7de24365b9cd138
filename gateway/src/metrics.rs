//! Prometheus metrics over HTTP: `GET /metrics` in the OpenMetrics text format.
//!
//! Every scrape asks the [`Snapshot`], so there is no second set of counters that could disagree with `spillway
//! show`. A tunnel that is down is there with `spillway_tunnel_up 0`, and every drop reason is there from the
//! start, so that `rate()` sees the first drop.

use std::fmt;
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::time::{Duration, Instant};

use dataplane::drops::DropReason;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::text::encode;
use prometheus_client::encoding::{
    DescriptorEncoder, EncodeLabelSet, EncodeMetric, MetricEncoder, NoLabelSet,
};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::Registry;

use crate::service::Service;
use crate::snapshot::{
    Connection, ConnectionState, LATENCY_BOUNDS_NS, LatencyHistogram, PortCounters, Snapshot, Totals, Worker,
};

/// The metrics at work. Dropping it closes its socket.
pub struct MetricsServer {
    address: SocketAddr,
    _service: Service,
}

impl MetricsServer {
    /// Serves metrics at `address`.
    ///
    /// # Errors
    /// That of `bind`, or when the system has no thread to give.
    pub fn start(address: SocketAddr, snapshot: Arc<dyn Snapshot>) -> io::Result<Self> {
        let listener = TcpListener::bind(address)?;
        let address = listener.local_addr()?;
        let mut registry = Registry::default();
        registry.register_collector(Box::new(Rows(snapshot)));
        let service = Service::start("metrics", listener, CLIENTS, move |stream| {
            if let Err(error) = answer(stream, &registry) {
                tracing::debug!(%error, "a metrics client went away");
            }
        })?;
        Ok(Self { address, _service: service })
    }

    /// Where it listens: the port that was chosen when `start` was given port 0.
    pub fn address(&self) -> SocketAddr {
        self.address
    }
}

/// Scrapes that are served at the same time.
const CLIENTS: usize = 8;
/// Time for a client to send its request, and for each part of the answer to be taken.
const PATIENCE: Duration = Duration::from_secs(5);
/// A scraper's request is a few hundred bytes.
const REQUEST_MAX: usize = 8 * 1024;
const HEADERS_MAX: usize = 64;

const OPEN_METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";
const PLAIN: &str = "text/plain; charset=utf-8";

fn answer(mut stream: TcpStream, registry: &Registry) -> io::Result<()> {
    stream.set_write_timeout(Some(PATIENCE))?;
    let (status, kind, body, with_body) = match read_request(&mut stream)? {
        Asked::Metrics { with_body } => {
            let mut text = String::new();
            encode(&mut text, registry).map_err(io::Error::other)?;
            ("200 OK", OPEN_METRICS, text, with_body)
        }
        Asked::OtherPath => ("404 Not Found", PLAIN, "The metrics are at /metrics\n".to_owned(), true),
        Asked::OtherMethod => ("405 Method Not Allowed", PLAIN, "GET or HEAD\n".to_owned(), true),
        Asked::Nonsense => ("400 Bad Request", PLAIN, "This is not a request\n".to_owned(), true),
    };
    let mut head = format!(
        "HTTP/1.1 {status}\r\nContent-Type: {kind}\r\nContent-Length: {}\r\nConnection: close\r\n",
        body.len()
    );
    if status.starts_with("405") {
        head.push_str("Allow: GET, HEAD\r\n");
    }
    head.push_str("\r\n");
    stream.write_all(head.as_bytes())?;
    if with_body {
        stream.write_all(body.as_bytes())?;
    }
    stream.flush()
}

enum Asked {
    Metrics { with_body: bool },
    OtherPath,
    OtherMethod,
    Nonsense,
}

fn read_request(stream: &mut TcpStream) -> io::Result<Asked> {
    let deadline = Instant::now() + PATIENCE;
    let mut buffer = [0; REQUEST_MAX];
    let mut len = 0;
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(io::ErrorKind::TimedOut.into());
        }
        stream.set_read_timeout(Some(left))?;
        let room = buffer.get_mut(len..).unwrap_or_default();
        // A full buffer reads nothing, as a client does that hung up: neither sent a whole request.
        let read = stream.read(room)?;
        if read == 0 {
            return Ok(Asked::Nonsense);
        }
        len += read;
        let mut headers = [httparse::EMPTY_HEADER; HEADERS_MAX];
        let mut request = httparse::Request::new(&mut headers);
        match request.parse(buffer.get(..len).unwrap_or_default()) {
            Ok(httparse::Status::Partial) => {}
            Ok(httparse::Status::Complete(_)) => {
                let path = request.path.unwrap_or_default();
                let path = path.split_once('?').map_or(path, |(path, _)| path);
                return Ok(match (request.method, path) {
                    (Some("GET"), "/metrics") => Asked::Metrics { with_body: true },
                    (Some("HEAD"), "/metrics") => Asked::Metrics { with_body: false },
                    (Some("GET" | "HEAD"), _) => Asked::OtherPath,
                    _ => Asked::OtherMethod,
                });
            }
            Err(_) => return Ok(Asked::Nonsense),
        }
    }
}

/// The rows of a snapshot as metrics.
struct Rows(Arc<dyn Snapshot>);

impl fmt::Debug for Rows {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Rows")
    }
}

impl Collector for Rows {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        self.0.refresh();
        let mut out = Families(&mut encoder);
        out.status(self.0.as_ref())?;
        out.drops(self.0.as_ref())?;
        out.ports(self.0.as_ref())?;
        out.tunnels(self.0.as_ref())?;
        out.ike(self.0.as_ref())?;
        out.workers(self.0.as_ref())
    }
}

/// A histogram of seconds.
struct Latencies(LatencyHistogram);

impl EncodeMetric for Latencies {
    fn encode(&self, mut encoder: MetricEncoder<'_>) -> fmt::Result {
        let LatencyHistogram { packets, sum_ns } = self.0;
        let seconds = |ns: u64| ns as f64 / 1e9;
        let bounds = LATENCY_BOUNDS_NS.iter().map(|&bound| seconds(bound)).chain([f64::INFINITY]);
        let buckets: Vec<_> = bounds.zip(packets).collect();
        encoder.encode_histogram::<NoLabelSet>(seconds(sum_ns), packets.iter().sum(), &buckets, None)
    }

    fn metric_type(&self) -> MetricType {
        MetricType::Histogram
    }
}

/// Name and help of a counter, and where its value stands in a row.
type Counter<R> = (&'static str, &'static str, fn(&R) -> u64);

/// Writes families of metrics: one name, rows with labels.
struct Families<'a, 'e>(&'a mut DescriptorEncoder<'e>);

impl Families<'_, '_> {
    fn status(&mut self, snapshot: &dyn Snapshot) -> fmt::Result {
        let status = snapshot.status();
        let labels =
            [("name", status.name.clone()), ("version", status.version.clone()), ("crypto", status.crypto)];
        self.gauges("spillway_build_info", "The gateway; always 1", [(labels, 1.0)])?;
        self.gauge("spillway_uptime_seconds", "Since it was started", status.uptime_seconds as f64)?;
        self.gauge("spillway_sas", "SAs installed", status.sas as f64)
    }

    fn drops(&mut self, snapshot: &dyn Snapshot) -> fmt::Result {
        let drops = snapshot.drops();
        let rows = DropReason::ALL.iter().map(|&reason| ([("reason", reason.name())], drops.get(reason)));
        self.counters("spillway_drops", "Packets dropped, by reason", rows)
    }

    fn ports(&mut self, snapshot: &dyn Snapshot) -> fmt::Result {
        let ports = snapshot.ports();
        let counters: [Counter<PortCounters>; 9] = [
            ("spillway_port_rx_packets", "Packets received", |c| c.rx_packets),
            ("spillway_port_rx_bytes", "Bytes received, link layer included", |c| c.rx_bytes),
            ("spillway_port_rx_missed", "Packets that kernel or NIC dropped: too slow", |c| c.rx_missed),
            ("spillway_port_rx_errors", "Packets malformed at the link layer", |c| c.rx_errors),
            ("spillway_port_rx_too_long", "Packets larger than a frame", |c| c.rx_too_long),
            ("spillway_port_rx_no_buffer", "Packets dropped for want of a frame", |c| c.rx_no_buffer),
            ("spillway_port_tx_packets", "Packets sent", |c| c.tx_packets),
            ("spillway_port_tx_bytes", "Bytes sent, link layer included", |c| c.tx_bytes),
            ("spillway_port_tx_errors", "Packets that the device refused", |c| c.tx_errors),
        ];
        for (name, help, value) in counters {
            let rows = ports.iter().map(|port| ([("port", port.name.as_str())], value(&port.counters)));
            self.counters(name, help, rows)?;
        }
        let known = ports.iter().filter_map(|port| Some((port.name.as_str(), port.link?)));
        let up = known.map(|(port, link)| ([("port", port)], f64::from(u8::from(link))));
        self.gauges(
            "spillway_port_up",
            "Whether the other end of the wire is there; left out where nobody knows",
            up,
        )
    }

    fn tunnels(&mut self, snapshot: &dyn Snapshot) -> fmt::Result {
        let tunnels = snapshot.tunnels();
        let up =
            tunnels.iter().map(|tunnel| ([("tunnel", tunnel.name.as_str())], f64::from(u8::from(tunnel.up))));
        self.gauges("spillway_tunnel_up", "Whether packets can be sent", up)?;
        let directions: Vec<(&str, &str, &Totals)> = tunnels
            .iter()
            .flat_map(|t| {
                [(t.name.as_str(), "inbound", &t.inbound), (t.name.as_str(), "outbound", &t.outbound)]
            })
            .collect();
        let rows = |value: fn(&Totals) -> u64| {
            directions.iter().map(move |(name, direction, totals)| {
                ([("tunnel", *name), ("direction", *direction)], value(totals))
            })
        };
        self.counters("spillway_tunnel_packets", "Packets carried", rows(|totals| totals.packets))?;
        self.counters(
            "spillway_tunnel_bytes",
            "Bytes of inner packets carried",
            rows(|totals| totals.bytes),
        )?;
        let drops = directions.iter().flat_map(|(name, direction, totals)| {
            totals.drops.iter().map(move |(reason, packets)| {
                ([("tunnel", *name), ("direction", *direction), ("reason", reason.as_str())], *packets)
            })
        });
        self.counters("spillway_tunnel_drops", "Packets of a tunnel dropped, by reason", drops)
    }

    fn ike(&mut self, snapshot: &dyn Snapshot) -> fmt::Result {
        let ike = snapshot.ike();
        let name = |connection: &'_ Connection| [("connection", connection.name.clone())];
        let up = ike.connections.iter().map(|one| {
            let up = one.state == ConnectionState::Up;
            (name(one), f64::from(u8::from(up)))
        });
        self.gauges("spillway_connection_up", "Whether there is an IKE SA", up)?;
        let tries = ike.connections.iter().map(|one| (name(one), one.tries));
        self.counters("spillway_connection_tries", "Attempts of ours to set up an IKE SA", tries)?;
        let sas = ike.connections.iter().map(|one| (name(one), one.ike_sas.len() as f64));
        self.gauges("spillway_connection_ike_sas", "IKE SAs, those on their way too", sas)?;
        let tunnels = ike.connections.iter().flat_map(|one| {
            one.children.iter().map(move |child| {
                let labels = [("connection", one.name.clone()), ("child", child.name.clone())];
                (labels, child.tunnels as f64)
            })
        });
        self.gauges("spillway_child_tunnels", "Tunnels of a child, one a peer", tunnels)?;
        self.gauge("spillway_ike_half_open", "IKE SAs not authenticated yet", ike.half_open as f64)?;
        let served = [("solution", ike.puzzles_solved), ("lot", ike.puzzles_by_lot)];
        let served = served.map(|(by, count)| ([("by", by)], count));
        self.counters("spillway_ike_puzzles", "IKE peers served while puzzles were given", served)?;
        let rejections = ike.rejections.iter().map(|one| ([("reason", one.reason.as_str())], one.packets));
        self.counters("spillway_ike_rejections", "IKE messages not accepted, by reason", rejections)
    }

    fn workers(&mut self, snapshot: &dyn Snapshot) -> fmt::Result {
        let workers: Vec<_> =
            snapshot.workers().into_iter().map(|worker| (worker.index.to_string(), worker)).collect();
        let counters: [Counter<Worker>; 5] = [
            ("spillway_worker_rx_packets", "Packets received", |w| w.rx_packets),
            ("spillway_worker_tx_packets", "Packets sent", |w| w.tx_packets),
            ("spillway_worker_polls", "Turns of the poll loop", |w| w.polls),
            ("spillway_worker_empty_polls", "Turns that found no packet", |w| w.empty_polls),
            ("spillway_worker_sleeps", "Times that it slept", |w| w.sleeps),
        ];
        for (name, help, value) in counters {
            let rows = workers.iter().map(|(index, worker)| ([("worker", index.as_str())], value(worker)));
            self.counters(name, help, rows)?;
        }
        let drops = workers.iter().flat_map(|(index, worker)| {
            DropReason::ALL.iter().map(move |reason| {
                let packets = worker.drops.get(reason.name()).copied().unwrap_or_default();
                ([("worker", index.as_str()), ("reason", reason.name())], packets)
            })
        });
        self.counters("spillway_worker_drops", "Packets dropped, by worker and reason", drops)?;
        let gauges: [Counter<Worker>; 2] = [
            ("spillway_worker_free_frames", "Packet buffers that are free", |w| w.free_frames as u64),
            ("spillway_worker_frames", "Packet buffers", |w| w.frames as u64),
        ];
        for (name, help, value) in gauges {
            let rows =
                workers.iter().map(|(index, worker)| ([("worker", index.as_str())], value(worker) as f64));
            self.gauges(name, help, rows)?;
        }
        let rows = workers
            .iter()
            .map(|(index, worker)| ([("worker", index.as_str())], Latencies(worker.latency_histogram)));
        self.family("spillway_worker_latency_seconds", "From receipt to transmission", rows)
    }

    fn counters<L: EncodeLabelSet>(
        &mut self,
        name: &str,
        help: &str,
        rows: impl IntoIterator<Item = (L, u64)>,
    ) -> fmt::Result {
        let rows = rows.into_iter().map(|(labels, value)| (labels, ConstCounter::new(value)));
        self.family(name, help, rows)
    }

    fn gauge(&mut self, name: &str, help: &str, value: f64) -> fmt::Result {
        let gauge = ConstGauge::new(value);
        gauge.encode(self.0.encode_descriptor(name, help, None, gauge.metric_type())?)
    }

    fn gauges<L: EncodeLabelSet>(
        &mut self,
        name: &str,
        help: &str,
        rows: impl IntoIterator<Item = (L, f64)>,
    ) -> fmt::Result {
        let rows = rows.into_iter().map(|(labels, value)| (labels, ConstGauge::new(value)));
        self.family(name, help, rows)
    }

    fn family<L: EncodeLabelSet, M: EncodeMetric>(
        &mut self,
        name: &str,
        help: &str,
        rows: impl Iterator<Item = (L, M)>,
    ) -> fmt::Result {
        let mut rows = rows.peekable();
        let Some((_, first)) = rows.peek() else { return Ok(()) };
        let mut family = self.0.encode_descriptor(name, help, None, first.metric_type())?;
        for (labels, metric) in rows {
            metric.encode(family.encode_family(&labels)?)?;
        }
        Ok(())
    }
}
