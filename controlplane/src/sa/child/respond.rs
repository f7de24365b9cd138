//! A Child SA that the peer asks for, in IKE_AUTH or CREATE_CHILD_SA (RFC 7296 s1.2, s1.3.1, s1.3.3, s2.9).

use std::borrow::Cow;
use std::sync::Arc;

use dataplane::sa::Mode;
use tracing::info;

use super::super::Context;
use super::super::configuration::{local_hosts, remote_hosts};
use super::super::core::Core;
use super::super::init::{NONCE_LEN, find_notify};
use super::{Child, Pair, Terms};
use crate::config::{ChildConfig, Connection};
use crate::crypto::{Group, Secret, kex};
use crate::proposal::{self, Chosen, Proposal};
use crate::rejection::Rejection;
use crate::selector;
use crate::wire::{self, KeId, Notify, NotifyType, Payload, ProposalSpi, TrafficSelector};

/// What we agree to.
pub(crate) struct Answer {
    pub terms: Terms,
    pub payloads: Vec<Payload<'static>>,
}

impl Answer {
    /// Gives back what it took: nothing comes of it.
    pub fn discard(self, ctx: &mut Context<'_>) {
        ctx.spis.release(self.terms.spi_in);
    }
}

/// Why we did not agree, and what the peer is told.
pub(crate) struct Denied {
    pub rejection: Rejection,
    pub notify: Notify<'static>,
}

impl Denied {
    pub fn new(rejection: Rejection, kind: NotifyType) -> Self {
        Self { rejection, notify: Notify::bare(kind) }
    }
}

/// A configuration that fits, with the narrowed selectors.
struct Match<'a> {
    config: &'a Arc<ChildConfig>,
    local: Vec<TrafficSelector>,
    remote: Vec<TrafficSelector>,
    /// More of what is asked for would be another Child SA's.
    others: bool,
}

