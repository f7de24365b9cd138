//! The socket's place in the file system.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{DirBuilderExt, FileTypeExt, OpenOptionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};
use nix::sys::socket::{AddressFamily, Backlog, SockFlag, SockType, UnixAddr, bind, listen, socket};
use nix::sys::stat::{Mode, fchmod};

/// A bound control socket. Dropping it removes it from the file system.
pub struct ControlSocket {
    listener: UnixListener,
    place: Place,
}

/// Where a socket is bound, and the lock that makes it ours.
pub struct Place {
    path: PathBuf,
    /// Held for as long as the gateway runs: two gateways that start at once cannot both find the socket stale.
    _lock: Flock<File>,
}

impl ControlSocket {
    /// Binds a socket with mode 0600 at `path`, and makes its directory when it is missing. A socket that nobody
    /// listens on, left by a gateway that died, is replaced.
    ///
    /// # Errors
    /// `AddrInUse` when a gateway listens there, `AlreadyExists` when something else than a socket is there, or
    /// the error of the system.
    pub fn bind(path: &Path) -> io::Result<Self> {
        if let Some(directory) = path.parent().filter(|directory| !directory.as_os_str().is_empty()) {
            DirBuilder::new().recursive(true).mode(0o755).create(directory)?;
        }
        let lock = lock(path)?;
        remove_stale(path)?;
        let fd = socket(AddressFamily::Unix, SockType::Stream, SockFlag::SOCK_CLOEXEC, None)?;
        // Before it is bound: the entry in the file system takes its mode from the descriptor (unix(7) leaves
        // it to the umask otherwise), so there is no moment at which others could connect.
        fchmod(&fd, Mode::S_IRUSR | Mode::S_IWUSR)?;
        bind(fd.as_raw_fd(), &UnixAddr::new(path)?)?;
        listen(&fd, Backlog::new(16)?)?;
        let place = Place { path: path.to_owned(), _lock: lock };
        Ok(Self { listener: UnixListener::from(fd), place })
    }

    /// The listener, and its place, to be kept for as long as it listens.
    pub fn into_parts(self) -> (UnixListener, Place) {
        (self.listener, self.place)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_file(&self.path) {
            tracing::warn!(path = %self.path.display(), %error, "the control socket was not removed");
        }
    }
}

fn lock(path: &Path) -> io::Result<Flock<File>> {
    let mut name = path.as_os_str().to_owned();
    name.push(".lock");
    let file = OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(name)?;
    Flock::lock(file, FlockArg::LockExclusiveNonblock).map_err(|(_, errno)| match errno {
        Errno::EWOULDBLOCK => in_use(path),
        other => other.into(),
    })
}

fn remove_stale(path: &Path) -> io::Result<()> {
    let metadata = match fs::symlink_metadata(path) {
        Ok(metadata) => metadata,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error),
    };
    if !metadata.file_type().is_socket() {
        let message = format!("{} is there and is not a socket", path.display());
        return Err(io::Error::new(io::ErrorKind::AlreadyExists, message));
    }
    match UnixStream::connect(path) {
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => fs::remove_file(path),
        Ok(_) => Err(in_use(path)),
        Err(error) => Err(error),
    }
}

fn in_use(path: &Path) -> io::Error {
    let message = format!("a gateway listens on {} already", path.display());
    io::Error::new(io::ErrorKind::AddrInUse, message)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn the_directory_is_made_and_only_the_owner_can_connect() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("run/spillway/control.sock");
        let socket = ControlSocket::bind(&path).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        drop(socket);
        assert!(!path.exists(), "removed when it is dropped");
    }

    #[test]
    fn a_stale_socket_is_replaced_and_a_live_one_is_not() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("control.sock");
        // A listener that goes without unlinking its path, as one that was killed does.
        drop(UnixListener::bind(&path).unwrap());
        let socket = ControlSocket::bind(&path).unwrap();
        let error = ControlSocket::bind(&path).err().unwrap();
        assert_eq!(error.kind(), io::ErrorKind::AddrInUse);
        assert!(UnixStream::connect(&path).is_ok(), "the first goes on");
        drop(socket);

        // Someone else's listener, without our lock.
        let _foreign = UnixListener::bind(&path).unwrap();
        assert_eq!(ControlSocket::bind(&path).err().unwrap().kind(), io::ErrorKind::AddrInUse);
    }

    #[test]
    fn a_file_in_its_place_is_left_alone() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("control.sock");
        fs::write(&path, "precious").unwrap();
        assert_eq!(ControlSocket::bind(&path).err().unwrap().kind(), io::ErrorKind::AlreadyExists);
        assert_eq!(fs::read_to_string(&path).unwrap(), "precious");
    }
}
