//! Requests and responses of the control socket.

use std::io::{self, Write};
use std::str::FromStr;

use controlplane::waiters::Verb;
use dataplane::drops::DropReason;
use serde::{Deserialize, Serialize};

use crate::snapshot::{Drop, Snapshot};

/// Longest request in bytes.
pub const REQUEST_MAX: u64 = 64 * 1024;

/// What a client can ask for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "command", rename_all = "snake_case", deny_unknown_fields)]
pub enum Request {
    /// Rows of one kind.
    Show {
        /// The kind.
        what: What,
    },
    /// Set up a connection, or one of its children.
    Initiate(Target),
    /// Take down a connection, or one of its children.
    Terminate(Target),
    /// Replace the keys of a connection's IKE SA, or of one of its children.
    Rekey(Target),
}

/// What a command is about.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Target {
    /// Name of the connection.
    pub connection: String,
    /// Name of the child; left out for all of the connection.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub child: Option<String>,
}

/// `CONNECTION` or `CONNECTION/CHILD`.
impl FromStr for Target {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (connection, child) = match text.split_once('/') {
            Some((connection, child)) => (connection, Some(child)),
            None => (text, None),
        };
        if connection.is_empty() || child.is_some_and(|child| child.is_empty() || child.contains('/')) {
            return Err("expected CONNECTION or CONNECTION/CHILD");
        }
        Ok(Self { connection: connection.to_owned(), child: child.map(str::to_owned) })
    }
}

/// Carries out what an operator wants, from any thread.
pub trait Operator: Send + Sync + 'static {
    /// Does it, and says what came of it or why it cannot be done.
    ///
    /// # Errors
    /// The reason, for the operator.
    fn operate(&self, verb: Verb, target: &Target) -> Result<String, String>;
}

/// What can be shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "snake_case")]
pub enum What {
    /// The gateway in one look.
    Status,
    /// Tunnels, those that are down too.
    Tunnels,
    /// Connections of IKEv2, those that are down too, with the reason and the last try.
    Connections,
    /// Security associations.
    Sas,
    /// The SPD.
    Policies,
    /// Ports and their counters.
    Ports,
    /// Workers, their load and latency.
    Workers,
    /// Dropped packets by reason, and IKE messages that were not accepted.
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
pub(super) fn respond(
    line: &str,
    snapshot: &dyn Snapshot,
    operator: &dyn Operator,
    out: &mut impl Write,
) -> io::Result<()> {
    let mut operate = |verb, target: &Target| match operator.operate(verb, target) {
        Ok(done) => send(out, &Response::Result(done)),
        Err(why) => send(out, &Response::<()>::Error(why)),
    };
    match serde_json::from_str(line) {
        Ok(Request::Show { what }) => show(what, snapshot, out),
        Ok(Request::Initiate(target)) => operate(Verb::Initiate, &target),
        Ok(Request::Terminate(target)) => operate(Verb::Terminate, &target),
        Ok(Request::Rekey(target)) => operate(Verb::Rekey, &target),
        Err(error) => send(out, &Response::<()>::Error(error.to_string())),
    }
}

fn show(what: What, snapshot: &dyn Snapshot, out: &mut impl Write) -> io::Result<()> {
    snapshot.refresh();
    match what {
        What::Status => send(out, &Response::Result(snapshot.status())),
        What::Tunnels => send(out, &Response::Result(snapshot.tunnels())),
        What::Connections => send(out, &Response::Result(snapshot.ike().connections)),
        What::Sas => send(out, &Response::Result(snapshot.sas())),
        What::Policies => send(out, &Response::Result(snapshot.policies())),
        What::Ports => send(out, &Response::Result(snapshot.ports())),
        What::Workers => send(out, &Response::Result(snapshot.workers())),
        What::Drops => {
            let counters = snapshot.drops();
            let drops = DropReason::ALL
                .iter()
                .map(|&reason| Drop { reason: reason.name().to_owned(), packets: counters.get(reason) });
            let drops: Vec<_> = drops.chain(snapshot.ike().rejections).collect();
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
    fn targets_are_a_connection_or_a_child_of_it() {
        for bad in ["", "/lan", "branch/", "branch/lan/x", "/"] {
            assert!(bad.parse::<Target>().is_err(), "{bad}");
        }
        let target: Target = "branch/lan".parse().unwrap();
        assert_eq!((target.connection.as_str(), target.child.as_deref()), ("branch", Some("lan")));
    }

    #[test]
    fn requests_are_as_documented() {
        let request: Request = serde_json::from_str(r#"{"command":"show","what":"sas"}"#).unwrap();
        assert_eq!(request, Request::Show { what: What::Sas });
        assert_eq!(serde_json::to_string(&request).unwrap(), r#"{"command":"show","what":"sas"}"#);
        let rekey = r#"{"command":"rekey","connection":"branch","child":"lan"}"#;
        let request: Request = serde_json::from_str(rekey).unwrap();
        assert_eq!(request, Request::Rekey("branch/lan".parse().unwrap()));
        assert_eq!(serde_json::to_string(&request).unwrap(), rekey);
        let initiate = Request::Initiate("branch".parse().unwrap());
        let text = r#"{"command":"initiate","connection":"branch"}"#;
        assert_eq!(serde_json::to_string(&initiate).unwrap(), text);
        for bad in [
            r#"{"command":"initiate"}"#,
            r#"{"command":"halt"}"#,
            r#"{"command":"show","what":"sa"}"#,
            r#"{"command":"show"}"#,
            "[]",
            "x",
        ] {
            assert!(serde_json::from_str::<Request>(bad).is_err(), "{bad}");
        }
    }
}
