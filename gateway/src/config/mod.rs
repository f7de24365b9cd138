//! The configuration: one YAML file, read into types that hold only what is valid.
//!
//! [`load`] parses the file, reads every section, checks what sections say of each other, and reads key files.
//! It collects all problems, so an operator mends a file in one go. Each names the file, line and column, the
//! path of the field, what was found and what would be accepted. `deploy/gateway.yaml` explains every key.
//!
//! Reading goes through four rooms: `node` (typed values out of the tree), one module a section, `validate`
//! (what sections say of each other), `locate` (from a field to its line, only when there are problems).
//! Every step is linear in the size of the file.

mod auth;
mod connection;
mod dpdk;
mod error;
mod gateway;
mod ike;
mod keyfile;
mod limits;
mod load;
mod locate;
mod manual;
mod node;
mod options;
mod path;
mod pool;
mod port;
mod route;
mod selector;
mod units;
mod validate;

use dataplane::message::Route;
use indexmap::IndexMap;

pub use auth::{Auth, Authorities, OurProof, OwnCertificate, TheirProof};
pub use connection::{Child, Connection, Encapsulation, End, Ike, OnDown, Ppk, Start};
pub use dpdk::{Dpdk, HugePages};
pub use error::{Diagnostics, LoadError, Position, Problem, Severity};
pub use gateway::{CONTROL_SOCKET, Gateway, Idle, Log, LogFormat, LogLevel, STATE, Workers};
pub use ike::IkeSettings;
pub use keyfile::{KeyFileError, Psk, read_key, read_psk};
pub use limits::{Limits, MAX_SAS};
pub use load::{Loaded, load, parse};
pub use manual::{ManualSa, SaKey};
pub use options::SaOptions;
pub use path::{FieldPath, Step};
pub use pool::Pool;
pub(crate) use port::is_unicast;
pub use port::{Driver, Port, Rpf, XdpMode};
pub use route::{ClearAction, ClearPolicy};

/// A valid configuration.
#[derive(Clone, Debug)]
pub struct Config {
    /// Name, control socket and metrics.
    pub gateway: Gateway,
    /// Logging.
    pub log: Log,
    /// Cores and what runs on them.
    pub workers: Workers,
    /// What all ports of the driver `dpdk` share.
    pub dpdk: Dpdk,
    /// By name. The index of a port is its [`PortId`](dataplane::port::PortId).
    pub ports: IndexMap<String, Port>,
    /// Routes beyond the ports' own links.
    pub routes: Vec<Route>,
    /// What all connections have in common.
    pub ike: IkeSettings,
    /// Inner addresses for peers, by name.
    pub pools: IndexMap<String, Pool>,
    /// Peers that IKEv2 keys, by name.
    pub connections: IndexMap<String, Connection>,
    /// Tunnels that are keyed by hand, by name.
    pub manual_sas: IndexMap<String, ManualSa>,
    /// Traffic that is not protected. What nothing matches is discarded.
    pub policies: Vec<ClearPolicy>,
}
