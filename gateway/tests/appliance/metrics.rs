//! The metrics from end to end, over HTTP.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::Arc;

use crate::fixed::Fixed;
use gateway::metrics::MetricsServer;

fn start() -> MetricsServer {
    MetricsServer::start("127.0.0.1:0".parse().unwrap(), Arc::new(Fixed { sas: 2 })).unwrap()
}

/// Sends bytes, and returns head and body of the response.
fn exchange(server: &MetricsServer, request: &[u8]) -> (String, String) {
    let mut stream = TcpStream::connect(server.address()).unwrap();
    stream.write_all(request).unwrap();
    let mut response = String::new();
    stream.read_to_string(&mut response).unwrap();
    let (head, body) = response.split_once("\r\n\r\n").unwrap();
    (head.to_owned(), body.to_owned())
}

#[test]
fn a_scrape_has_every_family() {
    let server = start();
    let (head, body) = exchange(&server, b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n");
    assert!(head.starts_with("HTTP/1.1 200 OK\r\n"), "{head}");
    assert!(
        head.contains("Content-Type: application/openmetrics-text; version=1.0.0; charset=utf-8"),
        "{head}"
    );
    assert!(head.contains(&format!("Content-Length: {}", body.len())), "{head}");
    for line in [
        r#"spillway_build_info{name="pop1",version="0.1.0",crypto="vaes"} 1.0"#,
        "spillway_uptime_seconds 3723.0",
        "spillway_sas 2.0",
        "# TYPE spillway_drops counter",
        r#"spillway_drops_total{reason="icv_bad"} 31"#,
        r#"spillway_drops_total{reason="tx_full"} 0"#,
        r#"spillway_port_rx_packets_total{port="wan"} 1234"#,
        r#"spillway_port_rx_missed_total{port="wan"} 5"#,
        r#"spillway_port_tx_bytes_total{port="wan"} 99"#,
        r#"spillway_port_up{port="wan"} 1.0"#,
        r#"spillway_tunnel_up{tunnel="lab"} 1.0"#,
        r#"spillway_tunnel_packets_total{tunnel="lab",direction="outbound"} 20"#,
        r#"spillway_tunnel_bytes_total{tunnel="lab",direction="inbound"} 1000"#,
        r#"spillway_tunnel_drops_total{tunnel="lab",direction="inbound",reason="replay_duplicate"} 3"#,
        r#"spillway_connection_up{connection="branch"} 0.0"#,
        r#"spillway_connection_up{connection="mobile"} 1.0"#,
        r#"spillway_connection_tries_total{connection="branch"} 3"#,
        r#"spillway_connection_ike_sas{connection="mobile"} 1.0"#,
        r#"spillway_child_tunnels{connection="branch",child="lan"} 0.0"#,
        "spillway_ike_half_open 2.0",
        r#"spillway_ike_puzzles_total{by="solution"} 6"#,
        r#"spillway_ike_puzzles_total{by="lot"} 1"#,
        r#"spillway_ike_rejections_total{reason="ike_unknown_spi"} 4"#,
        r#"spillway_worker_empty_polls_total{worker="0"} 250"#,
        r#"spillway_worker_drops_total{worker="0",reason="icv_bad"} 31"#,
        r#"spillway_worker_drops_total{worker="0",reason="no_sa"} 0"#,
        r#"spillway_port_rx_too_long_total{port="wan"} 0"#,
        r#"spillway_worker_free_frames{worker="0"} 16000.0"#,
        r#"spillway_worker_frames{worker="0"} 16384.0"#,
        "# TYPE spillway_worker_latency_seconds histogram",
        r#"spillway_worker_latency_seconds_sum{worker="0"} 0.0025"#,
        r#"spillway_worker_latency_seconds_count{worker="0"} 1234"#,
        r#"spillway_worker_latency_seconds_bucket{le="0.000002",worker="0"} 1100"#,
        r#"spillway_worker_latency_seconds_bucket{le="+Inf",worker="0"} 1234"#,
    ] {
        assert!(body.lines().any(|found| found == line), "{line}\nnot in\n{body}");
    }
    assert!(body.ends_with("# EOF\n"));
}

#[test]
fn a_tunnel_that_is_down_does_not_vanish() {
    let server = start();
    let (_, body) = exchange(&server, b"GET /metrics HTTP/1.1\r\n\r\n");
    assert!(body.contains("spillway_tunnel_up{tunnel=\"branch/lan\"} 0.0\n"), "{body}");
    assert!(
        body.contains("spillway_tunnel_packets_total{tunnel=\"branch/lan\",direction=\"inbound\"} 7\n"),
        "{body}"
    );
}

#[test]
fn other_requests_get_their_status() {
    let server = start();
    let status = |request: &[u8]| exchange(&server, request).0.lines().next().unwrap().to_owned();
    assert_eq!(status(b"GET / HTTP/1.1\r\n\r\n"), "HTTP/1.1 404 Not Found");
    assert_eq!(status(b"GET /metrics?x=1 HTTP/1.1\r\n\r\n"), "HTTP/1.1 200 OK");
    assert_eq!(status(b"POST /metrics HTTP/1.1\r\n\r\n"), "HTTP/1.1 405 Method Not Allowed");
    assert_eq!(status(b"\x16\x03\x01\x02\x00\r\n\r\n"), "HTTP/1.1 400 Bad Request");
    let long = [b"GET /metrics HTTP/1.1\r\nX: ".as_slice(), &[b'x'; 8192 - 26]].concat();
    assert_eq!(status(&long), "HTTP/1.1 400 Bad Request");
    let (head, body) = exchange(&server, b"HEAD /metrics HTTP/1.1\r\n\r\n");
    assert!(head.starts_with("HTTP/1.1 200 OK"));
    assert_eq!(body, "");
}

#[test]
fn a_client_that_says_nothing_does_not_hold_up_the_others() {
    let server = start();
    let silent: Vec<_> = (0..3).map(|_| TcpStream::connect(server.address()).unwrap()).collect();
    let (head, _) = exchange(&server, b"GET /metrics HTTP/1.1\r\n\r\n");
    assert!(head.starts_with("HTTP/1.1 200 OK"));
    drop(silent);
}
