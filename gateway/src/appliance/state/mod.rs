//! Sequence numbers of manual SAs survive the process.
//!
//! A key that is set by hand outlives the gateway that uses it, so the counters of its SA must too, a crash included
//! (RFC 4303 s5): a sender that began again at 1 would repeat AEAD nonces (RFC 4106 s2), and a receiver that forgot
//! its window would take replays (RFC 4303 s3.4.3).
//!
//! **Outbound** nobody guesses how far a sender may have come since the last write. Each SA has a ceiling
//! ([`Sequence::set_ceiling`]) which rises only once a higher one is on the disk; when half of what it allows is
//! used up, the next one is written. After a crash the SA goes on behind the ceiling that was written, after a
//! clean stop behind the last number that was sent. A disk that is too slow, or full, costs packets
//! (`sequence_unsaved`), never a nonce.
//!
//! How far the ceiling is above the next number is what a crash costs ([`Reach`]): four seconds at the pace of the
//! last second, within bounds. With ESN the peer works out the upper 32 bits from its own window, so it follows a
//! leap of less than 2^32 numbers at most (RFC 4303 appendix A2.2): 2^24 at rest, so that 255 crashes in a row with no
//! packet arriving between them do no harm, and 2^28 at most, two seconds of 100 Gbit/s in the smallest packets.
//! Without ESN a leap of any length is fine, but comes out of the 2^32 numbers that there are: 2^20 at rest, 2^24 at most.
//!
//! **Inbound** the highest number is written every second while it changes. After a clean stop no packet is
//! accepted twice. After a crash those of the last second or so could be, once; to start beyond them instead would
//! lose the packets of a peer that sends slowly for days.
//!
//! [`Sequence::set_ceiling`]: dataplane::sa::sequence::Sequence::set_ceiling

mod file;
mod keeper;

use anyhow::{Result, bail};
use dataplane::message::Direction;
use dataplane::sa::Start;

use crate::config::{Config, ManualSa, SaKey};
use file::{Fingerprint, StateFile};
pub(super) use keeper::{Keeper, Kept};

/// The sequence numbers of earlier runs.
pub(super) struct State(StateFile);

impl State {
    /// Reads what earlier runs left behind; `None` when the configuration turns it off, or has no use for it.
    ///
    /// # Errors
    /// A directory that cannot be used, a file that is damaged: the message says what to do.
    pub(super) fn open(config: &Config) -> Result<Option<Self>> {
        match &config.gateway.state {
            Some(directory) if !config.manual_sas.is_empty() => Ok(Some(Self(StateFile::open(directory)?))),
            _ => Ok(None),
        }
    }

    /// Where an SA's outbound and inbound numbers go on.
    ///
    /// # Errors
    /// A key that was used in the other direction: which numbers its other owner sent, nobody here knows.
    pub(super) fn starts(&self, sa: &ManualSa, now: u64) -> Result<(Start, Start)> {
        let used = |key: &SaKey, direction: Direction| match self.0.get(&Fingerprint::of(&key.key)) {
            Some(entry) if entry.direction != direction => bail!(
                "its {} key was the {} key of {} before: which nonces it was used with is not known; give both \
                 directions new keys on both sides",
                name(direction),
                name(entry.direction),
                entry.sa
            ),
            Some(entry) => {
                if !sa.esn && entry.used >= u64::from(u32::MAX) {
                    tracing::error!(
                        sa = entry.sa,
                        direction = name(direction),
                        "the 32-bit sequence numbers of the key are used up, so it carries nothing; both sides need a new one"
                    );
                }
                Ok(entry.used)
            }
            None => Ok(0),
        };
        let outbound = Start { now, used: used(&sa.outbound, Direction::Outbound)? };
        let inbound = Start { now, used: used(&sa.inbound, Direction::Inbound)? };
        Ok((outbound, inbound))
    }

    /// Sets the first ceilings, and keeps the numbers from now on. To be called before the SAs are installed.
    ///
    /// # Errors
    /// When the file cannot be written, or the system has no thread to give.
    pub(super) fn keep(self, sas: Vec<Kept>) -> Result<Keeper> {
        Keeper::start(self.0, sas)
    }
}

fn name(direction: Direction) -> &'static str {
    match direction {
        Direction::Inbound => "inbound",
        Direction::Outbound => "outbound",
    }
}
