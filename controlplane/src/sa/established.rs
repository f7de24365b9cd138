//! An established IKE SA: one exchange of ours at a time from a queue of tasks, and the peer's requests.

use std::sync::Arc;
use std::time::{Duration, Instant};

use dataplane::sa::Endpoints;
use tracing::{debug, info, warn};

use super::child::{Child, Children, Denied, LeftOut, Request, Settled, SinglePairs, Stage, Wanted};
use super::core::{Core, Opened, Path};
use super::followup::Awaited;
use super::mobike::Whereabouts;
use super::retry::{RETRY_REFUSED, RETRY_UNREACHABLE};
use super::{Command, Context, State, informational, rekey};
use crate::auth::Identity;
use crate::config::{ChildConfig, Connection, OnDown, Start};
use crate::crypto::Group;
use crate::lease::Lease;
use crate::rejection::Rejection;
use crate::update::{ChildUpdate, DownReason, Event};
use crate::wire::{Delete, ExchangeType, NotifyType, Payload, ProtocolId};

/// After TEMPORARY_FAILURE, a task is tried again after this time and up to as much again (RFC 7296 s2.25).
pub(super) const RETRY_SOON: Duration = Duration::from_millis(500);

/// After another failure of a rekey.
pub(super) const RETRY_LATER: Duration = Duration::from_secs(15);

/// An established IKE SA.
pub(crate) struct Established {
    pub connection: Arc<Connection>,
    pub peer: Identity,
    pub since: Instant,
    pub children: Children,
    pub phase: Phase,
    pub tasks: Vec<(Instant, Task)>,
    /// Inner addresses that we assigned to the peer.
    pub leases: Vec<Lease>,
    /// Our exchange in progress.
    pub active: Option<Active>,
    /// The peer's additional key exchanges in progress.
    pub awaited: Awaited,
    /// So often in a row the peer forgot additional key exchanges of ours.
    pub forgotten: u8,
    /// What the peer does not make Child SAs for.
    pub left_out: LeftOut,
    /// What it makes them for no wider than two hosts.
    pub single_pairs: SinglePairs,
    pub rekey_at: Option<Instant>,
    /// When it is authenticated anew.
    pub reauth_at: Option<Instant>,
    /// It has Child SAs of tunnels that another IKE SA still carries.
    pub inherits: Inherits,
    /// Made by the peer's rekey of this IKE SA, which still has the children.
    pub heir_of: Option<u64>,
    /// Redundant or replaced: its end is no news.
    pub quiet: bool,
}

/// Where an established IKE SA stands in its life.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Phase {
    /// In use.
    Up,
    /// We answered the peer's rekey. The peer deletes this IKE SA once it has the answer; if it does not until
    /// the deadline, the successor takes over anyway.
    Answered { successor: u64, deadline: Instant },
    /// Made by a rekey of the peer that crossed ours and lost. The peer deletes it, unless it never got our answer
    /// and does not know it: then it is forgotten at the deadline.
    Redundant { deadline: Instant },
    /// Our delete is queued or sent.
    Leaving(DownReason),
}

/// When the peer has for certain the Child SAs of tunnels that another IKE SA still carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Inherits {
    /// There are none.
    Nothing,
    /// When it shows that it has this IKE SA: they came with it.
    UntilKnown,
    /// When it asks something else: they came in a response that may be lost.
    UntilAsked,
}

/// Something to do in an exchange of our own.
#[derive(Clone, Debug)]
pub(crate) enum Task {
    CreateChild {
        wanted: Wanted,
        group: Option<Group>,
    },
    RekeyChild {
        spi: u32,
        group: Option<Group>,
    },
    /// A Child SA of ours, by inbound SPI.
    DeleteChild {
        spi: u32,
        reason: DownReason,
    },
    /// A Child SA that only the peer has: we did not accept its terms.
    DeleteUnwanted {
        protocol: ProtocolId,
        spi: u32,
    },
    RekeyIke {
        group: Option<Group>,
    },
    DeleteIke,
    /// Is the peer alive?
    Probe,
    /// MOBIKE: asks the responder to follow to our path.
    UpdateAddresses,
    /// MOBIKE: checks that the peer is where it says.
    VerifyPath,
    /// MOBIKE: tells our other addresses.
    TellAddresses,
}

