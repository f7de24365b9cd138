//! Answers of the control socket as tables for people. Programs take `--json`.

pub(crate) mod cells;

use std::collections::BTreeMap;
use std::net::IpAddr;

use comfy_table::presets::NOTHING;
use comfy_table::{CellAlignment, ContentArrangement, Table};
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::control::What;
use crate::snapshot::{
    Assigned, Conflict, Connection, Direction, Drop, IkeSa, Neighbour, Policy, Port, Route, Sa, Status,
    Totals, Tunnel, Worker,
};
use cells::{count, duration, nanoseconds, optional, ports, share};

/// Text for people of an answer.
///
/// # Errors
/// When the answer has not the fields that this version knows.
pub fn render(what: What, answer: Value) -> Result<String, serde_json::Error> {
    match what {
        What::Status => Ok(status(&serde_json::from_value(answer)?)),
        What::Tunnels => rows(answer, "no tunnels", tunnels),
        What::Connections => rows(answer, "no connections", connections),
        What::Sas => rows(answer, "no SAs", sas),
        What::Policies => rows(answer, "no policies: everything is discarded", policies),
        What::Ports => rows(answer, "no ports", ports_table),
        What::Workers => rows(answer, "no workers", workers),
        What::Drops => rows(answer, "no reasons", drops),
        What::Routes => rows(answer, "no routes", routes),
        What::Neighbours => rows(answer, "no neighbours", neighbours),
    }
}

fn rows<T: DeserializeOwned>(
    answer: Value,
    none: &str,
    table: fn(&[T]) -> String,
) -> Result<String, serde_json::Error> {
    let rows: Vec<T> = serde_json::from_value(answer)?;
    Ok(if rows.is_empty() { none.to_owned() } else { table(&rows) })
}

/// A table of text columns and, named with a leading `#`, columns of numbers, which stand at the right.
pub(crate) fn table<const N: usize>(header: [&str; N], rows: impl Iterator<Item = [String; N]>) -> String {
    let mut table = Table::new();
    table.load_style(NOTHING).set_content_arrangement(ContentArrangement::Disabled);
    table.set_header(header.iter().map(|name| name.trim_start_matches('#')));
    for (index, name) in header.iter().enumerate() {
        if let Some(column) = table.column_mut(index) {
            column.set_padding((0, 2));
            if name.starts_with('#') {
                column.set_cell_alignment(CellAlignment::Right);
            }
        }
    }
    for row in rows {
        table.add_row(row);
    }
    table.trim_fmt()
}

fn status(status: &Status) -> String {
    let rows = [
        ("Gateway", format!("{}, version {}", status.name, status.version)),
        ("Up", format!("{}, process {}", duration(status.uptime_seconds), status.pid)),
        ("Workers", format!("{}, crypto {}", status.workers, status.crypto)),
        ("Ports", status.ports.to_string()),
        ("Tunnels", format!("{} up of {}", status.tunnels_up, status.tunnels)),
        ("SAs", status.sas.to_string()),
    ];
    rows.map(|(name, value)| format!("{name:<9}{value}")).join("\n")
}

fn tunnels(rows: &[Tunnel]) -> String {
    let dropped = |totals: &Totals| count(totals.drops.values().sum());
    let header = [
        "TUNNEL",
        "STATE",
        "LOCAL",
        "REMOTE",
        "#IN",
        "#IN BYTES",
        "#IN DROPS",
        "#OUT",
        "#OUT BYTES",
        "#OUT DROPS",
    ];
    let row = |t: &Tunnel| {
        [
            t.name.clone(),
            if t.up { "up" } else { "down" }.to_owned(),
            optional(t.local),
            optional(t.remote),
            count(t.inbound.packets),
            count(t.inbound.bytes),
            dropped(&t.inbound),
            count(t.outbound.packets),
            count(t.outbound.bytes),
            dropped(&t.outbound),
        ]
    };
    table(header, rows.iter().map(row))
}

fn connections(rows: &[Connection]) -> String {
    let header = [
        "CONNECTION",
        "STATE",
        "LOCAL",
        "REMOTE",
        "PEER",
        "INNER",
        "CHILDREN",
        "#TRIES",
        "#LAST TRY",
        "LAST ERROR",
    ];
    let mut text = table(header, rows.iter().flat_map(connection));
    for row in rows {
        if let Some(Assigned { addresses, dns, subnets }) = &row.assigned {
            text.push_str(&format!("\nThe peer of {} gave us {}", row.name, words(addresses)));
            if !dns.is_empty() {
                text.push_str(&format!("; name servers {}", words(dns)));
            }
            if !subnets.is_empty() {
                text.push_str(&format!("; behind it {}", words(subnets)));
            }
        }
    }
    text
}

