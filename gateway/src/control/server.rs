//! Answers clients of the control socket.

use std::io::{self, BufRead, BufReader, BufWriter, Read, Write};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::time::Duration;

use super::protocol::{Operator, REQUEST_MAX, respond};
use super::socket::{ControlSocket, Place};
use crate::service::Service;
use crate::snapshot::Snapshot;

/// Clients that are served at the same time.
const CLIENTS: usize = 16;
/// A client that says nothing for as long is let go.
const IDLE: Duration = Duration::from_secs(60);
/// A client that does not take its answer for as long is let go.
const STALL: Duration = Duration::from_secs(10);

/// The control socket at work. Dropping it closes the socket and removes it.
pub struct ControlServer {
    // In this order: nobody connects to a socket whose service is gone.
    _place: Place,
    _service: Service,
}

/// Answers clients until the server is dropped.
///
/// # Errors
/// When the system has no thread or descriptor to give.
pub fn serve(
    socket: ControlSocket,
    snapshot: Arc<dyn Snapshot>,
    operator: Arc<dyn Operator>,
) -> io::Result<ControlServer> {
    let (listener, place) = socket.into_parts();
    let service = Service::start("control", listener, CLIENTS, move |stream| {
        if let Err(error) = converse(&stream, snapshot.as_ref(), operator.as_ref()) {
            tracing::debug!(%error, "a control client went away");
        }
    })?;
    Ok(ControlServer { _place: place, _service: service })
}

fn converse(stream: &UnixStream, snapshot: &dyn Snapshot, operator: &dyn Operator) -> io::Result<()> {
    stream.set_read_timeout(Some(IDLE))?;
    stream.set_write_timeout(Some(STALL))?;
    let mut input = BufReader::new(stream);
    let mut output = BufWriter::new(stream);
    let mut line = Vec::new();
    loop {
        line.clear();
        let read = input.by_ref().take(REQUEST_MAX + 1).read_until(b'\n', &mut line)?;
        if read == 0 {
            return Ok(());
        }
        if !line.ends_with(b"\n") && line.len() as u64 > REQUEST_MAX {
            writeln!(output, "{{\"error\":\"a request is at most {REQUEST_MAX} bytes long\"}}")?;
            return output.flush();
        }
        let text = String::from_utf8_lossy(&line);
        if !text.trim().is_empty() {
            respond(&text, snapshot, operator, &mut output)?;
        }
    }
}
