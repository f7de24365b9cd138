//! A Child SA that we ask for, in IKE_AUTH or CREATE_CHILD_SA (RFC 7296 s1.2, s1.3.1, s1.3.3).

use std::borrow::Cow;
use std::sync::Arc;

use dataplane::sa::{Mode, TunnelId};
use tracing::debug;

use super::super::Context;
use super::super::core::Core;
use super::super::followup::{Chain, Progress};
use super::super::init::{NONCE_LEN, find_notify, notifies};
use super::{Child, Pair, Terms, Traffic, Wanted};
use crate::config::{ChildConfig, Connection};
use crate::crypto::{Group, KeyExchange};
use crate::proposal::{self, Proposal};
use crate::rejection::Rejection;
use crate::selector;
use crate::update::DownReason;
use crate::wire::{self, KeId, Notify, NotifyType, Payload, ProposalSpi, ProtocolId, TrafficSelector};

/// Our request for a Child SA.
pub(crate) struct Request {
    pub config: Arc<ChildConfig>,
    pub traffic: Traffic,
    /// There are Child SAs of this child already: another one has to carry the packet that asks for it.
    pub is_further: bool,
    /// Our SPI for it.
    pub spi: u32,
    tunnel: Option<TunnelId>,
    proposals: Vec<Proposal>,
    local: Vec<TrafficSelector>,
    remote: Vec<TrafficSelector>,
    pub nonce: Vec<u8>,
    key_exchange: Option<KeyExchange>,
    /// SPIs of the peer that it deleted while we wait, and that we do not know.
    deleted: Vec<u32>,
    /// The peer agreed, and additional key exchanges are under way.
    agreed: Option<Box<Agreed>>,
}

/// What the peer agreed to, and the additional key exchanges that it takes (RFC 9370 s2.2.4).
struct Agreed {
    terms: Terms,
    chain: Chain,
}

/// Unknown SPIs that are remembered. The peer can have made only one for us, so this is ample.
const MAX_DELETED: usize = 16;

/// What became of a request.
pub(crate) enum Settled {
    /// A Child SA. Also the lower nonce of the exchange, which decides collisions.
    Made(Box<Pair>, Vec<u8>),
    /// The peer agreed; an additional key exchange comes next.
    More,
    /// The peer wants another key exchange method.
    OtherMethod(Group),
    /// The peer refused it.
    Refused(NotifyType),
    /// The peer accepted it on terms that we do not accept, so the peer has a Child SA with this SPI.
    Unacceptable(String, Option<u32>),
}

impl Request {
    /// A request for IKE_AUTH: no nonce and no key exchange of its own (RFC 7296 s1.2).
    pub fn first(ctx: &mut Context<'_>, core: &Core, connection: &Connection, wanted: Wanted) -> Self {
        let (local, remote) = wanted.selectors(core, connection);
        let Wanted { config, traffic } = wanted;
        let proposals = config.proposals.iter().map(Proposal::without_key_exchange).collect();
        Self {
            traffic,
            is_further: false,
            spi: ctx.spis.allocate(ctx.rng),
            tunnel: None,
            proposals,
            local,
            remote,
            nonce: Vec::new(),
            key_exchange: None,
            deleted: Vec::new(),
            agreed: None,
            config,
        }
    }

    /// A request for CREATE_CHILD_SA. `group` is the key exchange method that the peer asked for.
    pub fn new(
        ctx: &mut Context<'_>,
        core: &Core,
        connection: &Connection,
        wanted: Wanted,
        group: Option<Group>,
    ) -> Self {
        let proposals = wanted.config.proposals.clone();
        let mut request = Self { proposals, ..Self::first(ctx, core, connection, wanted) };
        request.freshen(ctx, group);
        request
    }

    /// A request to rekey `old`: the same selectors again (RFC 7296 s2.9.2), wider ones where the configuration
    /// allows them are not asked for.
    pub fn rekey(ctx: &mut Context<'_>, old: &Child, group: Option<Group>) -> Self {
        let mut request = Self {
            traffic: Wanted::again(old).traffic,
            is_further: false,
            spi: ctx.spis.allocate(ctx.rng),
            tunnel: Some(old.tunnel),
            proposals: old.config.proposals.clone(),
            local: old.local.clone(),
            remote: old.remote.clone(),
            nonce: Vec::new(),
            key_exchange: None,
            deleted: Vec::new(),
            agreed: None,
            config: old.config.clone(),
        };
        request.freshen(ctx, group);
        request
    }

