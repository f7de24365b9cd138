//! MOBIKE: an IKE SA and its tunnels move to other addresses (RFC 4555).
//!
//! The initiator of the first IKE SA decides which addresses are used. When its own change, or a peer that does not
//! answer may be reached by another way, it goes over with its IKE messages at once and with its tunnels when the
//! responder has agreed. The responder follows with its tunnels after a return routability check, so that nobody can
//! have it flood an address that is not the peer's; a NAT that changed the port alone needs none.
//!
//! With MOBIKE no IKE packet moves anything by itself (RFC 4555 s3.8): where the peer's NAT got a new mapping, an
//! ESP packet shows it, or the peer notices when it asks for signs of life.

use std::net::{IpAddr, SocketAddr};

use dataplane::sa::Mode;
use tracing::{debug, info, warn};

use super::child::Stage;
use super::core::{Core, NAT_PORT, Nat, Path};
use super::established::{Active, Established, Phase, Task};
use super::init::{detect_nat, find_notify, nat_notifies, notifies};
use super::{Context, State};
use crate::config::{Connection, RemoteAddress};
use crate::rejection::Rejection;
use crate::update::DownReason;
use crate::wire::{ExchangeType, Notify, NotifyType, Payload, ProtocolId};

/// A request is repeated so often before other ways are tried.
const LOYALTY: u32 = 3;

/// Both ends do MOBIKE.
#[derive(Clone, Debug, Default)]
pub(crate) struct Mobike {
    /// We are the initiator of the first IKE SA of the series, who decides (RFC 4555 s1.2).
    pub initiator: bool,
    /// More addresses of the peer.
    pub others: Vec<IpAddr>,
    /// Where the peer last saw us, as the hash that it sends: our NAT's mapping.
    mapping: Option<Vec<u8>>,
}

/// Where MOBIKE has brought an IKE SA, and its tunnels.
pub(crate) struct Whereabouts {
    path: Path,
    nat: Nat,
    carried: Option<(Path, Nat)>,
    mobike: Mobike,
}

impl Mobike {
    /// From the peer's message of IKE_AUTH with SA payload: `None` without MOBIKE.
    pub fn of(
        connection: &Connection,
        core: &Core,
        ctx: &mut Context<'_>,
        payloads: &[Payload<'_>],
    ) -> Option<Self> {
        find_notify(payloads, NotifyType::MOBIKE_SUPPORTED).filter(|_| connection.mobike)?;
        let others = told(ctx, payloads).unwrap_or_default();
        Some(Self { initiator: core.initiator, others, mapping: None })
    }
}

/// What we say in IKE_AUTH.
pub(super) fn announcement(connection: &Connection, core: &Core, ctx: &Context<'_>) -> Vec<Payload<'static>> {
    if !connection.mobike {
        return Vec::new();
    }
    let mut payloads = vec![Payload::Notify(Notify::bare(NotifyType::MOBIKE_SUPPORTED))];
    let others = others(connection, core, ctx.addresses);
    payloads.extend(others.into_iter().map(additional));
    if core.initiator {
        payloads.extend(no_nats(connection, &core.path));
    }
    payloads
}

/// The peer forbids NATs and there is one: the addresses in its message are not those that it came by.
pub(super) fn unexpected_nat(core: &Core, payloads: &[Payload<'_>]) -> bool {
    find_notify(payloads, NotifyType::NO_NATS_ALLOWED)
        .is_some_and(|notify| *notify.data != *path_data(core.reply.remote, core.reply.local))
}

/// NATs are forbidden where there is AH, which covers the addresses (RFC 4555 s3.9).
fn no_nats(connection: &Connection, path: &Path) -> Option<Payload<'static>> {
    let ah = connection.children.iter().any(|child| child.protocol == ProtocolId::AH);
    let data = || path_data(path.local, path.remote);
    ah.then(|| Payload::Notify(Notify::new(NotifyType::NO_NATS_ALLOWED, data())))
}

/// Data of NO_NATS_ALLOWED: addresses and ports, source first (RFC 4555 s4.2.6).
fn path_data(source: SocketAddr, destination: SocketAddr) -> Vec<u8> {
    let mut data = Vec::with_capacity(36);
    for end in [source, destination] {
        match end.ip() {
            IpAddr::V4(v4) => data.extend_from_slice(&v4.octets()),
            IpAddr::V6(v6) => data.extend_from_slice(&v6.octets()),
        }
    }
    data.extend_from_slice(&source.port().to_be_bytes());
    data.extend_from_slice(&destination.port().to_be_bytes());
    data
}

fn additional(address: IpAddr) -> Payload<'static> {
    Payload::Notify(match address {
        IpAddr::V4(v4) => Notify::new(NotifyType::ADDITIONAL_IP4_ADDRESS, v4.octets().to_vec()),
        IpAddr::V6(v6) => Notify::new(NotifyType::ADDITIONAL_IP6_ADDRESS, v6.octets().to_vec()),
    })
}

/// The peer's list of other addresses; `None` when the message has none.
fn told(ctx: &mut Context<'_>, payloads: &[Payload<'_>]) -> Option<Vec<IpAddr>> {
    let mut found = find_notify(payloads, NotifyType::NO_ADDITIONAL_ADDRESSES).is_some();
    let mut addresses = Vec::new();
    for notify in notifies(payloads) {
        let address = match notify.kind {
            NotifyType::ADDITIONAL_IP4_ADDRESS => <[u8; 4]>::try_from(&*notify.data).ok().map(IpAddr::from),
            NotifyType::ADDITIONAL_IP6_ADDRESS => <[u8; 16]>::try_from(&*notify.data).ok().map(IpAddr::from),
            _ => None,
        };
        found |= address.is_some();
        addresses.extend(address);
    }
    if addresses.len() > ctx.config.peers.addresses {
        addresses.truncate(ctx.config.peers.addresses);
        ctx.reject(Rejection::AddressLimit);
    }
    found.then_some(addresses)
}

