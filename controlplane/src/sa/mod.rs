//! The state machine of an IKE SA: typed states, one file an exchange.
//!
//! | state | waits for | file |
//! |---|---|---|
//! | [`State::InitSent`] | the response to our IKE_SA_INIT | `init/` |
//! | [`State::Solving`] | our solution of a puzzle | `init/` |
//! | [`State::Answered`] | the peer's IKE_AUTH | `auth/` |
//! | [`State::IntermediateSent`] | the response to our IKE_INTERMEDIATE | `intermediate.rs` |
//! | [`State::AuthSent`] | the response to our IKE_AUTH | `auth/` |
//! | [`State::EapSent`] | the response to our IKE_AUTH, while we authenticate by EAP | `auth/eap/` |
//! | [`State::EapServing`] | the peer's next IKE_AUTH, while it authenticates by EAP | `auth/eap/` |
//! | [`State::Established`] | anything | `established.rs`, `child/`, `rekey.rs`, `followup.rs`, `informational.rs` |
//! | [`State::Closed`] | repetitions of the last request, which get the last response again | here |

mod auth;
mod child;
mod configuration;
mod core;
mod established;
mod followup;
mod fragment;
mod informational;
mod init;
mod intermediate;
mod mobike;
mod ppk;
mod puzzle;
mod reauth;
mod rekey;
mod retry;
mod window;

use std::collections::VecDeque;
use std::mem;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use dataplane::message::Datagram;
use dataplane::sa::Endpoints;
use tracing::debug;

use self::core::{Opened, Opening};
use crate::auth::x509::UnixTime;
use crate::config::{Config, Connection};
use crate::crypto::Random;
use crate::keylog::IkeKeyLog;
use crate::lease::Pools;
use crate::peer::Directory;
use crate::per_second::PerSecond;
use crate::pool::{SpiPool, TunnelPool};
use crate::rejection::{Counters, Rejection};
use crate::update::{ChildUpdate, DownReason, Event};
use crate::wire::{ExchangeType, Header};

pub(crate) use self::child::{Traffic, Wanted};
pub(crate) use self::core::{Core, NAT_PORT, Path};
pub(crate) use self::established::{Established, Estate, Phase, Task};
pub(crate) use self::init::{Answered, Refusal, Sent, Solving, find_notify};
pub(crate) use self::mobike::usable;
pub(crate) use self::puzzle::Puzzle;

/// What a step of a state machine may use and where it puts its results.
pub(crate) struct Context<'a> {
    pub now: Instant,
    pub rng: &'a mut dyn Random,
    pub config: &'a Config,
    pub directory: &'a Directory,
    pub out: &'a mut Output,
    pub spis: &'a mut SpiPool,
    pub tunnels: &'a mut TunnelPool,
    pub pools: &'a mut Pools,
    /// No other IKE SA of the connection is established.
    pub first_contact: bool,
    /// The IKE SA that is being served, by our SPI.
    pub ike: u64,
    /// The addresses that this gateway has; `None` when nobody said.
    pub addresses: Option<&'a [std::net::IpAddr]>,
    /// As many EAP exchanges are under way as may be.
    pub eap_full: bool,
    /// The wall clock.
    pub unix: UnixTime,
}

impl Context<'_> {
    pub fn random<const N: usize>(&mut self) -> [u8; N] {
        let mut bytes = [0; N];
        self.rng.fill(&mut bytes);
        bytes
    }

    /// A new IKE SPI: never 0 (RFC 7296 s3.1).
    pub fn ike_spi(&mut self) -> u64 {
        loop {
            let spi = u64::from_be_bytes(self.random());
            if spi != 0 {
                return spi;
            }
        }
    }

    /// Uniform in `0..limit`.
    pub fn jitter(&mut self, limit: Duration) -> Duration {
        limit.mul_f64(f64::from(u32::from_be_bytes(self.random())) / f64::from(u32::MAX))
    }

    pub fn reject(&mut self, rejection: Rejection) {
        self.out.counters.count(rejection);
    }

    /// The log may get one more line about a peer that has not proved itself.
    pub fn may_log(&mut self) -> bool {
        let allowed = self.out.log_limit.allows(self.now);
        if !allowed {
            self.reject(Rejection::LogLimit);
        }
        allowed
    }
}