    fn freshen(&mut self, ctx: &mut Context<'_>, group: Option<Group>) {
        self.nonce = ctx.random::<NONCE_LEN>().to_vec();
        let first = self.proposals.iter().flat_map(Proposal::key_exchanges).next();
        let group = group.or_else(|| first.and_then(|id| Group::from_iana(id.0)));
        // Without a value for the method in the proposals the peer asks for one (INVALID_KE_PAYLOAD).
        self.key_exchange = group.and_then(|group| KeyExchange::generate(group).ok());
    }

    /// The payloads of the request. `rekeyed` is the inbound SPI of the SA to replace.
    pub fn payloads(&self, rekeyed: Option<u32>) -> Vec<Payload<'static>> {
        let mut payloads = Vec::with_capacity(8);
        if let Some(spi) = rekeyed {
            payloads.push(Payload::Notify(Notify::about_child(
                NotifyType::REKEY_SA,
                self.config.protocol,
                spi,
            )));
        }
        if self.config.mode == Mode::Transport {
            payloads.push(Payload::Notify(Notify::bare(NotifyType::USE_TRANSPORT_MODE)));
        }
        payloads.push(Payload::Sa(proposal::offer(&self.proposals, ProposalSpi::Child(self.spi))));
        if !self.nonce.is_empty() {
            payloads.push(Payload::Nonce(Cow::Owned(self.nonce.clone())));
        }
        if let Some(key_exchange) = &self.key_exchange {
            let method = KeId(key_exchange.group().iana());
            let data = Cow::Owned(key_exchange.public().to_vec());
            payloads.push(Payload::Ke(wire::KeyExchange { method, data }));
        }
        payloads.push(Payload::TsI(self.local.clone()));
        payloads.push(Payload::TsR(self.remote.clone()));
        payloads
    }

    /// The payloads of the next additional key exchange.
    pub fn followup(&self) -> Option<[Payload<'static>; 2]> {
        self.agreed.as_ref().map(|agreed| agreed.chain.payloads())
    }

    /// The lower nonce of the exchange, when the peer agreed to it and additional key exchanges are under way.
    pub fn lowest(&self) -> Option<&[u8]> {
        self.agreed.as_ref().map(|agreed| agreed.terms.lowest())
    }

    /// Judges the response. `ni` and `nr` are the nonces of IKE_SA_INIT for a Child SA of IKE_AUTH; otherwise
    /// they come from the exchange itself.
    pub fn settle(
        &mut self,
        ctx: &mut Context<'_>,
        core: &Core,
        connection: &Connection,
        payloads: &[Payload<'_>],
        nonces: Option<(&[u8], &[u8])>,
    ) -> Settled {
        if let Some(agreed) = self.agreed.take() {
            return self.proceed(ctx, core, connection, *agreed, payloads);
        }
        let response = match Response::read(payloads) {
            Ok(response) => response,
            Err(settled) => return self.check_method(settled),
        };
        let name = self.config.name.clone();
        let unacceptable = |rejection, why: String, ctx: &mut Context<'_>| {
            debug!(child = %name, %why, "response not accepted");
            ctx.reject(rejection);
            Settled::Unacceptable(why, response.spi())
        };
        let chosen = match proposal::verify(&self.proposals, response.sa) {
            Ok(chosen) => chosen,
            Err(error) => return unacceptable(Rejection::NoProposal, error.to_string(), ctx),
        };
        let Some(spi_out) = response.spi() else {
            return unacceptable(Rejection::Syntax, "proposal without SPI".into(), ctx);
        };
        if !selector::is_subset(response.local, &self.local)
            || !selector::is_subset(response.remote, &self.remote)
        {
            let why = format!(
                "selectors are not a subset of ours: {} === {}, expected within {} === {}",
                selector::display(response.local),
                selector::display(response.remote),
                selector::display(&self.local),
                selector::display(&self.remote)
            );
            return unacceptable(Rejection::Selectors, why, ctx);
        }
        // What the peer narrows it to has to bring something new.
        if self.is_further
            && let Some(packet) = self.wanted().packet()
            && packet.within(response.local, response.remote).is_none()
        {
            let why = format!(
                "the peer leaves out {} to {}: its selectors are {} === {}",
                packet.source,
                packet.destination,
                selector::display(response.local),
                selector::display(response.remote)
            );
            return unacceptable(Rejection::LeftOut, why, ctx);
        }
        let own = nonces.is_none();
        let (ni, nr) = match (nonces, response.nonce) {
            (Some(nonces), _) => nonces,
            (None, Some(nr)) => (self.nonce.as_slice(), nr),
            (None, None) => return unacceptable(Rejection::Syntax, "no nonce".into(), ctx),
        };
        let shared = match self.agree(chosen.ke().filter(|_| own), response.ke) {
            Ok(shared) => shared,
            Err(why) => return unacceptable(Rejection::KeyExchange, why, ctx),
        };
        let transport = find_notify(payloads, NotifyType::USE_TRANSPORT_MODE).is_some();
        let mode =
            if transport && self.config.mode == Mode::Transport { Mode::Transport } else { Mode::Tunnel };
        if mode != self.config.mode {
            return unacceptable(
                Rejection::Syntax,
                "peer wants tunnel mode, expected transport mode".into(),
                ctx,
            );
        }
        let methods = if own { chosen.additional() } else { Vec::new() };
        let terms = Terms {
            config: self.config.clone(),
            tunnel: self.tunnel,
            chosen,
            spi_in: self.spi,
            spi_out,
            mode,
            local: selector::minimal(response.local),
            remote: selector::minimal(response.remote),
            initiated: true,
            shared,
            additional: Vec::new(),
            ni: ni.to_vec(),
            nr: nr.to_vec(),
        };
        if let Err((rejection, why)) = terms.check(ctx) {
            return unacceptable(rejection, why, ctx);
        }
        if methods.is_empty() {
            return self.make(ctx, core, connection, terms);
        }
        match Chain::start(methods, payloads) {
            Ok(chain) => {
                self.agreed = Some(Box::new(Agreed { terms, chain }));
                Settled::More
            }
            Err(why) => unacceptable(Rejection::KeyExchange, why, ctx),
        }
    }

    /// Judges the response of an additional key exchange.
    fn proceed(
        &mut self,
        ctx: &mut Context<'_>,
        core: &Core,
        connection: &Connection,
        agreed: Agreed,
        payloads: &[Payload<'_>],
    ) -> Settled {
        let Agreed { mut terms, chain } = agreed;
        match chain.proceed(payloads) {
            Progress::Next(chain) => {
                self.agreed = Some(Box::new(Agreed { terms, chain }));
                Settled::More
            }
            Progress::Done(secrets) => {
                terms.additional = secrets;
                // The SA that it was to replace may be gone.
                terms.tunnel = self.tunnel;
                self.make(ctx, core, connection, terms)
            }
            Progress::Refused(kind) => Settled::Refused(kind),
            Progress::Broken(why) => {
                debug!(child = %self.config.name, %why, "response not accepted");
                ctx.reject(Rejection::KeyExchange);
                Settled::Unacceptable(why, Some(terms.spi_out))
            }
        }
    }

    fn make(&self, ctx: &mut Context<'_>, core: &Core, connection: &Connection, terms: Terms) -> Settled {
        let (spi_out, lowest) = (terms.spi_out, terms.lowest().to_vec());
        match terms.settle(ctx, core, connection) {
            Ok(pair) => Settled::Made(pair, lowest),
            Err(why) => {
                debug!(child = %self.config.name, %why, "no Child SA");
                ctx.reject(Rejection::Selectors);
                Settled::Unacceptable(why, Some(spi_out))
            }
        }
    }

    /// The peer deletes a Child SA that we do not know: maybe the one that it made for this request.
    pub fn note_deleted(&mut self, protocol: ProtocolId, spi: u32) {
        if protocol == self.config.protocol && self.deleted.len() < MAX_DELETED {
            self.deleted.push(spi);
        }
    }

    /// The peer deleted this one before we knew it.
    pub fn was_deleted(&self, spi: u32) -> bool {
        self.deleted.contains(&spi)
    }

    /// The tunnel of the SA that was to be replaced is down.
    pub fn forget_tunnel(&mut self) {
        self.tunnel = None;
    }

    /// What it is a request for.
    pub fn wanted(&self) -> Wanted {
        Wanted { config: self.config.clone(), traffic: self.traffic.clone() }
    }

    /// Why nothing came of it, with what we asked for where the peer does not like that.
    pub fn reason(&self, settled: &Settled) -> DownReason {
        match settled {
            Settled::Made(..) | Settled::More => DownReason::Terminated,
            Settled::OtherMethod(_) => DownReason::Rejected(NotifyType::INVALID_KE_PAYLOAD),
            Settled::Refused(kind @ NotifyType::NO_PROPOSAL_CHOSEN) => {
                DownReason::Declined(*kind, proposal::display(&self.proposals))
            }
            Settled::Refused(kind @ NotifyType::TS_UNACCEPTABLE) => {
                let [local, remote] = [&self.local, &self.remote].map(|side| selector::display(side));
                DownReason::Declined(*kind, format!("{local} === {remote}"))
            }
            Settled::Refused(kind) => DownReason::Rejected(*kind),
            Settled::Unacceptable(why, _) => DownReason::Failed(why.clone()),
        }
    }

    /// Gives the SPI back: nothing came of it.
    pub fn discard(self, ctx: &mut Context<'_>) {
        ctx.spis.release(self.spi);
    }

    fn check_method(&self, settled: Settled) -> Settled {
        match settled {
            Settled::OtherMethod(group) => {
                let id = KeId(group.iana());
                let offered = self.proposals.iter().any(|one| one.key_exchanges().any(|ours| ours == id));
                let current = self.key_exchange.as_ref().map(KeyExchange::group);
                if offered && current != Some(group) {
                    settled
                } else {
                    Settled::Refused(NotifyType::INVALID_KE_PAYLOAD)
                }
            }
            other => other,
        }
    }

    fn agree(
        &self,
        method: Option<KeId>,
        theirs: Option<&wire::KeyExchange<'_>>,
    ) -> Result<Option<crate::crypto::Secret>, String> {
        let Some(method) = method else { return Ok(None) };
        let fits = |ours: &&KeyExchange| KeId(ours.group().iana()) == method;
        match (self.key_exchange.as_ref().filter(fits), theirs.filter(|theirs| theirs.method == method)) {
            (Some(ours), Some(theirs)) => {
                ours.finish(&theirs.data).map(Some).map_err(|error| error.to_string())
            }
            _ => Err(format!("KE payload does not fit the chosen method {method}")),
        }
    }
}

