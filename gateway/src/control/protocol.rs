//! Requests and responses of the control socket.

use std::io::{self, Write};

use dataplane::drops::DropReason;
use serde::{Deserialize, Serialize};

use crate::snapshot::{Drop, Snapshot};

/// Longest request in bytes.
pub const REQUEST_MAX: u64 = 64 * 1024;

/// What a client can ask for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "command", rename_all = "snake_case", deny_unknown_fields)]
pub enum Request {
    /// Rows of one kind.
    Show {
        /// The kind.
        what: What,
    },
}

/// What can be shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "snake_case")]
pub enum What {
    /// The gateway in one look.
    Status,
    /// Tunnels, those that are down too.
    Tunnels,
    /// Security associations.
    Sas,
    /// The SPD.
    Policies,
    /// Ports and their counters.
    Ports,
    /// Workers, their load and latency.
    Workers,
    /// Dropped packets by reason.
    Drops,
    /// Routes.
    Routes,
    /// Neighbours.
    Neighbours,
}

/// A response as it is sent: one of the two.
#[derive(Serialize)]
#[serde(rename_all = "snake_case")]
enum Response<T> {
    Result(T),
    Error(String),
}

/// A response as a client reads it.
#[derive(Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Answer {
    Result(serde_json::Value),
    Error(String),
}

/// Writes the response to one line of a client.
///
/// # Errors
/// Those of the writer.
pub(super) fn respond(line: &str, snapshot: &dyn Snapshot, out: &mut impl Write) -> io::Result<()> {
    match serde_json::from_str(line) {
        Ok(Request::Show { what }) => show(what, snapshot, out),
        Err(error) => send(out, &Response::<()>::Error(error.to_string())),
    }
}

fn show(what: What, snapshot: &dyn Snapshot, out: &mut impl Write) -> io::Result<()> {
    match what {
        What::Status => send(out, &Response::Result(snapshot.status())),
        What::Tunnels => send(out, &Response::Result(snapshot.tunnels())),
        What::Sas => send(out, &Response::Result(snapshot.sas())),
        What::Policies => send(out, &Response::Result(snapshot.policies())),
        What::Ports => send(out, &Response::Result(snapshot.ports())),
        What::Workers => send(out, &Response::Result(snapshot.workers())),
        What::Drops => {
            let counters = snapshot.drops();
            let drops: Vec<_> = DropReason::ALL
                .iter()
                .map(|&reason| Drop { reason: reason.name().to_owned(), packets: counters.get(reason) })
                .collect();
            send(out, &Response::Result(drops))
        }
        What::Routes => send(out, &Response::Result(snapshot.routes())),
        What::Neighbours => send(out, &Response::Result(snapshot.neighbours())),
    }
}

fn send<T: Serialize>(out: &mut impl Write, response: &Response<T>) -> io::Result<()> {
    serde_json::to_writer(&mut *out, response)?;
    out.write_all(b"\n")?;
    out.flush()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_are_as_documented() {
        let request: Request = serde_json::from_str(r#"{"command":"show","what":"sas"}"#).unwrap();
        assert_eq!(request, Request::Show { what: What::Sas });
        assert_eq!(serde_json::to_string(&request).unwrap(), r#"{"command":"show","what":"sas"}"#);
        for bad in
            [r#"{"command":"halt"}"#, r#"{"command":"show","what":"sa"}"#, r#"{"command":"show"}"#, "[]", "x"]
        {
            assert!(serde_json::from_str::<Request>(bad).is_err(), "{bad}");
        }
    }
}
