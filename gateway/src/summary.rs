//! What `spillway check` says of a good configuration.

use std::fmt;

use dataplane::sa::{Mode, Protocol};

use crate::config::{Config, Driver, Idle};

/// A configuration in a few lines.
pub struct Summary<'a>(pub &'a Config);

/// Entries of a section that are shown one by one.
const SHOWN: usize = 20;

impl fmt::Display for Summary<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let config = self.0;
        let gateway = &config.gateway;
        write!(f, "gateway {}: control socket {}", gateway.name, gateway.control_socket.display())?;
        match gateway.metrics {
            Some(address) => writeln!(f, ", metrics at http://{address}/metrics")?,
            None => writeln!(f, ", no metrics")?,
        }
        let workers = &config.workers;
        let cores: Vec<_> = workers.cores.iter().map(usize::to_string).collect();
        let idle = match workers.idle {
            Idle::Spin => "spin",
            Idle::Adaptive => "adaptive",
        };
        let crypto = workers.crypto;
        writeln!(
            f,
            "workers: cores {}, idle {idle}, crypto {crypto}; control core {}",
            cores.join(", "),
            workers.control_core
        )?;
        section(f, "ports", config.ports.iter(), |(name, port)| {
            let device = match &port.driver {
                Driver::Pcap { read, write } => {
                    let shown = |file: &Option<_>| {
                        file.as_ref().map_or("nothing".to_owned(), |path: &std::path::PathBuf| {
                            path.display().to_string()
                        })
                    };
                    format!("from {} to {}", shown(read), shown(write))
                }
                driver => driver.device().unwrap_or_default().to_owned(),
            };
            let vlan = port.vlan.map_or(String::new(), |vlan| format!(" VLAN {vlan}"));
            let addresses: Vec<_> = port.addresses.iter().map(ToString::to_string).collect();
            format!(
                "{name}: {} {device}{vlan}, MTU {}, {}",
                port.driver.keyword(),
                port.mtu,
                join_or(&addresses, "no address")
            )
        })?;
        section(f, "routes", config.routes.iter(), |route| {
            let port =
                route.port.and_then(|port| config.ports.get_index(port.into())).map_or("?", |(name, _)| name);
            match route.via {
                Some(via) => format!("{} via {via} on {port}", route.to),
                None => format!("{} on {port}", route.to),
            }
        })?;
        section(f, "connections", config.connections.iter(), |(name, connection)| {
            let children: Vec<_> = connection.children.keys().map(String::as_str).collect();
            let remote =
                connection.remote.address.map_or("any address".to_owned(), |address| address.to_string());
            format!("{name}: to {remote}, children {}", children.join(", "))
        })?;
        section(f, "manual SAs", config.manual_sas.iter(), |(name, sa)| {
            let protocol = match sa.options.protocol {
                Protocol::Esp => "ESP",
                Protocol::Ah => "AH",
            };
            let mode = match sa.options.mode {
                Mode::Tunnel => "tunnel",
                Mode::Transport => "transport",
            };
            format!(
                "{name}: {protocol} {mode} {} to {}, {}, SPIs out {:#x} in {:#x}, {} selectors",
                sa.local,
                sa.remote,
                sa.suite,
                sa.outbound.spi,
                sa.inbound.spi,
                sa.selectors.len()
            )
        })?;
        write!(f, "policies: {}, and discard for what nothing matches", config.policies.len())
    }
}

fn section<T>(
    f: &mut fmt::Formatter<'_>,
    name: &str,
    entries: impl ExactSizeIterator<Item = T>,
    line: impl Fn(T) -> String,
) -> fmt::Result {
    let count = entries.len();
    writeln!(f, "{name}: {count}")?;
    for entry in entries.take(SHOWN) {
        writeln!(f, "  {}", line(entry))?;
    }
    if count > SHOWN {
        writeln!(f, "  and {} more", count - SHOWN)?;
    }
    Ok(())
}

fn join_or(list: &[String], none: &str) -> String {
    if list.is_empty() { none.to_owned() } else { list.join(" ") }
}