/// Our exchange in progress, with the additional key exchanges that follow it.
pub(crate) enum Active {
    CreateChild(Box<Request>),
    RekeyChild { old: u32, request: Box<Request>, rival: Option<Rival> },
    DeleteChild { spi: u32, reason: DownReason },
    DeleteUnwanted { spi: u32 },
    RekeyIke(Box<rekey::Request>),
    DeleteIke,
    Probe,
    UpdateAddresses { path: Path },
    VerifyPath { cookie: [u8; 16], path: Path },
    TellAddresses,
}

/// What the peer made in an exchange that crossed ours (RFC 7296 s2.8.1): our inbound SPI of it, and the lower
/// nonce of its exchange.
pub(crate) struct Rival {
    pub spi: u32,
    pub lowest: Vec<u8>,
    /// The peer has rekeyed it and deleted it since, so it was the one that stayed.
    pub went_on: bool,
}

/// What a handler of [`Established`] decides.
pub(super) enum Next {
    Stay,
    /// The IKE SA is closed, with the last response kept for repetitions.
    Close(DownReason),
}

/// What an IKE SA hands over to its successor.
pub(crate) struct Estate {
    pub connection: Arc<Connection>,
    pub children: Children,
    pub tasks: Vec<(Instant, Task)>,
    pub leases: Vec<Lease>,
    pub single_pairs: SinglePairs,
    /// The IKE SA that had them.
    pub from: u64,
    /// Outer addresses of the tunnels.
    pub endpoints: Endpoints,
    /// Where MOBIKE has brought it.
    pub whereabouts: Option<Whereabouts>,
}

impl Task {
    /// The child that it makes anew.
    fn creates(&self) -> Option<&Wanted> {
        match self {
            Self::CreateChild { wanted, .. } => Some(wanted),
            _ => None,
        }
    }
}

impl Phase {
    /// When it ends without the peer.
    fn deadline(&self) -> Option<Instant> {
        match self {
            Self::Answered { deadline, .. } | Self::Redundant { deadline } => Some(*deadline),
            Self::Up | Self::Leaving(_) => None,
        }
    }
}

impl Established {
    pub fn new(ctx: &mut Context<'_>, connection: Arc<Connection>, peer: Identity) -> Self {
        let jitter = ctx.jitter(connection.rekey_jitter);
        let rekey_at = connection.rekey.map(|after| ctx.now + after.saturating_sub(jitter));
        Self {
            connection,
            peer,
            since: ctx.now,
            children: Children::default(),
            phase: Phase::Up,
            tasks: Vec::new(),
            leases: Vec::new(),
            active: None,
            awaited: Awaited::default(),
            forgotten: 0,
            left_out: LeftOut::default(),
            single_pairs: SinglePairs::default(),
            rekey_at,
            reauth_at: None,
            inherits: Inherits::Nothing,
            heir_of: None,
            quiet: false,
        }
    }

    /// Tells that it is up.
    pub fn announce(&self, core: &mut Core, ctx: &mut Context<'_>) {
        core.settled = true;
        core.peer_key = ctx.tunnels.key(self.peer.to_payload());
        let (connection, peer) = (self.connection.name.clone(), self.peer.clone());
        info!(%connection, %peer, ike = core.spi, remote = %core.path.remote, "IKE SA established");
        ctx.out.events.push_back(Event::IkeUp { connection, ike: core.spi, peer });
        if !core.initiator {
            ctx.out.commands.push(Command::NoLongerHalfOpen);
        }
    }

    /// Queues a task.
    pub fn add_task(&mut self, at: Instant, task: Task) {
        self.tasks.push((at, task));
    }

    /// Serves a request of the peer.
    pub fn request(
        mut self: Box<Self>,
        core: &mut Core,
        ctx: &mut Context<'_>,
        exchange: ExchangeType,
        opened: &Opened,
    ) -> State {
        let payloads = match opened.payloads(ctx) {
            Ok(payloads) => payloads,
            Err(error) => {
                warn!(connection = %self.connection.name, %error, "malformed request");
                let notify = informational::error_notify(&error);
                let fatal = notify.kind == NotifyType::INVALID_SYNTAX;
                ctx.reject(Rejection::from(&error));
                core.respond(ctx, exchange, &[Payload::Notify(notify)]);
                // RFC 7296 s2.21.3: INVALID_SYNTAX in an authenticated message ends the IKE SA.
                let next =
                    if fatal { Next::Close(DownReason::Failed(error.to_string())) } else { Next::Stay };
                return self.step(core, ctx, next);
            }
        };
        // With a window of 1 the peer has our last response.
        self.take_tunnels(ctx);
        let next = match exchange {
            ExchangeType::CREATE_CHILD_SA => self.create_child_request(core, ctx, &payloads),
            ExchangeType::IKE_FOLLOWUP_KE => self.followup_request(core, ctx, &payloads),
            ExchangeType::INFORMATIONAL => self.informational_request(core, ctx, &payloads),
            _ => {
                ctx.reject(Rejection::UnexpectedExchange);
                let notify = crate::wire::Notify::bare(NotifyType::INVALID_SYNTAX);
                core.respond(ctx, exchange, &[Payload::Notify(notify)]);
                Next::Close(DownReason::Failed(format!("unexpected {exchange}")))
            }
        };
        self.step(core, ctx, next)
    }