/// Answers a request in IKE_AUTH, with the nonces of IKE_SA_INIT.
pub(crate) fn respond(
    ctx: &mut Context<'_>,
    core: &Core,
    connection: &Connection,
    payloads: &[Payload<'_>],
    nonces: (&[u8], &[u8]),
) -> Result<(Box<Pair>, Vec<Payload<'static>>), Denied> {
    let Answer { terms, payloads } = negotiate(ctx, core, connection, payloads, None, Some(nonces))?;
    Ok((make(ctx, core, connection, terms)?, payloads))
}

/// Makes what was agreed on.
pub(in crate::sa) fn make(
    ctx: &mut Context<'_>,
    core: &Core,
    connection: &Connection,
    terms: Terms,
) -> Result<Box<Pair>, Denied> {
    let (spi, child) = (terms.spi_in, terms.config.name.clone());
    terms.settle(ctx, core, connection).map_err(|error| {
        info!(connection = %connection.name, %child, %error, "Child SA refused");
        ctx.spis.release(spi);
        Denied::new(Rejection::Selectors, NotifyType::TS_UNACCEPTABLE)
    })
}

/// Judges a request. `rekeyed` is the Child SA that is replaced. In IKE_AUTH the nonces of IKE_SA_INIT are given;
/// then there is neither nonce nor key exchange in the request.
pub(super) fn negotiate(
    ctx: &mut Context<'_>,
    core: &Core,
    connection: &Connection,
    payloads: &[Payload<'_>],
    rekeyed: Option<&Child>,
    nonces: Option<(&[u8], &[u8])>,
) -> Result<Answer, Denied> {
    let request = Asked::read(payloads)?;
    if rekeyed.is_none() && ctx.spis.len() >= ctx.config.peers.child_sas {
        return Err(Denied::new(Rejection::ChildSaLimit, NotifyType::NO_ADDITIONAL_SAS));
    }
    let matched = match rekeyed {
        Some(old) => narrow_to(&old.config, &old.local, &old.remote, &request),
        None => find(core, connection, &request),
    };
    let Some(Match { config, local, remote, others }) = matched else {
        info!(
            connection = %connection.name,
            came = %format!("{} === {}", selector::display(request.remote), selector::display(request.local)),
            expected = %describe(core, connection, rekeyed),
            "selectors not acceptable"
        );
        return Err(Denied::new(Rejection::Selectors, NotifyType::TS_UNACCEPTABLE));
    };
    let in_auth = nonces.is_some();
    let ours: Vec<_> = if in_auth {
        config.proposals.iter().map(Proposal::without_key_exchange).collect()
    } else {
        config.proposals.clone()
    };
    let chosen = choose(connection, config, &ours, request.sa)?;
    let ProposalSpi::Child(spi_out) = chosen.proposal.spi else {
        return Err(Denied::new(Rejection::Syntax, NotifyType::INVALID_SYNTAX));
    };
    let (public, shared) = if in_auth { (None, None) } else { agree(&chosen, request.ke)? };
    let nonce = ctx.random::<NONCE_LEN>().to_vec();
    let (ni, nr) = match (nonces, request.nonce) {
        (Some(nonces), _) => nonces,
        (None, Some(ni)) => (ni, nonce.as_slice()),
        (None, None) => return Err(Denied::new(Rejection::Syntax, NotifyType::INVALID_SYNTAX)),
    };
    let transport =
        config.mode == Mode::Transport && find_notify(payloads, NotifyType::USE_TRANSPORT_MODE).is_some();
    let mut terms = Terms {
        config: config.clone(),
        tunnel: rekeyed.map(|old| old.tunnel),
        chosen,
        spi_in: 0,
        spi_out,
        mode: if transport { Mode::Transport } else { Mode::Tunnel },
        local,
        remote,
        initiated: false,
        shared,
        additional: Vec::new(),
        ni: ni.to_vec(),
        nr: nr.to_vec(),
    };
    if let Err((rejection, error)) = terms.check(ctx) {
        info!(connection = %connection.name, child = %config.name, %error, "Child SA refused");
        return Err(Denied::new(rejection, NotifyType::TS_UNACCEPTABLE));
    }
    terms.spi_in = ctx.spis.allocate(ctx.rng);
    let mut answer = vec![Payload::Sa(vec![terms.chosen.answer(ProposalSpi::Child(terms.spi_in))])];
    if !in_auth {
        answer.push(Payload::Nonce(Cow::Owned(nonce)));
    }
    if let Some((method, public)) = public {
        answer.push(Payload::Ke(wire::KeyExchange { method, data: Cow::Owned(public) }));
    }
    answer.push(Payload::TsI(terms.remote.clone()));
    answer.push(Payload::TsR(terms.local.clone()));
    if transport {
        answer.push(Payload::Notify(Notify::bare(NotifyType::USE_TRANSPORT_MODE)));
    }
    if others {
        answer.push(Payload::Notify(Notify::bare(NotifyType::ADDITIONAL_TS_POSSIBLE)));
    }
    Ok(Answer { terms, payloads: answer })
}

/// The parts of a request for a Child SA.
struct Asked<'p, 'a> {
    sa: &'p [wire::Proposal],
    nonce: Option<&'p [u8]>,
    ke: Option<&'p wire::KeyExchange<'a>>,
    /// TSi is the side of the exchange's initiator: the peer's.
    remote: &'p [TrafficSelector],
    local: &'p [TrafficSelector],
}

impl<'p, 'a> Asked<'p, 'a> {
    fn read(payloads: &'p [Payload<'a>]) -> Result<Self, Denied> {
        let syntax = || Denied::new(Rejection::Syntax, NotifyType::INVALID_SYNTAX);
        let (mut sa, mut nonce, mut ke, mut local, mut remote) = (None, None, None, None, None);
        for payload in payloads {
            let twice = match payload {
                Payload::Sa(proposals) => sa.replace(proposals.as_slice()).is_some(),
                Payload::Nonce(value) => nonce.replace(value.as_ref()).is_some(),
                Payload::Ke(value) => ke.replace(value).is_some(),
                Payload::TsI(selectors) => remote.replace(selectors.as_slice()).is_some(),
                Payload::TsR(selectors) => local.replace(selectors.as_slice()).is_some(),
                _ => false,
            };
            if twice {
                return Err(syntax());
            }
        }
        let (Some(sa), Some(local), Some(remote)) = (sa, local, remote) else { return Err(syntax()) };
        Ok(Self { sa, nonce, ke, remote, local })
    }
}

/// The child whose selectors fit. One that has the peer's first choices goes before others (RFC 7296 s2.9: "MUST"), and
/// then one whose policy is exactly what is asked for before one that narrows.
fn find<'a>(core: &Core, connection: &'a Connection, request: &Asked<'_, '_>) -> Option<Match<'a>> {
    let first = |asked: &[TrafficSelector], narrowed: &[TrafficSelector]| {
        asked.first().is_some_and(|first| selector::covers(narrowed, first))
    };
    let (local, remote) = (selector::minimal(request.local), selector::minimal(request.remote));
    let mut best: Option<((bool, bool), Match<'a>)> = None;
    let mut fitting = 0;
    for config in &connection.children {
        let local_policy = selector::resolve(&config.local, &local_hosts(core, connection));
        let remote_policy = selector::resolve(&config.remote, &remote_hosts(core));
        let Some(matched) = narrow_to(config, &local_policy, &remote_policy, request) else { continue };
        fitting += 1;
        let choices = first(request.local, &matched.local) && first(request.remote, &matched.remote);
        let rank = (choices, matched.local == local && matched.remote == remote);
        if best.as_ref().is_none_or(|(other, _)| rank > *other) {
            best = Some((rank, matched));
        }
    }
    best.map(|((_, exact), matched)| Match { others: fitting > 1 && !exact, ..matched })
}