/// Our addresses that the connection may use, of those that we have.
pub(crate) fn usable(connection: &Connection, ours: Option<&[IpAddr]>) -> Vec<IpAddr> {
    let configured = &connection.local_addresses;
    match ours {
        None => configured.clone(),
        Some(ours) if configured.is_empty() => ours.to_vec(),
        Some(ours) => configured.iter().filter(|address| ours.contains(address)).copied().collect(),
    }
}

/// What we tell the peer of. Where the configuration names no addresses, nobody said that the peer can reach the others
/// that we have, or what they tell of our network is any of its business.
fn others(connection: &Connection, core: &Core, ours: Option<&[IpAddr]>) -> Vec<IpAddr> {
    if connection.local_addresses.is_empty() {
        return Vec::new();
    }
    let mut addresses = usable(connection, ours);
    addresses.retain(|&address| address != core.path.local.ip());
    addresses
}

/// All ways to the peer, the ones to its present address first.
fn ways(connection: &Connection, core: &Core, ours: Option<&[IpAddr]>) -> Vec<Path> {
    let mut theirs = vec![core.path.remote.ip()];
    if let RemoteAddress::Addresses(configured) = &connection.remote {
        theirs.extend_from_slice(configured);
    }
    theirs.extend(core.mobike.iter().flat_map(|mobike| mobike.others.iter().copied()));
    let mut ways = Vec::new();
    for remote in theirs {
        for local in usable(connection, ours) {
            // The mapping of a NAT holds for the present address alone.
            let port = if remote == core.path.remote.ip() { core.path.remote.port() } else { NAT_PORT };
            let way = Path { local: SocketAddr::new(local, NAT_PORT), remote: SocketAddr::new(remote, port) };
            if local.is_ipv4() == remote.is_ipv4() && !ways.contains(&way) {
                ways.push(way);
            }
        }
    }
    ways
}

impl Core {
    /// IKE messages go another way from now on. The tunnels stay until that is agreed on.
    fn go(&mut self, ctx: &Context<'_>, path: Path) {
        if self.path != path {
            info!(ike = self.spi, from = %self.path.local, to = %path.local, remote = %path.remote, "trying another path");
            self.carried.get_or_insert((self.path, self.nat));
            let before = self.path.remote.ip();
            self.path = path;
            // The way back stays known.
            if let Some(mobike) = &mut self.mobike
                && before != path.remote.ip()
                && !mobike.others.contains(&before)
                && mobike.others.len() < ctx.config.peers.addresses
            {
                mobike.others.push(before);
            }
        }
    }

    /// With MOBIKE, where it is.
    pub fn whereabouts(&self) -> Option<Whereabouts> {
        let Self { path, nat, carried, .. } = *self;
        self.mobike.clone().map(|mobike| Whereabouts { path, nat, carried, mobike })
    }