fn words<T: ToString>(values: &[T]) -> String {
    values.iter().map(ToString::to_string).collect::<Vec<_>>().join(" ")
}

/// A line for each IKE SA, or one for a connection that has none.
fn connection(connection: &Connection) -> Vec<[String; 10]> {
    let ago = |seconds| format!("{} ago", duration(seconds));
    let children = connection.children.iter().map(|child| {
        let state = match (child.tunnels, &child.last_error) {
            (0, Some(trouble)) => format!(" down ({})", trouble.reason),
            (0, None) => " down".to_owned(),
            (1, _) => " up".to_owned(),
            (tunnels, _) => format!(" {tunnels} up"),
        };
        format!("{}{state}", child.name)
    });
    let children = children.collect::<Vec<_>>().join(", ");
    let tries = || {
        let error = connection.last_error.as_ref();
        [
            count(connection.tries),
            connection.last_try_seconds.map_or("-".to_owned(), ago),
            error.map_or("-".to_owned(), |error| format!("{} ({})", error.reason, ago(error.seconds))),
        ]
    };
    let row = |state: &str, local, remote, peer, given: &[IpAddr]| {
        let [tries, last_try, error] = tries();
        let (name, state) = (connection.name.clone(), state.to_owned());
        let given = if given.is_empty() { "-".to_owned() } else { words(given) };
        [name, state, local, remote, peer, given, children.clone(), tries, last_try, error]
    };
    if connection.ike_sas.is_empty() {
        let any = |address: Option<IpAddr>| address.map_or("any".to_owned(), |address| address.to_string());
        let (local, remote) = (any(connection.local), any(connection.remote));
        return vec![row("down", local, remote, connection.remote_id.clone(), &[])];
    }
    let sa = |sa: &IkeSa| {
        let peer = sa.peer.clone().unwrap_or_else(|| connection.remote_id.clone());
        row(&sa.state, sa.local.to_string(), sa.remote.to_string(), peer, &sa.given)
    };
    connection.ike_sas.iter().map(sa).collect()
}

fn sas(rows: &[Sa]) -> String {
    let header = [
        "TUNNEL",
        "DIR",
        "SPI",
        "PROTOCOL",
        "SUITE",
        "LOCAL",
        "REMOTE",
        "#PACKETS",
        "#BYTES",
        "#DROPS",
        "#SEQUENCE",
        "#AGE",
        "#EXPIRES",
    ];
    let row = |sa: &Sa| {
        let direction = match sa.direction {
            Direction::Inbound => "in",
            Direction::Outbound => "out",
        };
        let udp = sa.udp.map_or(String::new(), |_| "/udp".to_owned());
        let esn = if sa.esn { "-esn" } else { "" };
        let port = |address: String, port: Option<u16>| match port {
            Some(port) => format!("{address}:{port}"),
            None => address,
        };
        let expires = match (sa.expired, sa.expires_seconds) {
            (true, _) => "expired".to_owned(),
            (false, Some(seconds)) => duration(seconds),
            (false, None) => "-".to_owned(),
        };
        [
            sa.tunnel.clone(),
            direction.to_owned(),
            format!("{:08x}", sa.spi),
            format!("{}{udp} {}", sa.protocol, sa.mode),
            format!("{}{esn}", sa.suite),
            port(sa.local.to_string(), sa.udp.map(|(local, _)| local)),
            port(sa.remote.to_string(), sa.udp.map(|(_, remote)| remote)),
            count(sa.totals.packets),
            count(sa.totals.bytes),
            count(sa.totals.drops.values().sum()),
            count(sa.sequence),
            duration(sa.age_seconds),
            expires,
        ]
    };
    table(header, rows.iter().map(row))
}

fn policies(rows: &[Policy]) -> String {
    let row = |policy: &Policy| {
        [
            policy.action.clone(),
            optional(policy.tunnel.as_ref()),
            policy.local.to_string(),
            policy.remote.to_string(),
            policy.protocol.map_or("any".to_owned(), |protocol| protocol.to_string()),
            ports(policy.local_ports),
            ports(policy.remote_ports),
        ]
    };
    let header = ["ACTION", "TUNNEL", "LOCAL", "REMOTE", "PROTOCOL", "LOCAL PORTS", "REMOTE PORTS"];
    table(header, rows.iter().map(row))
}