    /// Serves the response to our request.
    pub fn response(mut self: Box<Self>, core: &mut Core, ctx: &mut Context<'_>, opened: &Opened) -> State {
        let payloads = match opened.payloads(ctx) {
            Ok(payloads) => payloads,
            Err(error) => {
                warn!(connection = %self.connection.name, %error, "malformed response");
                ctx.reject(Rejection::from(&error));
                self.withdraw(ctx);
                self.leave(ctx, DownReason::Failed(error.to_string()));
                return self.step(core, ctx, Next::Stay);
            }
        };
        // RFC 7296 s2.21.3: the peer has ended the IKE SA.
        let fatal = [NotifyType::INVALID_SYNTAX, NotifyType::AUTHENTICATION_FAILED];
        if let Some(error) = super::init::notifies(&payloads).find(|notify| fatal.contains(&notify.kind)) {
            return self.step(core, ctx, Next::Close(DownReason::Rejected(error.kind)));
        }
        if self.inherits == Inherits::UntilKnown {
            self.take_tunnels(ctx);
        }
        let next = match self.active.take() {
            Some(Active::CreateChild(request)) => self.child_response(core, ctx, *request, &payloads),
            Some(Active::RekeyChild { old, request, rival }) => {
                self.rekey_child_response(core, ctx, old, *request, rival, &payloads)
            }
            Some(Active::RekeyIke(request)) => self.rekey_ike_response(core, ctx, request, &payloads),
            Some(Active::DeleteChild { spi, reason }) => {
                let connection = self.connection.clone();
                self.children.remove(ctx, &connection, spi, &reason);
                Next::Stay
            }
            Some(Active::DeleteUnwanted { spi }) => {
                ctx.spis.release(spi);
                Next::Stay
            }
            Some(Active::DeleteIke) => Next::Close(self.leaving_reason()),
            Some(Active::Probe) => {
                self.probe_response(core, ctx, &payloads);
                Next::Stay
            }
            Some(Active::UpdateAddresses { path }) => {
                self.update_response(core, ctx, path, &payloads);
                Next::Stay
            }
            Some(Active::VerifyPath { cookie, path }) => {
                self.verify_response(core, ctx, &cookie, path, &payloads);
                Next::Stay
            }
            Some(Active::TellAddresses) | None => Next::Stay,
        };
        self.check_path(core, ctx);
        self.step(core, ctx, next)
    }

    /// Does what is due.
    pub fn timeout(mut self: Box<Self>, core: &mut Core, ctx: &mut Context<'_>) -> State {
        if core.requests.deadline().is_some_and(|at| at <= ctx.now) {
            self.try_another_way(core, ctx);
        }
        if !core.retransmit(ctx) {
            let reason = match &self.phase {
                Phase::Leaving(reason) => reason.clone(),
                _ => DownReason::Unreachable(String::new()),
            };
            warn!(connection = %self.connection.name, remote = %core.path.remote, "peer does not answer");
            return self.step(core, ctx, Next::Close(reason));
        }
        if self.phase.deadline().is_some_and(|deadline| deadline <= ctx.now) {
            debug!(ike = core.spi, "peer did not delete an IKE SA that was replaced");
            self.quiet = true;
            return self.step(core, ctx, Next::Close(DownReason::Terminated));
        }
        self.schedule(core, ctx);
        informational::keepalive(&self.connection, core, ctx);
        self.step(core, ctx, Next::Stay)
    }