    fn initiates_moves(&self) -> bool {
        self.mobike.as_ref().is_some_and(|mobike| mobike.initiator)
    }
}

impl Established {
    /// The addresses of this gateway changed; they were these before.
    pub fn addresses_changed(&mut self, core: &mut Core, ctx: &mut Context<'_>, before: Option<&[IpAddr]>) {
        if core.mobike.is_none() || matches!(self.phase, Phase::Redundant { .. } | Phase::Leaving(_)) {
            return;
        }
        let (was, now) = (usable(&self.connection, before), usable(&self.connection, ctx.addresses));
        let (ours, theirs) = (core.path.local.ip(), core.path.remote.ip());
        // They are in the order of preference. One that was there all the while may be of no use beyond its link.
        let better = now.iter().take_while(|&&address| address != ours);
        let mut back =
            better.filter(|address| address.is_ipv4() == theirs.is_ipv4() && !was.contains(address));
        let stays = now.contains(&ours) && !(core.initiates_moves() && back.next().is_some());
        let told = |addresses| others(&self.connection, core, addresses);
        if stays && told(before) == told(ctx.addresses) {
            return;
        }
        if !stays {
            let Some(&way) = ways(&self.connection, core, ctx.addresses).first() else {
                warn!(connection = %self.connection.name, "no address is left to reach the peer from");
                return;
            };
            core.go(ctx, way);
            // What is outstanding is repeated from the new address (RFC 4555 s3.5).
            let outstanding = core.requests.packets().to_vec();
            core.transmit(ctx, &outstanding);
        }
        if stays || !core.initiates_moves() {
            self.add_once(ctx, Task::TellAddresses);
        } else {
            self.add_once(ctx, Task::UpdateAddresses);
        }
        self.advance(core, ctx);
    }

    /// The IKE SA before has moved since this one was made, which did nothing of its own yet. What is not agreed on or
    /// checked yet is so here.
    pub fn resume_move(&mut self, core: &mut Core, ctx: &Context<'_>, before: Option<Whereabouts>) {
        let Some(Whereabouts { path, nat, carried, mobike }) = before else { return };
        (core.path, core.nat, core.carried, core.mobike) = (path, nat, carried, Some(mobike));
        if core.carried.is_some() {
            let ours = core.initiates_moves();
            self.add_once(ctx, if ours { Task::UpdateAddresses } else { Task::VerifyPath });
        }
    }

    /// A request goes unanswered for long: the initiator tries the other ways in turn.
    pub fn try_another_way(&self, core: &mut Core, ctx: &Context<'_>) {
        let tries = core.requests.repeated();
        if !core.initiates_moves() || tries < LOYALTY {
            return;
        }
        let ways = ways(&self.connection, core, ctx.addresses);
        if ways.len() > 1
            && let Some(&way) = ways.get((tries - LOYALTY) as usize % ways.len())
        {
            core.go(ctx, way);
        }
    }

    /// An answer came: if it was another way that brought it, that is to be agreed on.
    pub fn check_path(&mut self, core: &mut Core, ctx: &Context<'_>) {
        if !core.initiates_moves() {
            return;
        }
        match core.carried {
            Some((before, _)) if before == core.path => core.carried = None,
            Some(_) => self.add_once(ctx, Task::UpdateAddresses),
            None => {}
        }
    }

    fn add_once(&mut self, ctx: &Context<'_>, task: Task) {
        let same = |one: &Task| std::mem::discriminant(one) == std::mem::discriminant(&task);
        if !self.tasks.iter().any(|(_, one)| same(one)) {
            self.add_task(ctx.now, task);
        }
    }

    /// Asks the responder to follow (RFC 4555 s3.5).
    pub fn start_update(&mut self, core: &mut Core, ctx: &mut Context<'_>) {
        let mut payloads = vec![Payload::Notify(Notify::bare(NotifyType::UPDATE_SA_ADDRESSES))];
        payloads.extend(nat_notifies(&core.path, core.spis(), self.connection.force_encapsulation));
        payloads.extend(no_nats(&self.connection, &core.path));
        core.request(ctx, ExchangeType::INFORMATIONAL, &payloads);
        self.active = Some(Active::UpdateAddresses { path: core.path });
    }

