//! The outer process: makes namespaces, starts the demo inside of them, and waits for it or for Ctrl-C.
//!
//! All that the demo makes (processes, interfaces, files) lives in a PID, a network and a mount namespace, and the
//! kernel takes those away with the process that is their PID 1. So there is nothing to clean up that could be
//! forgotten, however the demo ends. The inner process ends when its standard input does, which is a pipe from
//! here: also when this process is killed without a chance to say anything.

use std::fs;
use std::io;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Child, Command, ExitStatus, Stdio};

use anyhow::{Context, Result, anyhow, bail};
use nix::errno::Errno;
use nix::sched::{CloneFlags, unshare};
use nix::unistd::{getegid, geteuid};
use signal_hook::consts::{SIGCHLD, SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

use super::{Options, forbidden};

/// How the demo ended.
pub(super) enum End {
    /// By itself, with this status.
    Status(ExitStatus),
    /// By a signal to us.
    Interrupted(i32),
}

/// Runs the demo in namespaces of its own until it ends or a signal comes.
///
/// # Errors
/// When the kernel does not let us have them.
pub(super) fn run(options: &Options) -> Result<End> {
    // Before the child is there, so that none of its signals is missed. No thread is started: a process with
    // threads may not make a user namespace, and one that has left its PID namespace may not start any.
    let mut signals = Signals::new([SIGCHLD, SIGINT, SIGTERM, SIGHUP]).context("cannot wait for signals")?;
    make_namespaces()?;
    let mut inside = start(options)?;
    for signal in signals.forever() {
        if signal != SIGCHLD {
            end(&mut inside)?;
            return Ok(End::Interrupted(signal));
        }
        if let Some(status) = inside.try_wait()? {
            return Ok(End::Status(status));
        }
    }
    bail!("signals end")
}

/// New namespaces: mount and network for us, PID for our children. Without the privilege for that (root may lack it
/// too, in a container), in a user namespace in which we have it.
fn make_namespaces() -> Result<()> {
    let wanted = CloneFlags::CLONE_NEWNS | CloneFlags::CLONE_NEWNET | CloneFlags::CLONE_NEWPID;
    let (user, group) = (geteuid(), getegid());
    match unshare(wanted) {
        Ok(()) => return Ok(()),
        Err(Errno::EPERM) => {}
        Err(errno) => bail!(forbidden::explain(errno)),
    }
    unshare(wanted | CloneFlags::CLONE_NEWUSER).map_err(|errno| anyhow!(forbidden::explain(errno)))?;
    // user_namespaces(7): without privilege outside, one may map oneself, after giving up setgroups.
    for (file, line) in [
        ("setgroups", "deny".to_owned()),
        ("uid_map", format!("0 {user} 1")),
        ("gid_map", format!("0 {group} 1")),
    ] {
        let path = format!("/proc/self/{file}");
        fs::write(&path, line).with_context(|| format!("cannot write {path} of the new user namespace"))?;
    }
    Ok(())
}

/// Starts the inner process, which is PID 1 of the new PID namespace.
fn start(options: &Options) -> Result<Child> {
    let mut command = Command::new("/proc/self/exe");
    command.arg0("spillway").args(["demo", "--inside", "--seconds", &options.seconds.to_string()]);
    if options.json {
        command.arg("--json");
    }
    command.stdin(Stdio::piped()).spawn().context("cannot start the demo in its namespaces")
}

/// Ends the inner process, and with it everything in its namespaces: when the kernel says that it is gone, they all
/// are.
fn end(inside: &mut Child) -> io::Result<()> {
    inside.kill()?;
    inside.wait()?;
    Ok(())
}

/// The exit code of a demo that ended by itself.
pub(super) fn exit_code(status: ExitStatus) -> Result<u8> {
    match (status.code(), status.signal()) {
        (Some(code), _) => Ok(u8::try_from(code).unwrap_or(1)),
        (None, Some(signal)) => bail!("the demo was ended by signal {signal}"),
        (None, None) => bail!("the demo ended with {status}"),
    }
}
