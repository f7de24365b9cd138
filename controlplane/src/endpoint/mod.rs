//! The protocol core as one object without I/O, clock or thread.
//!
//! Feed it with `handle_datagram` and `handle_timeout`, ask it for work with `initiate` and its siblings, and after
//! each call drain, in this order:
//!
//! 1. [`Endpoint::poll_sa_update`], until `None`, and put the updates in force;
//! 2. [`Endpoint::poll_transmit`], until `None`, and send the datagrams: a response may tell the peer to use an SA
//!    that must be in force by then;
//! 3. [`Endpoint::poll_event`], until `None`;
//! 4. [`Endpoint::next_deadline`], and call [`Endpoint::handle_timeout`] when it has come.
//!
//! Time never goes backwards, and all randomness that shows on the wire comes from the generator that is passed
//! in, except for the values of key exchanges: so a simulation repeats itself from its seed.
//!
//! A queued datagram whose payload is the single byte 0xff is a NAT keepalive, which goes out as it is, without
//! non-ESP marker (RFC 3948 s2.3).

mod admission;
mod command;
mod cookie;
#[cfg(any(test, fuzzing))]
mod forge;
mod half_open;
mod operator;
mod reply;

use std::collections::{BTreeMap, HashMap};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use dataplane::message::Datagram;
use dataplane::sa::TunnelId;
use tracing::debug;

use self::admission::Lottery;
pub use self::admission::ServedUnderAttack;
use self::cookie::Cookies;
use self::half_open::HalfOpen;
use self::reply::Replies;
use crate::auth::x509::UnixTime;
use crate::config::{Config, Connection};
use crate::crypto::Random;
use crate::keylog::IkeKeyLog;
use crate::lease::Pools;
use crate::peer::Directory;
use crate::per_second::PerSecond;
use crate::pool::{ByConnection, SpiPool, TunnelPool};
use crate::rejection::{Counters, Rejection};
use crate::sa::{Answered, Context, Core, IkeSa, Output, Path, Refusal, State, Wanted};
use crate::timer::Timers;
use crate::update::{ChildUpdate, Event};
use crate::wire::{
    ExchangeType, HEADER_LEN, Header, Notify, NotifyType, Payload, WireErrorKind, parse_chain,
};

#[cfg(any(test, fuzzing))]
pub(crate) use self::forge::Forgery;
pub use self::operator::{ChildStatus, IkeStatus, OperatorError};

/// Keys that are tried on puzzles of responders each time that something is due: some hundred microseconds, as long as a
/// signature takes.
const PUZZLE_SLICE: u32 = 512;

/// All IKE SAs of a gateway.
pub struct Endpoint {
    config: Arc<Config>,
    directory: Directory,
    clock: WallClock,
    sas: HashMap<u64, IkeSa>,
    connections: ByConnection,
    timers: Timers<u64>,
    half_open: HalfOpen,
    /// IKE SAs that renew others, and those others.
    renewals: HashMap<u64, command::Renewed>,
    /// The addresses that we have; `None` when nobody said.
    addresses: Option<Vec<IpAddr>>,
    /// EAP exchanges that we serve.
    eap: usize,
    cookies: Cookies,
    /// Requests without the solution of a puzzle that are served nevertheless.
    lottery: Lottery,
    served: ServedUnderAttack,
    replies: Replies,
    /// Old inbound SAs and when they are removed.
    retiring: BTreeMap<(Instant, u32), TunnelId>,
    /// Connections and children to set up again later.
    restarts: Vec<(Instant, Arc<Connection>, Option<Wanted>)>,
    out: Output,
    spis: SpiPool,
    tunnels: TunnelPool,
    pools: Pools,
    /// Going down: nothing new is taken on.
    closing: bool,
}

/// What the wall clock showed at a moment. Time on the wire and in deadlines is monotonic; only the validity of
/// certificates and revocation lists needs this.
#[derive(Clone, Copy, Debug)]
pub struct WallClock {
    /// The moment.
    pub now: Instant,
    /// Since the Unix epoch.
    pub unix: Duration,
}