    /// The responder agrees, or not.
    pub fn update_response(
        &mut self,
        core: &mut Core,
        ctx: &mut Context<'_>,
        path: Path,
        payloads: &[Payload<'_>],
    ) {
        if core.path != path {
            // The addresses changed again, so what was agreed on is out of date.
            return self.add_once(ctx, Task::UpdateAddresses);
        }
        let refusals = [NotifyType::UNACCEPTABLE_ADDRESSES, NotifyType::UNEXPECTED_NAT_DETECTED];
        if let Some(refusal) = notifies(payloads).find(|notify| refusals.contains(&notify.kind)) {
            warn!(connection = %self.connection.name, local = %path.local, remote = %path.remote, reason = %refusal.kind,
                "peer refuses the new path");
            let ways = ways(&self.connection, core, ctx.addresses);
            let next = ways.iter().position(|way| *way == path).and_then(|at| ways.get(at + 1));
            match next {
                Some(&way) => {
                    core.go(ctx, way);
                    self.add_once(ctx, Task::UpdateAddresses);
                }
                None => self.leave(ctx, DownReason::Rejected(refusal.kind)),
            }
            return;
        }
        core.nat = detect_nat(&core.path, core.spis(), payloads, self.connection.force_encapsulation);
        self.remember_mapping(core, payloads);
        info!(connection = %self.connection.name, local = %path.local, remote = %path.remote, "moved");
        self.arrive(core, ctx);
    }

    /// The tunnels follow.
    fn arrive(&mut self, core: &mut Core, ctx: &mut Context<'_>) {
        let from = core.carried.take().map_or(core.path, |(before, _)| before);
        self.move_children(core, ctx);
        let moved = (from.local.ip(), from.remote.ip()) != (core.path.local.ip(), core.path.remote.ip());
        // Transport mode is between the addresses themselves: it cannot move (RFC 4555 s1.2).
        let bound = self
            .children
            .iter()
            .filter(|child| moved && child.config.mode == Mode::Transport && child.stage == Stage::Up);
        for spi in bound.map(|child| child.spi_in).collect::<Vec<_>>() {
            let reason = DownReason::Failed("its addresses changed, and it is in transport mode".into());
            self.add_task(ctx.now, Task::DeleteChild { spi, reason });
        }
    }

    fn remember_mapping(&self, core: &mut Core, payloads: &[Payload<'_>]) {
        if let (Some(mobike), Some(seen)) =
            (&mut core.mobike, find_notify(payloads, NotifyType::NAT_DETECTION_DESTINATION_IP))
        {
            mobike.mapping = Some(seen.data.to_vec());
        }
    }

    /// What goes into a request for a sign of life: behind a NAT the answer shows whether its mapping is still the
    /// one that the responder knows (RFC 4555 s3.8).
    pub fn probe_payloads(&self, core: &Core) -> Vec<Payload<'static>> {
        if core.initiates_moves() && core.nat.local {
            nat_notifies(&core.path, core.spis(), self.connection.force_encapsulation).into()
        } else {
            Vec::new()
        }
    }

    /// The answer to that.
    pub fn probe_response(&mut self, core: &mut Core, ctx: &Context<'_>, payloads: &[Payload<'_>]) {
        let seen = find_notify(payloads, NotifyType::NAT_DETECTION_DESTINATION_IP);
        let Some((mobike, seen)) = core.mobike.as_ref().zip(seen).filter(|(mobike, _)| mobike.initiator)
        else {
            return;
        };
        if mobike.mapping.as_deref() != Some(&*seen.data) {
            debug!(connection = %self.connection.name, "our NAT has another mapping");
            self.add_once(ctx, Task::UpdateAddresses);
        }
    }

    /// Tells the peer our other addresses (RFC 4555 s3.6).
    pub fn start_telling(&mut self, core: &mut Core, ctx: &mut Context<'_>) {
        let mut payloads: Vec<_> =
            others(&self.connection, core, ctx.addresses).into_iter().map(additional).collect();
        if payloads.is_empty() {
            payloads.push(Payload::Notify(Notify::bare(NotifyType::NO_ADDITIONAL_ADDRESSES)));
        }
        core.request(ctx, ExchangeType::INFORMATIONAL, &payloads);
        self.active = Some(Active::TellAddresses);
    }