    /// When [`Established::timeout`] is due.
    pub fn deadline(&self, core: &Core) -> Option<Instant> {
        let replaced = self.phase.deadline();
        let idle = core.requests.is_idle() && self.active.is_none();
        let tasks = self.tasks.iter().filter(|(_, task)| idle && self.may(task)).map(|&(at, _)| at).min();
        let up = self.phase == Phase::Up;
        let rekey = self.rekey_at.filter(|_| up);
        let reauth = self.reauth_at.filter(|_| up && self.heir_of.is_none());
        let children = self.children.iter().filter_map(|child| child.deadline()).filter(|_| up).min();
        let idle_up = idle && up && self.heir_of.is_none();
        let probe = informational::probe_at(&self.connection, core).filter(|_| idle_up);
        let keepalive = informational::keepalive_at(&self.connection, core);
        let awaited = self.awaited.deadline();
        [core.requests.deadline(), replaced, tasks, rekey, reauth, children, probe, keepalive, awaited]
            .into_iter()
            .flatten()
            .min()
    }

    /// Turns what has become due into tasks.
    fn schedule(&mut self, core: &Core, ctx: &mut Context<'_>) {
        self.expire_followups(ctx);
        if self.phase != Phase::Up {
            return;
        }
        if self.rekey_at.is_some_and(|at| at <= ctx.now) {
            self.rekey_at = None;
            self.tasks.push((ctx.now, Task::RekeyIke { group: None }));
        }
        if self.heir_of.is_none() && self.reauth_at.is_some_and(|at| at <= ctx.now) {
            self.renew(core, ctx);
        }
        let due = |at: Option<Instant>| at.is_some_and(|at| at <= ctx.now);
        for child in self.children.iter_mut() {
            if child.stage != Stage::Leaving && due(child.expires_at) {
                child.expires_at = None;
                let reason = DownReason::Expired;
                self.tasks.push((ctx.now, Task::DeleteChild { spi: child.spi_in, reason }));
            } else if child.stage == Stage::Up && due(child.rekey_at) {
                child.rekey_at = None;
                self.tasks.push((ctx.now, Task::RekeyChild { spi: child.spi_in, group: None }));
            }
        }
        let probe_due = informational::probe_at(&self.connection, core).is_some_and(|at| at <= ctx.now);
        if probe_due
            && self.heir_of.is_none()
            && core.requests.is_idle()
            && !self.tasks.iter().any(|&(at, _)| at <= ctx.now)
        {
            self.tasks.push((ctx.now, Task::Probe));
        }
    }

    /// Wants the IKE SA gone: our delete goes out before anything else.
    pub fn leave(&mut self, ctx: &mut Context<'_>, reason: DownReason) {
        if !matches!(self.phase, Phase::Leaving(_)) {
            self.phase = Phase::Leaving(reason);
            self.forget_all_followups(ctx);
            self.tasks.push((ctx.now, Task::DeleteIke));
        }
    }

    /// Starts the next task, if no exchange of ours is under way.
    pub fn advance(&mut self, core: &mut Core, ctx: &mut Context<'_>) {
        while core.requests.is_idle() && self.active.is_none() {
            let due =
                self.tasks.iter().enumerate().filter(|(_, (at, task))| *at <= ctx.now && self.may(task));
            let Some(index) = due.min_by_key(|(_, (at, _))| *at).map(|(index, _)| index) else { break };
            let (_, task) = self.tasks.remove(index);
            self.start(core, ctx, task);
        }
        self.finish_renewal(core, ctx);
    }

    /// The task can be started in this phase. Nothing is started on an IKE SA whose children are still on the one
    /// before: the peer may not know it yet.
    fn may(&self, task: &Task) -> bool {
        match self.phase {
            Phase::Up if self.heir_of.is_some() => false,
            // RFC 7296 s2.25.2: it would be refused, or not known to the new IKE SA.
            Phase::Up if self.awaited.rekeys_ike() => {
                matches!(task, Task::Probe | Task::UpdateAddresses | Task::VerifyPath | Task::TellAddresses)
            }
            Phase::Up => true,
            // Our answer is lost when the peer does not know where we went.
            Phase::Answered { .. } => {
                matches!(task, Task::UpdateAddresses | Task::VerifyPath | Task::TellAddresses)
            }
            Phase::Redundant { .. } => false,
            Phase::Leaving(_) => matches!(task, Task::DeleteIke),
        }
    }