fn ports_table(rows: &[Port]) -> String {
    let row = |port: &Port| {
        let features = port.features.iter().map(|(name, value)| format!("{name}={value}"));
        let addresses = port.addresses.iter().map(ToString::to_string);
        let c = &port.counters;
        [
            port.name.clone(),
            format!("{} {}", port.driver, port.device),
            port.link.map_or("-", |up| if up { "up" } else { "down" }).to_owned(),
            optional(port.mac.as_ref()),
            port.mtu.to_string(),
            addresses.collect::<Vec<_>>().join(" "),
            count(c.rx_packets),
            count(c.rx_bytes),
            count(c.rx_missed + c.rx_errors + c.rx_too_long + c.rx_no_buffer),
            count(c.tx_packets),
            count(c.tx_bytes),
            count(c.tx_errors),
            features.collect::<Vec<_>>().join(" "),
        ]
    };
    let header = [
        "PORT",
        "DEVICE",
        "LINK",
        "MAC",
        "#MTU",
        "ADDRESSES",
        "#RX",
        "#RX BYTES",
        "#RX LOST",
        "#TX",
        "#TX BYTES",
        "#TX LOST",
        "FEATURES",
    ];
    let mut text = table(header, rows.iter().map(row));
    for port in rows {
        for Conflict { address, mac, seconds_ago } in &port.conflicts {
            let ago = duration(*seconds_ago);
            text.push_str(&format!(
                "\nCONFLICT on {}: {address} is used by {mac} too, seen {ago} ago",
                port.name
            ));
        }
    }
    text
}

fn workers(rows: &[Worker]) -> String {
    let row = |worker: &Worker| {
        let latency = |value: fn(&crate::snapshot::Latency) -> u64| {
            worker.latency.as_ref().map_or("-".to_owned(), |latency| nanoseconds(value(latency)))
        };
        [
            worker.index.to_string(),
            worker.core.to_string(),
            count(worker.rx_packets),
            count(worker.tx_packets),
            count(worker.drops.values().sum()),
            most(&worker.drops),
            share(worker.polls.saturating_sub(worker.empty_polls), worker.polls),
            count(worker.sleeps),
            count(worker.free_frames as u64),
            latency(|l| l.p50_ns),
            latency(|l| l.p99_ns),
            latency(|l| l.p999_ns),
            latency(|l| l.max_ns),
        ]
    };
    let header = [
        "#WORKER",
        "#CORE",
        "#RX",
        "#TX",
        "#DROPS",
        "MOST",
        "#BUSY POLLS",
        "#SLEEPS",
        "#FREE FRAMES",
        "#P50",
        "#P99",
        "#P99.9",
        "#MAX",
    ];
    table(header, rows.iter().map(row))
}

/// The reason that dropped most, with its packets.
fn most(drops: &BTreeMap<String, u64>) -> String {
    let most = drops.iter().max_by_key(|&(_, packets)| packets);
    most.map_or("-".to_owned(), |(reason, &packets)| format!("{reason} {}", count(packets)))
}

fn drops(rows: &[Drop]) -> String {
    let counted: Vec<_> = rows.iter().filter(|drop| drop.packets > 0).collect();
    if counted.is_empty() {
        return "nothing was dropped".to_owned();
    }
    table(["REASON", "#PACKETS"], counted.into_iter().map(|drop| [drop.reason.clone(), count(drop.packets)]))
}

fn routes(rows: &[Route]) -> String {
    let state = |route: &Route| if route.in_force { "in force" } else { "standby" }.to_owned();
    let row = |route: &Route| [route.to.to_string(), optional(route.via), route.port.clone(), state(route)];
    table(["TO", "VIA", "PORT", "STATE"], rows.iter().map(row))
}

fn neighbours(rows: &[Neighbour]) -> String {
    let row = |n: &Neighbour| {
        let mac = n.mac.clone().unwrap_or("unresolved".to_owned());
        [n.address.to_string(), n.port.clone(), mac]
    };
    table(["ADDRESS", "PORT", "MAC"], rows.iter().map(row))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tables_have_a_header_and_aligned_columns() {
        let answer = serde_json::json!([
            { "reason": "icv_bad", "packets": 12_345 },
            { "reason": "tx_full", "packets": 0 },
            { "reason": "replay_duplicate", "packets": 7 },
        ]);
        let text = render(What::Drops, answer).unwrap();
        assert_eq!(text, "REASON            PACKETS\nicv_bad            12,345\nreplay_duplicate        7");
    }

    #[test]
    fn nothing_is_said_to_be_nothing() {
        assert_eq!(render(What::Sas, serde_json::json!([])).unwrap(), "no SAs");
        let drops = serde_json::json!([{ "reason": "icv_bad", "packets": 0 }]);
        assert_eq!(render(What::Drops, drops).unwrap(), "nothing was dropped");
    }

    #[test]
    fn an_answer_of_another_shape_is_an_error() {
        assert!(render(What::Status, serde_json::json!([])).is_err());
        assert!(render(What::Ports, serde_json::json!([{ "name": "wan" }])).is_err());
    }
}