impl WallClock {
    /// What the system's clock showed at a moment. Before 1970 no certificate is valid, whatever it says.
    pub fn new(now: Instant, shown: SystemTime) -> Self {
        Self { now, unix: shown.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default() }
    }

    fn at(&self, now: Instant) -> UnixTime {
        UnixTime::since_unix_epoch(self.unix + now.saturating_duration_since(self.now))
    }
}

impl Endpoint {
    /// The wall clock was set.
    pub fn set_clock(&mut self, clock: WallClock) {
        self.clock = clock;
    }

    /// Without IKE SAs. `clock` dates certificates.
    pub fn new(config: Arc<Config>, clock: WallClock) -> Self {
        let (limits, peers) = (config.limits, config.peers);
        Self {
            clock,
            directory: Directory::new(&config.connections),
            pools: Pools::new(&config.pools, peers.remembered_addresses),
            cookies: Cookies::new(limits.cookie_lifetime, limits.half_open_timeout),
            lottery: Lottery::new(limits.puzzle_unsolved_per_second),
            served: ServedUnderAttack::default(),
            spis: SpiPool::new(config.inbound_sas, &config.reserved_spis),
            tunnels: TunnelPool::starting_at(config.first_tunnel),
            config,
            sas: HashMap::new(),
            connections: ByConnection::default(),
            timers: Timers::default(),
            half_open: HalfOpen::default(),
            renewals: HashMap::new(),
            addresses: None,
            eap: 0,
            replies: Replies::new(limits.answers_per_second),
            retiring: BTreeMap::new(),
            restarts: Vec::new(),
            out: Output { log_limit: PerSecond::new(limits.log_lines_per_second), ..Output::default() },
            closing: false,
        }
    }

    /// Serves a datagram from port 500, or from port 4500 without non-ESP marker.
    pub fn handle_datagram(&mut self, now: Instant, datagram: Datagram, rng: &mut dyn Random) {
        let header = match Header::parse(&datagram.payload) {
            Ok(header) => header,
            Err(error) => {
                debug!(remote = %datagram.remote, %error, "not an IKEv2 message");
                if let WireErrorKind::MajorVersion(version) = error.kind {
                    self.out.counters.count(Rejection::MajorVersion);
                    if version > 2 {
                        self.replies.major_version(now, &mut self.out, &datagram);
                    }
                } else {
                    self.out.counters.count(Rejection::Malformed);
                }
                return;
            }
        };
        let begins = header.exchange == ExchangeType::IKE_SA_INIT && !header.response && header.initiator;
        if begins && self.closing {
            return self.out.counters.count(Rejection::Closing);
        }
        if begins && header.spi_r == 0 && header.message_id == 0 && header.spi_i != 0 {
            return self.begin(now, &header, datagram, rng);
        }
        let spi = if header.initiator { header.spi_r } else { header.spi_i };
        if !self.sas.contains_key(&spi) {
            self.out.counters.count(Rejection::UnknownSpi);
            if !header.response {
                self.replies.unknown_spi(now, &mut self.out, &header, &datagram);
            }
            return;
        }
        let mut deferred = None;
        self.serve(now, rng, spi, |sa, ctx| deferred = sa.receive(ctx, &header, datagram));
        if let Some(deferred) = deferred {
            self.take_over(now, rng, deferred.from, spi);
            self.serve(now, rng, spi, |sa, ctx| sa.proceed(ctx, &header, deferred.opened));
        }
    }

    /// Does what is due.
    pub fn handle_timeout(&mut self, now: Instant, rng: &mut dyn Random) {
        self.out.tries = PUZZLE_SLICE;
        while let Some(spi) = self.timers.pop_due(now) {
            self.serve(now, rng, spi, |sa, ctx| sa.timeout(ctx));
        }
        while let Some(entry) = self.retiring.first_entry().filter(|entry| entry.key().0 <= now) {
            let ((_, spi), tunnel) = entry.remove_entry();
            self.out.updates.push_back(ChildUpdate::RemoveInbound { tunnel, spi });
            self.spis.release(spi);
            self.tunnels.let_go(tunnel);
        }
        let due: Vec<_> = self.restarts.extract_if(.., |(at, ..)| *at <= now).collect();
        for (_, connection, child) in due {
            self.bring_up(now, rng, &connection, child.as_slice());
        }
    }