/// The parts of a response that makes a Child SA.
struct Response<'p, 'a> {
    sa: &'p [wire::Proposal],
    nonce: Option<&'p [u8]>,
    ke: Option<&'p wire::KeyExchange<'a>>,
    /// TSi is the side of the exchange's initiator: ours.
    local: &'p [TrafficSelector],
    remote: &'p [TrafficSelector],
}

impl<'p, 'a> Response<'p, 'a> {
    fn read(payloads: &'p [Payload<'a>]) -> Result<Self, Settled> {
        let (mut sa, mut nonce, mut ke, mut local, mut remote) = (None, None, None, None, None);
        for payload in payloads {
            match payload {
                Payload::Sa(proposals) => sa = Some(proposals.as_slice()),
                Payload::Nonce(value) => nonce = Some(value.as_ref()),
                Payload::Ke(value) => ke = Some(value),
                Payload::TsI(selectors) => local = Some(selectors.as_slice()),
                Payload::TsR(selectors) => remote = Some(selectors.as_slice()),
                _ => {}
            }
        }
        if let (Some(sa), Some(local), Some(remote)) = (sa, local, remote)
            && !local.is_empty()
            && !remote.is_empty()
        {
            return Ok(Self { sa, nonce, ke, local, remote });
        }
        let Some(error) = notifies(payloads).find(|notify| notify.kind.is_error()) else {
            return Err(Settled::Unacceptable("SA, TSi or TSr is missing".into(), None));
        };
        Err(match (error.kind, error.data.as_ref()) {
            (NotifyType::INVALID_KE_PAYLOAD, &[high, low]) => {
                Group::from_iana(u16::from_be_bytes([high, low]))
                    .map_or(Settled::Refused(error.kind), Settled::OtherMethod)
            }
            (kind, _) => Settled::Refused(kind),
        })
    }

    fn spi(&self) -> Option<u32> {
        match self.sa {
            [
                wire::Proposal {
                    spi: ProposalSpi::Child(spi),
                    protocol: ProtocolId::ESP | ProtocolId::AH,
                    ..
                },
            ] => Some(*spi),
            _ => None,
        }
    }
}
