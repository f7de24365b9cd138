//! A listener whose connections are served each on a thread of its own, up to a limit.
//!
//! Control socket and metrics have few clients and answer at once; what they must not do is let one client
//! that hangs hold up the others, or a flood of them use up threads.

use std::io;
use std::net::{TcpListener, TcpStream};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

/// A listener, whatever the sort of its connections.
pub trait Listener: AsFd + Send + 'static {
    /// A connection.
    type Stream: Send + 'static;

    /// Takes a connection; `WouldBlock` when there is none.
    ///
    /// # Errors
    /// That of `accept`.
    fn accept(&self) -> io::Result<Self::Stream>;

    /// Makes `accept` return at once.
    ///
    /// # Errors
    /// That of `fcntl`.
    fn set_nonblocking(&self) -> io::Result<()>;
}

impl Listener for UnixListener {
    type Stream = UnixStream;

    fn accept(&self) -> io::Result<UnixStream> {
        Self::accept(self).map(|(stream, _)| stream)
    }

    fn set_nonblocking(&self) -> io::Result<()> {
        Self::set_nonblocking(self, true)
    }
}

impl Listener for TcpListener {
    type Stream = TcpStream;

    fn accept(&self) -> io::Result<TcpStream> {
        Self::accept(self).map(|(stream, _)| stream)
    }

    fn set_nonblocking(&self) -> io::Result<()> {
        Self::set_nonblocking(self, true)
    }
}

/// A listener at work. Dropping it stops it; connections that are being served come to their own end.
pub struct Service {
    /// Its other end becomes readable when this one is closed.
    stop: Option<UnixStream>,
    thread: Option<JoinHandle<()>>,
}

impl Service {
    /// Starts to serve. More than `limit` connections at a time are closed at once. `serve` sets its own time
    /// limits for reading and writing.
    ///
    /// # Errors
    /// When the system has no thread or descriptor to give.
    pub fn start<L: Listener>(
        name: &'static str,
        listener: L,
        limit: usize,
        serve: impl Fn(L::Stream) + Send + Sync + 'static,
    ) -> io::Result<Self> {
        listener.set_nonblocking()?;
        let (stop, stopped) = UnixStream::pair()?;
        let serve = Arc::new(serve);
        let thread = thread::Builder::new()
            .name(name.to_owned())
            .spawn(move || accept_until(&stopped, name, &listener, limit, &serve))?;
        Ok(Self { stop: Some(stop), thread: Some(thread) })
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        self.stop.take();
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("a service's thread panicked");
        }
    }
}

/// How long to wait when the system refuses a connection, for lack of descriptors or threads.
const PAUSE: Duration = Duration::from_millis(100);

fn accept_until<L: Listener>(
    stopped: &UnixStream,
    name: &'static str,
    listener: &L,
    limit: usize,
    serve: &Arc<impl Fn(L::Stream) + Send + Sync + 'static>,
) {
    let active = Arc::new(AtomicUsize::new(0));
    while wait(stopped.as_fd(), listener.as_fd()) {
        let stream = match listener.accept() {
            Ok(stream) => stream,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => continue,
            Err(error) => {
                tracing::warn!(service = name, %error, "no connection taken");
                thread::sleep(PAUSE);
                continue;
            }
        };
        let Some(place) = Place::take(&active, limit) else {
            tracing::warn!(service = name, limit, "too many connections; one was closed");
            continue;
        };
        let serve = Arc::clone(serve);
        let client = thread::Builder::new().name(name.to_owned()).spawn(move || {
            serve(stream);
            drop(place);
        });
        if let Err(error) = client {
            tracing::warn!(service = name, %error, "no thread for a connection");
            thread::sleep(PAUSE);
        }
    }
}

/// Waits for a connection. `false` when the service was stopped.
fn wait(stopped: BorrowedFd<'_>, listener: BorrowedFd<'_>) -> bool {
    let mut fds = [PollFd::new(stopped, PollFlags::POLLIN), PollFd::new(listener, PollFlags::POLLIN)];
    if poll(&mut fds, PollTimeout::NONE).is_err() {
        // EINTR: look again.
        return true;
    }
    fds.first().and_then(PollFd::any) == Some(false)
}

/// One of a limited number of connections; given back when dropped, also by a panic.
struct Place(Arc<AtomicUsize>);

impl Place {
    fn take(active: &Arc<AtomicUsize>, limit: usize) -> Option<Self> {
        // Only the accepting thread adds, so it cannot pass the limit between the two calls.
        if active.load(Ordering::Acquire) >= limit {
            return None;
        }
        active.fetch_add(1, Ordering::AcqRel);
        Some(Self(Arc::clone(active)))
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::AcqRel);
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::sync::mpsc;

    use super::*;

    #[test]
    fn connections_beyond_the_limit_are_closed_and_the_others_served() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let (started, starts) = mpsc::channel();
        let service = Service::start("test", listener, 1, move |mut stream: TcpStream| {
            started.send(()).unwrap();
            let mut byte = [0];
            stream.read_exact(&mut byte).unwrap();
            stream.write_all(&byte).unwrap();
        })
        .unwrap();
        let mut first = TcpStream::connect(address).unwrap();
        starts.recv().unwrap();
        let mut second = TcpStream::connect(address).unwrap();
        assert_eq!(second.read(&mut [0]).unwrap(), 0, "closed at once");
        first.write_all(b"x").unwrap();
        let mut answer = Vec::new();
        first.read_to_end(&mut answer).unwrap();
        assert_eq!(answer, b"x");
        drop(service);
        assert!(TcpStream::connect(address).is_err(), "stopped");
    }

    #[test]
    fn a_panic_while_serving_gives_its_place_back() {
        let active = Arc::new(AtomicUsize::new(0));
        let place = Place::take(&active, 1).unwrap();
        assert!(Place::take(&active, 1).is_none());
        thread::spawn(move || {
            let _place = place;
            panic!("while serving");
        })
        .join()
        .unwrap_err();
        assert!(Place::take(&active, 1).is_some());
    }
}