    /// Packets may ask for Child SAs of a child that is up from the start: one is up, and the peer has narrowed it, or it
    /// makes them for packets alone. What an operator takes down stays down.
    pub fn lets_packets_ask(&self, config: &ChildConfig) -> bool {
        let is_up = |child: &Child| {
            child.config.name == config.name && child.stage != Stage::Leaving && !self.is_to_go(child.spi_in)
        };
        self.phase == Phase::Up && (self.single_pairs.has(config) || self.children.iter().any(is_up))
    }

    /// There is no such Child SA, and there may be one.
    fn lacks(&mut self, ctx: &mut Context<'_>, wanted: &Wanted) -> bool {
        let of_it: Vec<_> = self.children.iter().filter(|child| wanted.is_of(&child.config)).collect();
        if of_it.iter().any(|child| wanted.is_met_by(child)) {
            return false;
        }
        // A reauthenticated IKE SA carries what the one before carried; the bounds below are on what packets ask for.
        if matches!(wanted.traffic, super::Traffic::Same(_)) {
            return true;
        }
        if of_it.is_empty() {
            return true;
        }
        let in_use = of_it.iter().filter(|child| child.stage == Stage::Up).count();
        if self.left_out.forbids(ctx, wanted) {
            ctx.reject(Rejection::LeftOutAgain);
            return false;
        }
        let most = ctx.config.peers.narrowed;
        if in_use >= most {
            ctx.reject(Rejection::NarrowedLimit);
            if self.left_out.is_to_be_told(ctx) {
                warn!(
                    connection = %self.connection.name, child = %wanted.config.name, most,
                    "traffic waits in vain: the peer narrows this child, and has as many Child SAs of it as `ike.limits.narrowed` allows"
                );
            }
            return false;
        }
        true
    }

    fn start(&mut self, core: &mut Core, ctx: &mut Context<'_>, task: Task) {
        match task {
            Task::CreateChild { wanted, group } => {
                if !self.lacks(ctx, &wanted) {
                    return;
                }
                // The peer is making it.
                if let Some(until) = self.awaited.creation_until(&wanted.config.name) {
                    let at = until.max(ctx.now + RETRY_SOON);
                    return self.add_task(at, Task::CreateChild { wanted, group });
                }
                let wanted = self.single_pairs.shape(wanted);
                let is_further = self.children.iter().any(|child| wanted.is_of(&child.config));
                let mut request = Request::new(ctx, core, &self.connection, wanted, group);
                request.is_further = is_further;
                core.request(ctx, ExchangeType::CREATE_CHILD_SA, &request.payloads(None));
                self.active = Some(Active::CreateChild(Box::new(request)));
            }
            Task::RekeyChild { spi, group } => {
                // The peer is doing it.
                if let Some(until) = self.awaited.rekey_until(spi) {
                    let at = until.max(ctx.now + RETRY_SOON);
                    return self.add_task(at, Task::RekeyChild { spi, group });
                }
                let Some(old) = self.children.by_inbound(spi).filter(|old| old.stage == Stage::Up) else {
                    return;
                };
                let request = Request::rekey(ctx, old, group);
                core.request(ctx, ExchangeType::CREATE_CHILD_SA, &request.payloads(Some(spi)));
                self.active = Some(Active::RekeyChild { old: spi, request: Box::new(request), rival: None });
            }
            Task::DeleteChild { spi, reason } => {
                let Some(child) = self.children.by_inbound(spi) else { return };
                child.stage = Stage::Leaving;
                let delete = Delete::Child { protocol: child.protocol, spis: vec![spi] };
                core.request(ctx, ExchangeType::INFORMATIONAL, &[Payload::Delete(delete)]);
                self.active = Some(Active::DeleteChild { spi, reason });
            }
            Task::DeleteUnwanted { protocol, spi } => {
                let delete = Delete::Child { protocol, spis: vec![spi] };
                core.request(ctx, ExchangeType::INFORMATIONAL, &[Payload::Delete(delete)]);
                self.active = Some(Active::DeleteUnwanted { spi });
            }
            Task::RekeyIke { group } => self.start_rekey(core, ctx, group),
            Task::DeleteIke => {
                core.request(ctx, ExchangeType::INFORMATIONAL, &[Payload::Delete(Delete::Ike)]);
                self.active = Some(Active::DeleteIke);
            }
            Task::Probe => {
                core.request(ctx, ExchangeType::INFORMATIONAL, &self.probe_payloads(core));
                self.active = Some(Active::Probe);
            }
            Task::UpdateAddresses => self.start_update(core, ctx),
            Task::VerifyPath => self.start_verifying(core, ctx),
            Task::TellAddresses => self.start_telling(core, ctx),
        }
    }

