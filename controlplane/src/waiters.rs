//! Operators who wait for what they asked for.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crossbeam::channel::Sender;

use crate::ledger::Ledger;
use crate::update::Event;

/// How long an operator waits before he is told that it goes on without him.
const PATIENCE: Duration = Duration::from_secs(20);

/// What an operator wants done to a connection, or to one of its children.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Command {
    /// What.
    pub verb: Verb,
    /// Name of the connection.
    pub connection: Arc<str>,
    /// Name of the child; `None` for all of the connection.
    pub child: Option<Arc<str>>,
}

/// What can be done to a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verb {
    /// Set it up.
    Initiate,
    /// Take it down.
    Terminate,
    /// Replace its keys.
    Rekey,
}

/// What came of a command: done, or the reason why not.
pub type Answer = Result<String, String>;

/// Commands whose end is not known yet.
#[derive(Debug, Default)]
pub(crate) struct Waiters(Vec<Waiter>);

#[derive(Debug)]
struct Waiter {
    command: Command,
    until: Instant,
    reply: Sender<Answer>,
}

impl Waiters {
    pub fn add(&mut self, command: Command, now: Instant, reply: Sender<Answer>) {
        self.0.push(Waiter { command, until: now + PATIENCE, reply });
    }

    /// Tells those whose end this is.
    pub fn hear(&mut self, event: &Event, ledger: &Ledger) {
        self.0.retain(|waiter| match waiter.command.answer(event, ledger) {
            Some(answer) => {
                // The operator may have gone.
                let _ = waiter.reply.send(answer);
                false
            }
            None => true,
        });
    }

    /// Sends away those who have waited long enough.
    pub fn look(&mut self, now: Instant) {
        self.0.retain(|waiter| {
            let waits = now < waiter.until;
            if !waits {
                let started = "started; there is no result yet, see `show connections`";
                let _ = waiter.reply.send(Ok(started.into()));
            }
            waits
        });
    }

    /// When [`Waiters::look`] is to be called.
    pub fn deadline(&self) -> Option<Instant> {
        self.0.iter().map(|waiter| waiter.until).min()
    }
}

impl Command {
    /// What the event means for it, if anything.
    fn answer(&self, event: &Event, ledger: &Ledger) -> Option<Answer> {
        let about = |connection: &Arc<str>| *connection == self.connection;
        let about_child = |connection: &Arc<str>, child: &Arc<str>| {
            about(connection) && self.child.as_ref().is_none_or(|one| one == child)
        };
        match (self.verb, event) {
            (Verb::Initiate, Event::ChildUp { connection, .. }) if about(connection) => {
                ledger.is_up(&self.connection, self.child.as_deref()).then(|| Ok("up".into()))
            }
            (Verb::Initiate, Event::IkeDown { connection: Some(connection), reason, .. })
                if about(connection) =>
            {
                Some(Err(reason.to_string()))
            }
            (Verb::Initiate | Verb::Rekey, Event::ChildFailed { connection, child, reason })
                if about_child(connection, child) =>
            {
                Some(Err(format!("{child}: {reason}")))
            }
            (Verb::Terminate, Event::IkeDown { connection: Some(connection), .. }) if about(connection) => {
                Some(Ok("down".into()))
            }
            (Verb::Terminate, Event::ChildDown { connection, child, .. })
                if self.child.is_some() && about_child(connection, child) =>
            {
                Some(Ok("down".into()))
            }
            (Verb::Rekey, Event::IkeRekeyed { connection, .. })
                if self.child.is_none() && about(connection) =>
            {
                Some(Ok("rekeyed".into()))
            }
            (Verb::Rekey, Event::ChildRekeyed { connection, child, .. })
                if self.child.is_some() && about_child(connection, child) =>
            {
                Some(Ok("rekeyed".into()))
            }
            (Verb::Rekey, Event::IkeDown { connection: Some(connection), reason, .. })
                if about(connection) =>
            {
                Some(Err(reason.to_string()))
            }
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use crossbeam::channel::{Receiver, TryRecvError, bounded};
    use dataplane::sa::TunnelId;

    use super::*;
    use crate::sim;
    use crate::update::DownReason;

    struct Room {
        ledger: Ledger,
        waiters: Waiters,
        now: Instant,
    }

    impl Room {
        fn new() -> Self {
            let [config, _] = sim::configs(|_, _| {});
            Self { ledger: Ledger::new(&config), waiters: Waiters::default(), now: Instant::now() }
        }

        fn ask(&mut self, verb: Verb, child: Option<&str>) -> Receiver<Answer> {
            let (reply, answer) = bounded(1);
            let command = Command { verb, connection: "net".into(), child: child.map(Into::into) };
            self.waiters.add(command, self.now, reply);
            answer
        }

        fn tell(&mut self, event: &Event) {
            self.ledger.enter(event, self.now, SystemTime::UNIX_EPOCH);
            self.waiters.hear(event, &self.ledger);
        }
    }

    fn child_up() -> Event {
        Event::ChildUp { connection: "net".into(), child: "lan".into(), tunnel: TunnelId(0) }
    }

    fn down(connection: &str, reason: DownReason) -> Event {
        Event::IkeDown { connection: Some(connection.into()), ike: 1, reason }
    }

    #[test]
    fn each_command_ends_with_its_own_event() {
        let mut room = Room::new();
        let [up, rekey, ike, off] = [
            room.ask(Verb::Initiate, None),
            room.ask(Verb::Rekey, Some("lan")),
            room.ask(Verb::Rekey, None),
            room.ask(Verb::Terminate, None),
        ];
        room.tell(&down("other", DownReason::Terminated));
        room.tell(&child_up());
        assert_eq!(up.try_recv(), Ok(Ok("up".into())));
        assert_eq!([&rekey, &ike, &off].map(|one| one.try_recv()), [const { Err(TryRecvError::Empty) }; 3]);
        let (connection, child): (Arc<str>, Arc<str>) = ("net".into(), "lan".into());
        room.tell(&Event::ChildRekeyed { connection, child, tunnel: TunnelId(0), spi: 7 });
        assert_eq!(rekey.try_recv(), Ok(Ok("rekeyed".into())));
        room.tell(&Event::IkeRekeyed { connection: "net".into(), old: 1, new: 2 });
        assert_eq!(ike.try_recv(), Ok(Ok("rekeyed".into())));
        room.tell(&down("net", DownReason::Terminated));
        assert_eq!(off.try_recv(), Ok(Ok("down".into())));
        assert!(room.waiters.deadline().is_none());
    }

    #[test]
    fn a_failure_says_why_and_patience_ends() {
        let mut room = Room::new();
        let (up, rekey) = (room.ask(Verb::Initiate, Some("lan")), room.ask(Verb::Rekey, Some("lan")));
        let reason = DownReason::Unreachable(String::new());
        room.tell(&down("net", reason.clone()));
        assert_eq!(up.try_recv(), Ok(Err("peer does not answer".into())));
        assert_eq!(rekey.try_recv(), Ok(Err("peer does not answer".into())));
        let late = room.ask(Verb::Initiate, None);
        room.waiters.look(room.now);
        assert_eq!(late.try_recv(), Err(TryRecvError::Empty));
        room.waiters.look(room.now + PATIENCE);
        assert!(late.try_recv().unwrap().unwrap().starts_with("started"));
    }
}
