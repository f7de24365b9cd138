//! The client's side of the control socket.

use std::io::{self, BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use super::protocol::{Answer, Request, What};

/// How long the gateway may take to answer.
const PATIENCE: Duration = Duration::from_secs(30);

/// Why a question was not answered.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// The socket cannot be connected to.
    #[error("no gateway answers on {path} (is `spillway run` running?)")]
    Connect {
        /// The socket.
        path: String,
        /// Why.
        source: io::Error,
    },
    /// The connection broke.
    #[error("the gateway went away")]
    Broken(#[from] io::Error),
    /// Something else than a gateway answers there.
    #[error("the answer is not a gateway's")]
    Garbled(#[from] serde_json::Error),
    /// The gateway refused.
    #[error("the gateway refused: {0}")]
    Refused(String),
}

/// A connection to the gateway.
pub struct Client {
    stream: BufReader<UnixStream>,
}

impl Client {
    /// Connects.
    ///
    /// # Errors
    /// [`ClientError::Connect`].
    pub fn connect(path: &Path) -> Result<Self, ClientError> {
        let connect = || {
            let stream = UnixStream::connect(path)?;
            stream.set_read_timeout(Some(PATIENCE))?;
            stream.set_write_timeout(Some(PATIENCE))?;
            Ok(stream)
        };
        let stream =
            connect().map_err(|source| ClientError::Connect { path: path.display().to_string(), source })?;
        Ok(Self { stream: BufReader::new(stream) })
    }

    /// Asks for rows.
    ///
    /// # Errors
    /// [`ClientError`].
    pub fn show(&mut self, what: What) -> Result<serde_json::Value, ClientError> {
        self.ask(&Request::Show { what })
    }

    /// Asks for anything.
    ///
    /// # Errors
    /// [`ClientError`].
    pub fn ask(&mut self, request: &Request) -> Result<serde_json::Value, ClientError> {
        let mut request = serde_json::to_vec(request)?;
        request.push(b'\n');
        self.stream.get_mut().write_all(&request)?;
        let mut line = String::new();
        if self.stream.read_line(&mut line)? == 0 {
            return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into());
        }
        match serde_json::from_str(&line)? {
            Answer::Result(result) => Ok(result),
            Answer::Error(error) => Err(ClientError::Refused(error)),
        }
    }
}
