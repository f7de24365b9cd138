//! The sections `gateway`, `log` and `workers`.

use std::borrow::Cow;
use std::net::SocketAddr;
use std::path::PathBuf;

use dataplane::crypto::EngineChoice;

use super::node::{FromNode, Keyword, Node};

/// The control socket when the configuration names none.
pub const CONTROL_SOCKET: &str = "/run/spillway/control.sock";

/// Where state is kept when the configuration names no directory.
pub const STATE: &str = "/var/lib/spillway";

/// The section `gateway`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Gateway {
    /// Name of this gateway in answers and metrics.
    pub name: String,
    /// Unix socket that `spillway show` talks to.
    pub control_socket: PathBuf,
    /// Where Prometheus fetches metrics over HTTP; nowhere when `None`.
    pub metrics: Option<SocketAddr>,
    /// Directory of what must survive a restart: sequence numbers of manual SAs. `None` when it is turned off.
    pub state: Option<PathBuf>,
}

impl Default for Gateway {
    fn default() -> Self {
        Self {
            name: "spillway".to_owned(),
            control_socket: CONTROL_SOCKET.into(),
            metrics: None,
            state: Some(STATE.into()),
        }
    }
}

/// The longest path that fits `struct sockaddr_un` with its terminating zero.
const SOCKET_PATH_MAX: usize = 107;

impl FromNode for Gateway {
    fn expected() -> Cow<'static, str> {
        "a mapping".into()
    }

    fn from_node(node: Node<'_>) -> Option<Self> {
        let default = Self::default();
        let mut fields = node.fields()?;
        let name = fields.optional("name").unwrap_or(default.name);
        let control_socket = fields
            .read("control_socket", |node| {
                let path = node.resolve(&PathBuf::from_node(node)?);
                if path.as_os_str().len() > SOCKET_PATH_MAX {
                    return node.error(format!(
                        "{} is longer than the {SOCKET_PATH_MAX} bytes that a socket's path can have",
                        path.display()
                    ));
                }
                Some(path)
            })
            .flatten()
            .unwrap_or(default.control_socket);
        let metrics = fields.optional::<SocketAddr>("metrics");
        if metrics.is_some_and(|address| !address.ip().is_loopback()) {
            fields.warning("metrics", "is open to the network, without authentication; 127.0.0.1 is not");
        }
        let state = fields
            .read("state", |node| match node.value.as_str() {
                Some("off") => Some(None),
                _ => PathBuf::from_node(node).map(|path| Some(node.resolve(&path))),
            })
            .flatten()
            .unwrap_or(default.state);
        fields.finish();
        Some(Self { name, control_socket, metrics, state })
    }
}

/// The section `log`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Log {
    /// What is logged.
    pub level: LogLevel,
    /// How.
    pub format: LogFormat,
    /// Where the keys of IKE and Child SAs are written, for Wireshark; nowhere when `None`.
    pub key_log: Option<PathBuf>,
}

impl FromNode for Log {
    fn expected() -> Cow<'static, str> {
        "a mapping".into()
    }

    fn from_node(node: Node<'_>) -> Option<Self> {
        let mut fields = node.fields()?;
        let level = fields.optional("level").unwrap_or_default();
        let format = fields.optional("format").unwrap_or_default();
        let read = |node: Node<'_>| PathBuf::from_node(node).map(|path| node.resolve(&path));
        let key_log = fields.read("key_log", read).flatten();
        if key_log.is_some() {
            fields.warning("key_log", "all keys are written down: whoever gets this file reads all traffic");
        }
        fields.finish();
        Some(Self { level, format, key_log })
    }
}

/// The least severe messages that are logged.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[expect(missing_docs, reason = "the names say it")]
pub enum LogLevel {
    Error,
    Warn,
    #[default]
    Info,
    Debug,
    Trace,
}

impl Keyword for LogLevel {
    const KEYWORDS: &'static [(&'static str, Self)] = &[
        ("error", Self::Error),
        ("warn", Self::Warn),
        ("info", Self::Info),
        ("debug", Self::Debug),
        ("trace", Self::Trace),
    ];
}

/// How messages are written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LogFormat {
    /// For people.
    #[default]
    Text,
    /// One JSON object a line.
    Json,
}

impl Keyword for LogFormat {
    const KEYWORDS: &'static [(&'static str, Self)] = &[("text", Self::Text), ("json", Self::Json)];
}

/// The section `workers`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Workers {
    /// One worker runs on each of these cores.
    pub cores: Vec<usize>,
    /// Everything else runs on this one.
    pub control_core: usize,
    /// What a worker does when there are no packets.
    pub idle: Idle,
    /// Which engine encrypts.
    pub crypto: EngineChoice,
}

impl Default for Workers {
    fn default() -> Self {
        Self { cores: vec![1], control_core: 0, idle: Idle::default(), crypto: EngineChoice::default() }
    }
}

/// The highest core number that Linux supports is below this (CONFIG_NR_CPUS at most 8192).
const CORE_MAX: u64 = 8191;

impl FromNode for Workers {
    fn expected() -> Cow<'static, str> {
        "a mapping".into()
    }

    fn from_node(node: Node<'_>) -> Option<Self> {
        let default = Self::default();
        let mut fields = node.fields()?;
        let cores = match fields.optional::<Vec<Core>>("cores") {
            Some(cores) if cores.is_empty() => fields.error("cores", "found an empty list, expected a core"),
            Some(cores) => Some(cores.into_iter().map(|Core(core)| core).collect()),
            None => None,
        };
        let control_core = fields.optional("control_core").map(|Core(core)| core);
        let idle = fields.optional("idle").unwrap_or_default();
        let crypto = fields.optional("crypto").unwrap_or_default();
        fields.finish();
        Some(Self {
            cores: cores.unwrap_or(default.cores),
            control_core: control_core.unwrap_or(default.control_core),
            idle,
            crypto,
        })
    }
}

/// The number of a core.
struct Core(usize);

impl FromNode for Core {
    fn expected() -> Cow<'static, str> {
        "the number of a core".into()
    }

    fn from_node(node: Node<'_>) -> Option<Self> {
        node.number(0..=CORE_MAX, "the number of a core").map(Self)
    }
}

/// What a worker does when there are no packets.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Idle {
    /// Polls on: the lowest latency, and a core at full load.
    Spin,
    /// Polls for a while, then sleeps until packets come, where the drivers allow it.
    #[default]
    Adaptive,
}

impl Keyword for Idle {
    const KEYWORDS: &'static [(&'static str, Self)] = &[("spin", Self::Spin), ("adaptive", Self::Adaptive)];
}

impl Keyword for EngineChoice {
    const KEYWORDS: &'static [(&'static str, Self)] = &Self::KEYWORDS;
}