fn narrow_to<'a>(
    config: &'a Arc<ChildConfig>,
    local: &[TrafficSelector],
    remote: &[TrafficSelector],
    request: &Asked<'_, '_>,
) -> Option<Match<'a>> {
    let local = selector::narrow(request.local, local);
    let remote = selector::narrow(request.remote, remote);
    (!local.is_empty() && !remote.is_empty()).then_some(Match { config, local, remote, others: false })
}

fn describe(core: &Core, connection: &Connection, rekeyed: Option<&Child>) -> String {
    let pair = |local: &[TrafficSelector], remote: &[TrafficSelector]| {
        format!("{} === {}", selector::display(local), selector::display(remote))
    };
    if let Some(old) = rekeyed {
        return pair(&old.local, &old.remote);
    }
    let resolved = connection.children.iter().map(|config| {
        let local = selector::resolve(&config.local, &local_hosts(core, connection));
        let remote = selector::resolve(&config.remote, &remote_hosts(core));
        format!("{}: {}", config.name, pair(&local, &remote))
    });
    resolved.collect::<Vec<_>>().join(", ")
}

fn choose(
    connection: &Connection,
    config: &ChildConfig,
    ours: &[Proposal],
    theirs: &[wire::Proposal],
) -> Result<Chosen, Denied> {
    proposal::select(ours, theirs).map_err(|error| {
        info!(connection = %connection.name, child = %config.name, %error, "refused");
        Denied::new(Rejection::NoProposal, NotifyType::NO_PROPOSAL_CHOSEN)
    })
}

type Agreed = (Option<(KeId, Vec<u8>)>, Option<Secret>);

/// Our half of the key exchange, when one was negotiated (RFC 7296 s1.3.1).
fn agree(chosen: &Chosen, theirs: Option<&wire::KeyExchange<'_>>) -> Result<Agreed, Denied> {
    let Some(method) = chosen.ke() else { return Ok((None, None)) };
    let invalid = || {
        let notify = Notify::new(NotifyType::INVALID_KE_PAYLOAD, method.0.to_be_bytes().to_vec());
        Denied { rejection: Rejection::KeyExchange, notify }
    };
    let theirs = theirs.filter(|ke| ke.method == method).ok_or_else(invalid)?;
    let group = Group::from_iana(method.0).ok_or_else(invalid)?;
    let kex::Response { public, shared } = kex::respond(group, &theirs.data)
        .map_err(|_| Denied::new(Rejection::KeyExchange, NotifyType::INVALID_SYNTAX))?;
    Ok((Some((method, public)), Some(shared)))
}