/// Results of steps, which the endpoint hands on.
#[derive(Default)]
pub(crate) struct Output {
    pub transmit: VecDeque<Datagram>,
    pub updates: VecDeque<ChildUpdate>,
    pub events: VecDeque<Event>,
    /// Keys for the key log, when there is one.
    pub keys: VecDeque<IkeKeyLog>,
    pub counters: Counters,
    /// On what the log gets of strangers.
    pub log_limit: PerSecond,
    /// Keys that may still be tried on puzzles now.
    pub tries: u32,
    /// What concerns more than one IKE SA.
    pub commands: Vec<Command>,
    /// Inbound SAs that are removed later, when packets under way have arrived.
    pub retire: Vec<Retire>,
    /// The path of the IKE SA that was just served changed.
    pub moved: bool,
    /// Makes a peer that does not keep to the rules, for tests: it changes payloads before they are sealed.
    #[cfg(test)]
    pub bend: Option<Bend>,
}

/// Changes the payloads of a request or response (`true`): of all that is encrypted, and of the response in IKE_SA_INIT.
#[cfg(test)]
pub(crate) type Bend = Box<dyn FnMut(ExchangeType, bool, &mut Vec<crate::wire::Payload<'_>>)>;

/// An old inbound SA and the time of its removal.
pub(crate) struct Retire {
    pub at: Instant,
    pub tunnel: dataplane::sa::TunnelId,
    pub spi: u32,
}

/// What the endpoint has to do with its table of IKE SAs.
pub(crate) enum Command {
    /// A rekey made a new IKE SA.
    Adopt(Box<IkeSa>),
    /// The children and tasks of one IKE SA went over to another.
    Succeeded { from: u64, to: u64 },
    /// The children and tasks of one IKE SA go over to another.
    Handover { from: u64, to: u64, estate: Box<Estate> },
    /// The peer made this IKE SA in a rekey that crossed ours and lost: the peer deletes it.
    Redundant(u64),
    /// INITIAL_CONTACT: other IKE SAs with this peer are stale. One that came up after the peer had begun this
    /// one is not: both ends initiated at the same time.
    Replace { connection: Arc<Connection>, peer: crate::auth::Identity, except: u64, before: Instant },
    /// The peer of a half-open IKE SA has proved itself.
    NoLongerHalfOpen,
    /// The tunnel goes over to this IKE SA, whose Child SA for it waits.
    TakeTunnel { ike: u64, tunnel: dataplane::sa::TunnelId },
    /// Authenticate anew: another IKE SA with these children is to take the place of this one.
    Renew(Box<Renewal>),
    /// The new IKE SA has all children: the one that it renews goes.
    Renewed(u64),
    /// It has come to nothing: the old one stays.
    NotRenewed(u64),
    /// These children were asked for on an IKE SA that the peer closed: they go to another one, if there is one.
    CreateElsewhere { connection: Arc<Connection>, children: Vec<Wanted> },
    /// Set a child up again.
    Restart { connection: Arc<Connection>, child: Option<Wanted>, after: Duration },
}

/// An IKE SA that is to be authenticated anew.
pub(crate) struct Renewal {
    pub old: u64,
    pub connection: Arc<Connection>,
    pub children: Vec<Wanted>,
    pub path: Path,
    /// Addresses that were assigned to us.
    pub inner: Vec<std::net::IpAddr>,
}

/// One IKE SA, or the attempt at one.
pub(crate) struct IkeSa {
    pub core: Core,
    pub state: State,
}

/// An authentic message that must wait until the children have come over from another IKE SA.
pub(crate) struct Deferred {
    pub from: u64,
    pub opened: Opened,
}

/// Where it stands.
pub(crate) enum State {
    InitSent(Box<Sent>),
    Solving(Box<Solving>),
    Answered(Box<Answered>),
    IntermediateSent(Box<intermediate::Sent>),
    AuthSent(Box<auth::Sent>),
    EapSent(Box<auth::Peering>),
    EapServing(Box<auth::Serving>),
    Established(Box<Established>),
    Closed(Closed),
}

/// It is over. It stays for a while to answer repetitions of the peer's last request.
pub(crate) struct Closed {
    pub until: Instant,
}

impl State {
    /// In a word.
    pub fn name(&self) -> &'static str {
        match self {
            Self::InitSent(_)
            | Self::Solving(_)
            | Self::IntermediateSent(_)
            | Self::AuthSent(_)
            | Self::EapSent(_) => "connecting",
            Self::Answered(_) | Self::EapServing(_) => "half-open",
            Self::Established(established) => match established.phase {
                Phase::Up => "established",
                Phase::Answered { .. } => "rekeyed",
                Phase::Redundant { .. } => "redundant",
                Phase::Leaving(_) => "deleting",
            },
            Self::Closed(_) => "closed",
        }
    }

    /// Over, and forgotten after the time that a peer may go on repeating a request.
    pub fn closed(ctx: &Context<'_>) -> Self {
        Self::Closed(Closed { until: ctx.now + ctx.config.retransmit.total() })
    }

    /// Over before the peer proved itself. It counts as half open as long as one that nobody came back to, so that
    /// bounds on those hold for peers that fail too.
    pub fn refused(ctx: &Context<'_>) -> Self {
        Self::Closed(Closed { until: ctx.now + ctx.config.limits.half_open_timeout })
    }

    /// Over, and nothing to repeat.
    pub fn gone(ctx: &Context<'_>) -> Self {
        Self::Closed(Closed { until: ctx.now })
    }
}

