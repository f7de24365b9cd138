//! The control socket: a Unix socket that answers questions about the running gateway.
//!
//! # Protocol
//!
//! JSON lines over a stream socket: a client writes one request, a JSON object on a line of its own, and reads
//! one response, also on one line. A connection may carry any number of requests, one after the other.
//!
//! ```json
//! {"command":"show","what":"sas"}
//! ```
//!
//! `what` is `status`, `tunnels`, `connections`, `sas`, `policies`, `ports`, `workers`, `drops`, `routes` or
//! `neighbours`. The response holds the result, an object for `status` and an array for everything else, or an error:
//!
//! ```json
//! {"result":[{"tunnel":"lab","direction":"inbound","spi":8193,"protocol":"esp"}]}
//! {"error":"unknown variant `sa`, expected one of `status`, `tunnels`, `sas`, ..."}
//! ```
//!
//! Three commands change something. Each is answered when its end is known, or after 20 seconds:
//!
//! ```json
//! {"command":"initiate","connection":"branch"}
//! {"command":"terminate","connection":"branch","child":"lan"}
//! {"command":"rekey","connection":"branch","child":"lan"}
//! ```
//!
//! Without `child` it is about all of the connection, and `rekey` about its IKE SA. The result is a word, such as
//! `{"result":"up"}`, and the error says why it came to nothing: `{"error":"peer says AUTHENTICATION_FAILED"}`.
//!
//! The fields are those of [`crate::snapshot`]. Fields may be added; a client ignores those that it does not
//! know. A request is at most 64 KiB; a connection that says nothing for a minute is closed. Without Spillway's
//! own client: `echo '{"command":"show","what":"status"}' | socat - UNIX-CONNECT:/run/spillway/control.sock`.
//!
//! The socket has mode 0600: who can open it is root or the gateway's own user.

pub mod client;
pub mod protocol;
pub mod server;
mod socket;

pub use client::Client;
pub use protocol::{Operator, Request, Target, What};
pub use server::serve;
pub use socket::ControlSocket;