    /// Return routability: is the peer where it says (RFC 4555 s3.7)?
    pub fn start_verifying(&mut self, core: &mut Core, ctx: &mut Context<'_>) {
        let cookie: [u8; 16] = ctx.random();
        let notify = Payload::Notify(Notify::new(NotifyType::COOKIE2, cookie.to_vec()));
        core.request(ctx, ExchangeType::INFORMATIONAL, &[notify]);
        self.active = Some(Active::VerifyPath { cookie, path: core.path });
    }

    /// The answer to that.
    pub fn verify_response(
        &mut self,
        core: &mut Core,
        ctx: &mut Context<'_>,
        cookie: &[u8],
        path: Path,
        payloads: &[Payload<'_>],
    ) {
        let right = find_notify(payloads, NotifyType::COOKIE2).is_some_and(|notify| *notify.data == *cookie);
        if !right {
            // RFC 4555 s3.7: only somebody who did not get the request can have another cookie.
            ctx.reject(Rejection::Cookie);
            return self.leave(
                ctx,
                DownReason::Failed("the cookie of the return routability check is wrong".into()),
            );
        }
        if core.path != path {
            return self.add_once(ctx, Task::VerifyPath);
        }
        info!(connection = %self.connection.name, remote = %path.remote, "peer moved");
        self.arrive(core, ctx);
    }

    /// The part of an INFORMATIONAL request that is MOBIKE's, and the answer to it.
    pub fn mobike_request(
        &mut self,
        core: &mut Core,
        ctx: &mut Context<'_>,
        payloads: &[Payload<'_>],
    ) -> Vec<Payload<'static>> {
        let mut answer = Vec::new();
        let Some(mobike) = &mut core.mobike else { return answer };
        if let Some(told) = told(ctx, payloads) {
            mobike.others = told;
            // The responder speaks from another address: the one before is gone.
            if mobike.initiator && core.reply.remote.ip() != core.path.remote.ip() {
                core.go(ctx, core.reply);
                self.add_once(ctx, Task::UpdateAddresses);
            }
        }
        if let Some(cookie) = find_notify(payloads, NotifyType::COOKIE2) {
            answer.push(Payload::Notify(Notify::new(NotifyType::COOKIE2, cookie.data.to_vec())));
        }
        let update = find_notify(payloads, NotifyType::UPDATE_SA_ADDRESSES).is_some();
        if update
            && !core.initiates_moves()
            && let Err(refusal) = self.follow(core, ctx, payloads)
        {
            ctx.reject(Rejection::Addresses);
            answer.push(Payload::Notify(Notify::bare(refusal)));
            return answer;
        }
        if find_notify(payloads, NotifyType::NAT_DETECTION_SOURCE_IP).is_some() {
            answer.extend(nat_notifies(&core.reply, core.spis(), self.connection.force_encapsulation));
        }
        answer
    }

    /// The peer wants its tunnels where this request came from.
    fn follow(
        &mut self,
        core: &mut Core,
        ctx: &mut Context<'_>,
        payloads: &[Payload<'_>],
    ) -> Result<(), NotifyType> {
        let (path, connection) = (core.reply, self.connection.clone());
        if unexpected_nat(core, payloads) {
            info!(connection = %connection.name, remote = %path.remote, "peer forbids NATs, and there is one");
            return Err(NotifyType::UNEXPECTED_NAT_DETECTED);
        }
        let ours = &connection.local_addresses;
        if !connection.remote.allows(path.remote.ip())
            || !(ours.is_empty() || ours.contains(&path.local.ip()))
        {
            info!(connection = %connection.name, local = %path.local, remote = %path.remote,
                "peer wants to move to addresses that the connection does not have");
            return Err(NotifyType::UNACCEPTABLE_ADDRESSES);
        }
        let before = (core.path, core.nat);
        core.path = path;
        core.nat = detect_nat(&path, core.spis(), payloads, connection.force_encapsulation);
        if core.carried.unwrap_or(before).0.remote.ip() == path.remote.ip() {
            self.arrive(core, ctx);
        } else {
            debug!(connection = %connection.name, remote = %path.remote, "peer moves; checking that it is there");
            core.carried.get_or_insert(before);
            self.add_once(ctx, Task::VerifyPath);
        }
        Ok(())
    }
}

impl super::IkeSa {
    /// The addresses of this gateway changed; they were these before.
    pub fn addresses_changed(&mut self, ctx: &mut Context<'_>, before: Option<&[IpAddr]>) {
        if let State::Established(established) = &mut self.state {
            established.addresses_changed(&mut self.core, ctx, before);
        }
    }
}