impl IkeSa {
    /// Serves a message that carries this IKE SA's SPI. When it is the first on an IKE SA whose children are
    /// still on the one before, it comes back to be given to [`IkeSa::proceed`] once they have come over.
    pub fn receive(
        &mut self,
        ctx: &mut Context<'_>,
        header: &Header,
        datagram: Datagram,
    ) -> Option<Deferred> {
        let opened = self.open(ctx, header, datagram)?;
        if let State::Established(established) = &mut self.state
            && let Some(from) = established.heir_of
            && !header.response
            && !informational::deletes_ike(ctx, header.exchange, &opened)
        {
            return Some(Deferred { from, opened });
        }
        self.proceed(ctx, header, opened);
        None
    }

    fn open(&mut self, ctx: &mut Context<'_>, header: &Header, datagram: Datagram) -> Option<Opened> {
        let opened = self.authenticate(ctx, header, datagram);
        if let Err(Some(rejection)) = opened {
            ctx.reject(rejection);
        }
        opened.ok()
    }

    /// The content of an authentic message. An error without rejection: the message was dealt with.
    fn authenticate(
        &mut self,
        ctx: &mut Context<'_>,
        header: &Header,
        datagram: Datagram,
    ) -> Result<Opened, Option<Rejection>> {
        if header.initiator == self.core.initiator {
            return Err(Some(Rejection::Malformed));
        }
        if let State::InitSent(_) = &self.state {
            let State::InitSent(sent) = mem::replace(&mut self.state, State::gone(ctx)) else {
                return Err(None);
            };
            self.state = sent.receive(&mut self.core, ctx, header, datagram);
            return Err(None);
        }
        let peer_spi = if header.initiator { header.spi_i } else { header.spi_r };
        if peer_spi != self.core.peer_spi {
            return Err(Some(Rejection::UnknownSpi));
        }
        if header.exchange == ExchangeType::IKE_SA_INIT {
            // Only IKE_SA_INIT is in the clear, and that is over.
            return Err(Some(Rejection::Cleartext));
        }
        match self.core.open(ctx, header, datagram) {
            Opening::Whole(opened) => Ok(opened),
            Opening::Partial | Opening::Repeated => Err(None),
            Opening::Rejected(rejection) => Err(Some(rejection)),
        }
    }

    /// Serves an authentic message.
    pub fn proceed(&mut self, ctx: &mut Context<'_>, header: &Header, opened: Opened) {
        if header.response {
            self.core.requests.answered();
        }
        let state = mem::replace(&mut self.state, State::gone(ctx));
        self.state = match (state, header.response) {
            (State::Answered(answered), false) => answered.request(&mut self.core, ctx, header, opened),
            (State::EapServing(serving), false) => serving.request(&mut self.core, ctx, header, &opened),
            (State::EapSent(sent), true) => sent.response(&mut self.core, ctx, &opened),
            (State::IntermediateSent(sent), true) => sent.response(&mut self.core, ctx, header, &opened),
            (State::AuthSent(sent), true) => sent.response(&mut self.core, ctx, &opened),
            (State::Established(established), false) => {
                established.request(&mut self.core, ctx, header.exchange, &opened)
            }
            (State::Established(established), true) => established.response(&mut self.core, ctx, &opened),
            (state, _) => {
                debug!(ike = self.core.spi, exchange = %header.exchange, "exchange does not fit the state");
                ctx.reject(Rejection::UnexpectedExchange);
                state
            }
        };
        if mem::take(&mut ctx.out.moved)
            && let State::Established(established) = &mut self.state
        {
            established.move_children(&self.core, ctx);
        }
    }

    /// Does what is due.
    pub fn timeout(&mut self, ctx: &mut Context<'_>) {
        let state = mem::replace(&mut self.state, State::gone(ctx));
        self.state = match state {
            State::InitSent(sent) => sent.timeout(&mut self.core, ctx),
            State::Solving(solving) => solving.timeout(&mut self.core, ctx),
            State::Answered(answered) => answered.timeout(&mut self.core, ctx),
            State::IntermediateSent(sent) => sent.timeout(&mut self.core, ctx),
            State::AuthSent(sent) => sent.timeout(&mut self.core, ctx),
            State::EapSent(sent) => sent.timeout(&mut self.core, ctx),
            State::EapServing(serving) => serving.timeout(&self.core, ctx),
            State::Established(established) => established.timeout(&mut self.core, ctx),
            closed @ State::Closed(_) => closed,
        };
    }

