//! The program under a name of its own, so that its processes can be told from all others.

use std::ffi::OsStr;
use std::fs;
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use nix::unistd::geteuid;

/// One demo at a time: each keeps two cores busy.
static STAGE: Mutex<()> = Mutex::new(());

/// A copy of the program that every user may run.
pub struct Program {
    directory: tempfile::TempDir,
    mounts: String,
    _alone: MutexGuard<'static, ()>,
}

impl Program {
    /// `None`, said as `SKIPPED`, where this user may not make namespaces; that fails the test when CI=true.
    pub fn new(test: &str) -> Option<Self> {
        let alone = STAGE.lock().unwrap_or_else(PoisonError::into_inner);
        let mut probe = Command::new("unshare");
        probe.args(if geteuid().is_root() { ["-n", "-m"] } else { ["-U", "-rn"] }).arg("true");
        let allowed = probe.stderr(Stdio::null()).status().is_ok_and(|status| status.success());
        if !allowed {
            skip(test, "this user may not make namespaces");
            return None;
        }
        let directory = tempfile::tempdir().unwrap();
        fs::set_permissions(directory.path(), fs::Permissions::from_mode(0o755)).unwrap();
        let program = Self { directory, mounts: mounts(), _alone: alone };
        fs::copy(env!("CARGO_BIN_EXE_spillway"), program.path()).unwrap();
        Some(program)
    }

    pub fn path(&self) -> PathBuf {
        self.directory.path().join("spillway")
    }

    /// The demo with these arguments.
    pub fn demo<S: AsRef<OsStr>>(&self, arguments: &[S]) -> Command {
        let mut command = Command::new(self.path());
        command.current_dir("/").arg("demo").args(arguments).stdin(Stdio::null());
        command
    }

    /// The program's processes.
    pub fn processes(&self) -> Vec<PathBuf> {
        let all = fs::read_dir("/proc").unwrap().filter_map(|entry| Some(entry.ok()?.path()));
        all.filter(|path| fs::read_link(path.join("exe")).is_ok_and(|exe| exe == self.path())).collect()
    }

    /// Fails unless all processes are gone, or go in time, and nothing was mounted.
    pub fn left_nothing(&self, patience: Duration) {
        let end = Instant::now() + patience;
        while !self.processes().is_empty() && Instant::now() < end {
            std::thread::sleep(Duration::from_millis(10));
        }
        assert_eq!(self.processes(), Vec::<PathBuf>::new(), "processes are left");
        assert_eq!(mounts(), self.mounts, "something is mounted");
        let files: Vec<_> = fs::read_dir(self.directory.path()).unwrap().map(|f| f.unwrap().path()).collect();
        assert_eq!(files, [self.path()]);
    }
}

/// Says that a test was skipped, past the test harness, which hides what a passing test prints.
pub fn skip(test: &str, why: &str) {
    let _unread = writeln!(std::io::stderr(), "SKIPPED {test}: {why}");
    assert!(std::env::var("CI").as_deref() != Ok("true"), "SKIPPED {test}: {why}");
}

fn mounts() -> String {
    fs::read_to_string(Path::new("/proc/self/mounts")).unwrap()
}