    /// Answers a request. INVALID_SYNTAX ends the IKE SA at both ends (RFC 7296 s2.21.3).
    pub(super) fn answer(
        &mut self,
        core: &mut Core,
        ctx: &mut Context<'_>,
        exchange: ExchangeType,
        answer: Result<Vec<Payload<'static>>, Denied>,
    ) -> Next {
        let mut next = Next::Stay;
        let payloads = answer.unwrap_or_else(|Denied { rejection, notify }| {
            debug!(connection = %self.connection.name, %exchange, reason = rejection.name(), notify = %notify.kind, "refused");
            ctx.reject(rejection);
            if notify.kind == NotifyType::INVALID_SYNTAX {
                next = Next::Close(DownReason::Failed(format!("malformed {exchange}")));
            }
            vec![Payload::Notify(notify)]
        });
        core.respond(ctx, exchange, &payloads);
        next
    }

    /// The peer does not make the Child SA that we asked for. It may make one for a single pair of addresses: those of
    /// the packet that asks, or of the next one that will.
    pub fn ask_for_less_or_fail(&mut self, ctx: &mut Context<'_>, request: Request, settled: &Settled) {
        if !matches!(settled, Settled::Refused(NotifyType::SINGLE_PAIR_REQUIRED)) {
            self.try_later(ctx, &request, settled);
            return self.child_failed(ctx, request, settled);
        }
        self.single_pairs.add(&request.config);
        let asked = request.wanted();
        let wanted = self.single_pairs.shape(asked.clone());
        if wanted.traffic == asked.traffic {
            return self.child_failed(ctx, request, settled);
        }
        request.discard(ctx);
        self.add_task(ctx.now, Task::CreateChild { wanted, group: None });
    }

    /// A child that is to be up from the start is asked for again, as a connection is that the peer refused.
    fn try_later(&self, ctx: &mut Context<'_>, request: &Request, settled: &Settled) {
        let is_kept_up = self.connection.on_down == OnDown::Restart && request.config.start == Start::Boot;
        if !is_kept_up || request.is_further {
            return;
        }
        let soon = matches!(settled, Settled::Refused(NotifyType::TEMPORARY_FAILURE));
        let wait = if soon { RETRY_UNREACHABLE } else { RETRY_REFUSED };
        let after = wait + ctx.jitter(wait);
        let (connection, child) = (self.connection.clone(), Some(Wanted::all(&request.config)));
        ctx.out.commands.push(Command::Restart { connection, child, after });
    }

    /// Our request for a Child SA came to nothing.
    pub fn child_failed(&mut self, ctx: &mut Context<'_>, request: Request, settled: &Settled) {
        let reason = request.reason(settled);
        if request.is_further {
            // The child is up for other traffic.
            self.left_out.add(ctx, &request.wanted());
        }
        warn!(connection = %self.connection.name, child = %request.config.name, %reason, "Child SA failed");
        let (connection, child) = (self.connection.name.clone(), request.config.name.clone());
        if !request.is_further {
            ctx.out.events.push_back(Event::ChildFailed { connection, child, reason });
        }
        if let Settled::Unacceptable(_, Some(_)) = settled {
            let (protocol, spi) = (request.config.protocol, request.spi);
            self.tasks.push((ctx.now, Task::DeleteUnwanted { protocol, spi }));
        } else {
            request.discard(ctx);
        }
    }

    /// The path changed: so do the outer addresses of the tunnels.
    pub fn move_children(&mut self, core: &Core, ctx: &mut Context<'_>) {
        let endpoints = core.endpoints();
        for child in self.children.iter_mut() {
            if let Some(waiting) = &mut child.waiting {
                waiting.endpoints = endpoints;
            }
            if child.active && ctx.tunnels.owner(child.tunnel) == Some(core.spi) {
                ctx.out.updates.push_back(ChildUpdate::MovePeer(child.tunnel, endpoints));
            }
        }
    }

    /// Lost against our own rekey: the peer deletes it.
    pub fn expect_delete(&mut self, ctx: &mut Context<'_>) {
        self.quiet = true;
        self.heir_of = None;
        self.phase = Phase::Redundant { deadline: ctx.now + ctx.config.retransmit.total() };
    }