    /// The next datagram to send.
    pub fn poll_transmit(&mut self) -> Option<Datagram> {
        self.out.transmit.pop_front()
    }

    /// The next change to the Child SAs.
    pub fn poll_sa_update(&mut self) -> Option<ChildUpdate> {
        self.out.updates.pop_front()
    }

    /// The next piece of news.
    pub fn poll_event(&mut self) -> Option<Event> {
        self.out.events.pop_front()
    }

    /// The next keys for the key log, when the configuration wants one.
    pub fn poll_keys(&mut self) -> Option<IkeKeyLog> {
        self.out.keys.pop_front()
    }

    /// When [`Endpoint::handle_timeout`] is to be called.
    pub fn next_deadline(&self) -> Option<Instant> {
        let retiring = self.retiring.first_key_value().map(|(&(at, _), _)| at);
        let restart = self.restarts.iter().map(|&(at, ..)| at).min();
        [self.timers.next(), retiring, restart].into_iter().flatten().min()
    }

    /// How often which rejection happened.
    pub fn counters(&self) -> &Counters {
        &self.out.counters
    }

    /// Half-open IKE SAs.
    pub fn half_open(&self) -> usize {
        self.half_open.len()
    }

    /// No IKE SA, SPI, tunnel or inner address is in use.
    pub fn is_empty(&self) -> bool {
        self.sas.is_empty()
            && self.retiring.is_empty()
            && self.spis.len() == self.config.reserved_spis.len()
            && self.renewals.is_empty()
            && self.tunnels.in_use() == 0
            && self.pools.in_use() == 0
    }

    /// No IKE SA is established or on its way: there is nobody to say goodbye to.
    pub fn is_quiet(&self) -> bool {
        self.sas.values().all(|sa| matches!(sa.state, State::Closed(_)))
    }

    /// IKE SAs that have keys.
    #[cfg(test)]
    pub(crate) fn keyed(&self) -> usize {
        self.sas.values().filter(|sa| sa.core.protection.is_some()).count()
    }

    /// Makes it break the rules.
    #[cfg(test)]
    pub(crate) fn bend(&mut self, bend: Option<crate::sa::Bend>) {
        self.out.bend = bend;
    }

    /// A request to start an IKE SA.
    fn begin(&mut self, now: Instant, header: &Header, datagram: Datagram, rng: &mut dyn Random) {
        let Datagram { local, remote, payload: request } = datagram;
        if let Some(spi) = self.half_open.find(remote, header.spi_i)
            && let Some(sa) = self.sas.get(&spi)
        {
            match &sa.state {
                State::Answered(answered) if answered.is_repetition(&request) => {
                    let again = sa.core.responses.last().iter();
                    let again = again.map(|packet| Datagram { local, remote, payload: packet.clone() });
                    return self.out.transmit.extend(again);
                }
                // It is late: the peer has long had the answer.
                State::EapServing(serving) if serving.is_repetition(&request) => {
                    return self.out.counters.count(Rejection::Repetition);
                }
                _ => {}
            }
        }
        if request.len() > self.config.limits.first_request {
            debug!(%remote, len = request.len(), "first request too long");
            return self.out.counters.count(Rejection::FirstRequestLength);
        }
        let candidates = self.directory.candidates(local.ip(), remote.ip());
        if candidates.is_empty() {
            debug!(%local, %remote, "no connection for these addresses");
            return self.refuse(
                now,
                header,
                local,
                remote,
                Rejection::NoConnection,
                Notify::bare(NotifyType::NO_PROPOSAL_CHOSEN),
            );
        }
        let body = request.get(HEADER_LEN..).unwrap_or_default();
        let limits = self.config.limits.of_message();
        let payloads = match parse_chain(header.next_payload, body, HEADER_LEN, &limits) {
            Ok(payloads) => payloads,
            Err(error) => {
                debug!(%remote, %error, "malformed IKE_SA_INIT");
                let notify = reply::error_notify(&error);
                return self.refuse(now, header, local, remote, Rejection::from(&error), notify);
            }
        };
        if self.sas.len() >= self.config.limits.ike_sas {
            return self.out.counters.count(Rejection::IkeLimit);
        }
        if !self.admit(now, header, Path { local, remote }, &payloads, rng) {
            return;
        }
        let mut ctx = self.context(now, rng, 0);
        match Answered::answer(&mut ctx, header, &request, &payloads, Path { local, remote }, &candidates) {
            Ok(sa) => {
                let spi = sa.core.spi;
                self.half_open.insert(spi, remote, header.spi_i);
                self.put_back(now, sa);
            }
            Err(Refusal { rejection, notify }) => self.refuse(now, header, local, remote, rejection, notify),
        }
    }