    /// When [`IkeSa::timeout`] is to be called.
    pub fn deadline(&self) -> Option<Instant> {
        match &self.state {
            State::InitSent(sent) => sent.deadline(&self.core),
            State::Solving(solving) => Some(solving.deadline()),
            State::Answered(answered) => Some(answered.expires),
            State::IntermediateSent(_) | State::AuthSent(_) | State::EapSent(_) => {
                self.core.requests.deadline()
            }
            State::EapServing(serving) => Some(serving.expires),
            State::Established(established) => established.deadline(&self.core),
            State::Closed(closed) => Some(closed.until),
        }
    }

    /// It can be forgotten.
    pub fn is_over(&self, now: Instant) -> bool {
        matches!(&self.state, State::Closed(closed) if closed.until <= now)
    }

    /// The connection, when it is known.
    pub fn connection(&self) -> Option<&Arc<Connection>> {
        match &self.state {
            State::InitSent(sent) => Some(&sent.connection),
            State::Solving(solving) => Some(&solving.opening.connection),
            State::IntermediateSent(sent) => Some(&sent.opening.connection),
            State::AuthSent(sent) => Some(sent.connection()),
            State::EapSent(sent) => Some(sent.connection()),
            State::EapServing(serving) => Some(serving.connection()),
            State::Established(established) => Some(&established.connection),
            State::Answered(_) | State::Closed(_) => None,
        }
    }

    /// Children can be added to it: it is established, or will be.
    pub fn takes_children(&self) -> bool {
        match &self.state {
            State::InitSent(_)
            | State::Solving(_)
            | State::IntermediateSent(_)
            | State::AuthSent(_)
            | State::EapSent(_) => true,
            State::Established(established) => established.phase == Phase::Up,
            State::Answered(_) | State::EapServing(_) | State::Closed(_) => false,
        }
    }

    /// Adds children.
    pub fn add_children(&mut self, ctx: &mut Context<'_>, children: &[Wanted]) {
        let waiting = match &mut self.state {
            State::InitSent(sent) => &mut sent.children,
            State::Solving(solving) => &mut solving.opening.children,
            State::IntermediateSent(sent) => &mut sent.opening.children,
            State::AuthSent(sent) => sent.later(),
            State::EapSent(sent) => sent.later(),
            State::Established(established) => {
                for wanted in children {
                    established.add_task(ctx.now, Task::CreateChild { wanted: wanted.clone(), group: None });
                }
                return established.advance(&mut self.core, ctx);
            }
            State::Answered(_) | State::EapServing(_) | State::Closed(_) => return,
        };
        for child in children {
            if !waiting.iter().any(|one| child.is_covered_by(one)) {
                waiting.push(child.clone());
            }
        }
    }

    /// An authentic packet of a tunnel came from elsewhere.
    pub fn peer_moved(&mut self, ctx: &mut Context<'_>, seen: Endpoints) {
        let Some(udp) = seen.udp.filter(|_| self.core.nat.remote) else { return };
        let path = Path {
            local: SocketAddr::new(seen.local, udp.local),
            remote: SocketAddr::new(seen.remote, udp.remote),
        };
        if let State::Established(established) = &mut self.state
            && self.core.path != path
        {
            self.core.path = path;
            self.core.carried = None;
            established.move_children(&self.core, ctx);
        }
    }

    /// By what it knows the additional key exchanges that the peer has under way.
    #[cfg(any(test, fuzzing))]
    pub fn links(&self) -> Vec<Vec<u8>> {
        match &self.state {
            State::Established(established) => established.awaited.links().collect(),
            _ => Vec::new(),
        }
    }

    /// Takes everything down at once without telling the peer.
    pub fn abolish(&mut self, ctx: &mut Context<'_>, reason: DownReason) {
        match &mut self.state {
            State::Established(established) => established.drop_children(ctx, &reason),
            State::AuthSent(sent) => sent.withdraw(ctx),
            State::EapSent(sent) => sent.withdraw(ctx),
            _ => {}
        }
        if mem::take(&mut self.core.renews) {
            ctx.out.commands.push(Command::NotRenewed(self.core.spi));
        }
        let connection = self.connection().map(|connection| connection.name.clone());
        if !matches!(self.state, State::Closed(_)) {
            ctx.out.events.push_back(Event::IkeDown { connection, ike: self.core.spi, reason });
        }
        self.state = State::gone(ctx);
    }
}