    /// The peer made this successor.
    pub fn is_succeeded_by(&self, spi: u64) -> bool {
        matches!(self.phase, Phase::Answered { successor, .. } if successor == spi)
    }

    /// All that goes over to a successor.
    pub fn estate(&mut self, core: &Core) -> Estate {
        let keep = |task: &Task| !matches!(task, Task::DeleteIke | Task::RekeyIke { .. } | Task::Probe);
        let tasks = std::mem::take(&mut self.tasks).into_iter().filter(|(_, task)| keep(task)).collect();
        Estate {
            connection: self.connection.clone(),
            children: std::mem::take(&mut self.children),
            tasks,
            leases: std::mem::take(&mut self.leases),
            single_pairs: std::mem::take(&mut self.single_pairs),
            from: core.spi,
            endpoints: core.endpoints(),
            whereabouts: core.whereabouts(),
        }
    }

    /// Takes over.
    pub fn inherit(&mut self, core: &mut Core, ctx: &mut Context<'_>, mut estate: Estate) {
        for child in estate.children.iter() {
            ctx.tunnels.hand_over(child.tunnel, estate.from, core.spi);
        }
        self.children.append(&mut estate.children);
        self.tasks.append(&mut estate.tasks);
        self.leases.append(&mut estate.leases);
        self.single_pairs = estate.single_pairs;
        // Once it is in use itself, it knows better where the peer is.
        if self.heir_of.take() == Some(estate.from) {
            self.resume_move(core, ctx, estate.whereabouts);
        }
        // The peer moved meanwhile.
        if estate.endpoints != core.endpoints() {
            self.move_children(core, ctx);
        }
    }

    /// The IKE SA is gone: so are its children.
    pub fn drop_children(&mut self, ctx: &mut Context<'_>, reason: &DownReason) {
        self.withdraw(ctx);
        self.forget_all_followups(ctx);
        for (_, task) in self.tasks.drain(..) {
            if let Task::DeleteUnwanted { spi, .. } = task {
                ctx.spis.release(spi);
            }
        }
        let connection = self.connection.clone();
        self.children.clear(ctx, &connection, reason);
        self.leases.drain(..).for_each(|lease| ctx.pools.give_back(&lease));
    }

    /// The peer closes this IKE SA, maybe since it has authenticated anew: what we want on it is wanted on the new one.
    fn ask_elsewhere(&self, ctx: &mut Context<'_>) {
        let mut children: Vec<_> =
            self.tasks.iter().filter_map(|(_, task)| task.creates()).cloned().collect();
        if let Some(Active::CreateChild(request)) = &self.active {
            children.push(request.wanted());
        }
        if !children.is_empty() {
            let connection = self.connection.clone();
            ctx.out.commands.push(Command::CreateElsewhere { connection, children });
        }
    }

    /// Nothing comes of our exchange in progress: its SPI is free again.
    fn withdraw(&mut self, ctx: &mut Context<'_>) {
        match self.active.take() {
            Some(Active::CreateChild(request) | Active::RekeyChild { request, .. }) => request.discard(ctx),
            Some(Active::DeleteUnwanted { spi }) => ctx.spis.release(spi),
            _ => {}
        }
    }

    fn leaving_reason(&self) -> DownReason {
        match &self.phase {
            Phase::Leaving(reason) => reason.clone(),
            _ => DownReason::Terminated,
        }
    }

    fn step(mut self: Box<Self>, core: &mut Core, ctx: &mut Context<'_>, next: Next) -> State {
        let Next::Close(reason) = next else {
            self.advance(core, ctx);
            return State::Established(self);
        };
        if let Phase::Answered { successor, .. } = self.phase {
            let estate = Box::new(self.estate(core));
            ctx.out.commands.push(Command::Handover { from: core.spi, to: successor, estate });
            self.quiet = true;
        }
        if reason == DownReason::PeerDeleted {
            self.ask_elsewhere(ctx);
        }
        self.drop_children(ctx, &reason);
        if core.renews {
            ctx.out.commands.push(Command::NotRenewed(core.spi));
        }
        core.requests.abandon();
        if !self.quiet {
            let connection = self.connection.name.clone();
            info!(%connection, ike = core.spi, %reason, "IKE SA closed");
            ctx.out.events.push_back(Event::IkeDown { connection: Some(connection), ike: core.spi, reason });
        }
        State::closed(ctx)
    }
}