    fn refuse(
        &mut self,
        now: Instant,
        header: &Header,
        local: SocketAddr,
        remote: SocketAddr,
        rejection: Rejection,
        notify: Notify<'static>,
    ) {
        self.out.counters.count(rejection);
        // RFC 7296 s1.2: a group to choose anew is a part of the negotiation, which strangers cannot use up.
        if notify.kind == NotifyType::INVALID_KE_PAYLOAD || self.replies.allowed(now, &mut self.out) {
            reply::stateless(&mut self.out, header, local, remote, &[Payload::Notify(notify)]);
        }
    }

    /// Lets an IKE SA do something, and carries out what follows from it.
    fn serve(
        &mut self,
        now: Instant,
        rng: &mut dyn Random,
        spi: u64,
        step: impl FnOnce(&mut IkeSa, &mut Context<'_>),
    ) {
        let Some(mut sa) = self.sas.remove(&spi) else { return };
        let serves_eap = |sa: &IkeSa| usize::from(matches!(sa.state, State::EapServing(_)));
        self.eap -= serves_eap(&sa);
        let initiating =
            matches!(sa.state, State::InitSent(_) | State::Solving(_) | State::IntermediateSent(_));
        let first_contact =
            initiating && !sa.connection().is_some_and(|connection| self.is_up(&connection.name));
        let mut ctx = self.context(now, rng, spi);
        ctx.first_contact = first_contact;
        step(&mut sa, &mut ctx);
        self.eap += serves_eap(&sa);
        self.put_back(now, sa);
        self.carry_out(now, rng, spi);
    }

    /// An IKE SA of this connection is established.
    fn is_up(&self, name: &str) -> bool {
        let mut sas = self.connections.of(name).filter_map(|spi| self.sas.get(&spi));
        sas.any(|sa| matches!(sa.state, State::Established(_)))
    }

    fn context<'a>(&'a mut self, now: Instant, rng: &'a mut dyn Random, ike: u64) -> Context<'a> {
        Context {
            now,
            rng,
            config: &self.config,
            directory: &self.directory,
            out: &mut self.out,
            spis: &mut self.spis,
            tunnels: &mut self.tunnels,
            pools: &mut self.pools,
            first_contact: false,
            ike,
            addresses: self.addresses.as_deref(),
            eap_full: self.eap >= self.config.limits.eap,
            unix: self.clock.at(now),
        }
    }

    fn put_back(&mut self, now: Instant, mut sa: IkeSa) {
        let spi = sa.core.spi;
        if self.config.log_keys {
            self.out.keys.extend(sa.core.keys_to_log());
        }
        self.connections.set(spi, sa.connection().map(|connection| &connection.name));
        if sa.is_over(now) {
            self.timers.set(spi, None);
            self.half_open.remove(spi);
            self.renewals.retain(|_, renewed| renewed.old != spi);
            return;
        }
        self.timers.set(spi, sa.deadline());
        self.sas.insert(spi, sa);
    }
}

/// The name of an IKE SA for the log and for tests.
impl std::fmt::Debug for Core {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "IKE SA {:016x} {}", self.spi, self.path.remote)
    }
}
