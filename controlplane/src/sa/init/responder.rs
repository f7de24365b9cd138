//! IKE_SA_INIT as the responder.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Instant;

use tracing::{debug, info};

use super::super::core::Opened;
use super::super::{Context, Core, IkeSa, Path, State};
use super::super::{auth, intermediate};
use super::{
    Begun, Essentials, NONCE_LEN, PeerSupport, Transcript, detect_nat, hash_notify, ike_suite, nat_notifies,
};
use crate::auth::IntAuth;
use crate::config::Connection;
use crate::crypto::kex::Deferred;
use crate::crypto::{CryptoError, Group};
use crate::proposal::{self, Chosen, NoMatch, Proposal};
use crate::rejection::Rejection;
use crate::update::Event;
use crate::wire::{
    self, ExchangeType, Header, KeId, KeyExchange, Notify, NotifyType, Payload, ProposalSpi, ProtocolId,
};

/// We answered an IKE_SA_INIT. The IKE SA is half open: nobody has proved anything.
pub(crate) struct Answered {
    /// What was agreed on. Connections that accept it are those that the peer may be talking about; IKE_AUTH tells which.
    /// They are not kept: there may be thousands of them.
    chosen: wire::Proposal,
    /// Where the request came.
    came: Path,
    pub(in crate::sa) transcript: Transcript,
    pub(in crate::sa) support: PeerSupport,
    /// Additional key exchanges to come, in this order (RFC 9370 s2.2.2).
    pub(in crate::sa) additional: VecDeque<KeId>,
    /// When the peer began it.
    pub since: Instant,
    /// When it is forgotten.
    pub expires: Instant,
}

/// An IKE_SA_INIT that gets no IKE SA, and the error that says so.
pub(crate) struct Refusal {
    pub rejection: Rejection,
    pub notify: Notify<'static>,
}

impl Refusal {
    fn new(rejection: Rejection, kind: NotifyType) -> Self {
        Self { rejection, notify: Notify::bare(kind) }
    }
}

impl Answered {
    /// Answers a request. `candidates` fit the addresses and are not empty.
    pub fn answer(
        ctx: &mut Context<'_>,
        header: &Header,
        request: &[u8],
        payloads: &[Payload<'_>],
        path: Path,
        candidates: &[Arc<Connection>],
    ) -> Result<IkeSa, Refusal> {
        let syntax = || Refusal::new(Rejection::Syntax, NotifyType::INVALID_SYNTAX);
        let essentials = Essentials::find(payloads).ok_or_else(syntax)?;
        let ke = essentials.ke.ok_or_else(syntax)?;
        let offered = essentials.sa;
        if offered
            .iter()
            .any(|proposal| proposal.protocol != ProtocolId::IKE || proposal.spi != ProposalSpi::None)
        {
            return Err(syntax());
        }
        let mut verdicts = Verdicts::default();
        let judge = |ours: &[Proposal]| proposal::select(ours, offered);
        let mut chosen = None;
        for one in candidates {
            chosen = verdicts.of(&one.proposals, judge).as_ref().ok().cloned();
            if chosen.is_some() {
                break;
            }
        }
        let Some(chosen) = chosen else {
            explain(ctx, candidates, &path, &verdicts);
            return Err(Refusal::new(Rejection::NoProposal, NotifyType::NO_PROPOSAL_CHOSEN));
        };
        let no_proposal = || Refusal::new(Rejection::NoProposal, NotifyType::NO_PROPOSAL_CHOSEN);
        let method = chosen.ke().ok_or_else(no_proposal)?;
        let support = PeerSupport::of(payloads);
        let additional: VecDeque<_> = chosen.additional().into();
        if !additional.is_empty() && !support.intermediate {
            if ctx.may_log() {
                info!(remote = %path.remote, %chosen, "peer does not support IKE_INTERMEDIATE, which this needs");
            }
            return Err(no_proposal());
        }
        if ke.method != method {
            debug!(remote = %path.remote, came = %ke.method, expected = %method, "other key exchange method");
            let notify = Notify::new(NotifyType::INVALID_KE_PAYLOAD, method.0.to_be_bytes().to_vec());
            return Err(Refusal { rejection: Rejection::KeyExchange, notify });
        }
        let candidates = accepting(candidates.to_vec(), &chosen.proposal);

        let mut core = Core::new(ctx.now, ctx.ike_spi(), false, path);
        core.peer_spi = header.spi_i;
        let spis = core.spis();
        let forced = candidates.iter().any(|connection| connection.force_encapsulation);
        // The request was made when our SPI was not known yet.
        core.nat = detect_nat(&path, (header.spi_i, 0), payloads, forced);
        let nonce = ctx.random::<NONCE_LEN>().to_vec();
        let ni = essentials.nonce.to_vec();
        let public = agree(&mut core, &chosen, ke, &ni, &nonce).map_err(|error| {
            debug!(remote = %path.remote, %error, "key exchange failed");
            Refusal::new(Rejection::KeyExchange, NotifyType::INVALID_SYNTAX)
        })?;

        let mut answer = vec![
            Payload::Sa(vec![chosen.answer(ProposalSpi::None)]),
            Payload::Ke(KeyExchange { method, data: public.into() }),
            Payload::Nonce(nonce.clone().into()),
        ];
        answer.extend(nat_notifies(&path, spis, forced));
        if let Some(connection) = candidates.iter().find(|one| one.fragmentation)
            && support.fragmentation
        {
            answer.push(Payload::Notify(Notify::bare(NotifyType::IKEV2_FRAGMENTATION_SUPPORTED)));
            core.fragment_size = Some(connection.fragment_size);
        }
        answer.push(Payload::Notify(Notify::bare(NotifyType::CHILDLESS_IKEV2_SUPPORTED)));
        answer.push(hash_notify());
        if support.ppk && candidates.iter().any(|connection| connection.ppk.is_some()) {
            answer.push(Payload::Notify(Notify::bare(NotifyType::USE_PPK)));
        }
        if !additional.is_empty() {
            answer.push(Payload::Notify(Notify::bare(NotifyType::INTERMEDIATE_EXCHANGE_SUPPORTED)));
        }
        answer
            .extend(auth::certificate_requests(candidates.iter().map(|connection| &connection.remote_auth)));
        #[cfg(test)]
        if let Some(bend) = ctx.out.bend.as_mut() {
            bend(ExchangeType::IKE_SA_INIT, true, &mut answer);
        }
        let response = core.cleartext(ExchangeType::IKE_SA_INIT, true, &answer).map_err(|_| syntax())?;
        core.transmit(ctx, std::slice::from_ref(&response));
        core.responses.answered(vec![response.clone()]);
        debug!(ike = core.spi, remote = %path.remote, %chosen, "half open");
        let transcript =
            Transcript { ni, nr: nonce, request: request.to_vec(), response, int_auth: IntAuth::default() };
        let expires = ctx.now + ctx.config.limits.half_open_timeout;
        let answered = Self {
            chosen: chosen.proposal,
            came: path,
            transcript,
            support,
            additional,
            since: ctx.now,
            expires,
        };
        Ok(IkeSa { core, state: State::Answered(Box::new(answered)) })
    }

    /// The connections that the peer may be talking about.
    pub fn candidates(&self, ctx: &Context<'_>) -> Vec<Arc<Connection>> {
        let fitting = ctx.directory.candidates(self.came.local.ip(), self.came.remote.ip());
        accepting(fitting, &self.chosen)
    }

    /// A copy of the request that was answered came.
    pub fn is_repetition(&self, request: &[u8]) -> bool {
        self.transcript.request == request
    }

    /// The peer's first encrypted request.
    pub fn request(
        self: Box<Self>,
        core: &mut Core,
        ctx: &mut Context<'_>,
        header: &Header,
        opened: Opened,
    ) -> State {
        if header.exchange == ExchangeType::IKE_INTERMEDIATE && !self.additional.is_empty() {
            return intermediate::respond(self, core, ctx, header, &opened);
        }
        // RFC 9370 s2.2.2: all key exchanges come before IKE_AUTH, or none of them counts.
        if header.exchange != ExchangeType::IKE_AUTH || !self.additional.is_empty() {
            ctx.reject(Rejection::UnexpectedExchange);
            return State::Answered(self);
        }
        auth::respond(self, core, ctx, opened)
    }

    /// Nobody came.
    pub fn timeout(self: Box<Self>, core: &mut Core, ctx: &mut Context<'_>) -> State {
        if ctx.now < self.expires {
            return State::Answered(self);
        }
        debug!(ike = core.spi, remote = %core.path.remote, "half-open IKE SA forgotten");
        ctx.reject(Rejection::HalfOpenTimeout);
        State::gone(ctx)
    }
}

/// What becomes of each set of proposals. Thousands of connections may have the same, which is judged once.
struct Verdicts<'c, T>(Vec<(&'c [Proposal], T)>);

impl<T> Default for Verdicts<'_, T> {
    fn default() -> Self {
        Self(Vec::new())
    }
}

impl<'c, T> Verdicts<'c, T> {
    fn of(&mut self, proposals: &'c [Proposal], judge: impl FnOnce(&[Proposal]) -> T) -> &T {
        let at = self.0.iter().position(|(known, _)| *known == proposals).unwrap_or_else(|| {
            self.0.push((proposals, judge(proposals)));
            self.0.len() - 1
        });
        &self.0[at].1
    }
}

/// Those that accept a proposal.
fn accepting(candidates: Vec<Arc<Connection>>, chosen: &wire::Proposal) -> Vec<Arc<Connection>> {
    let mut verdicts = Verdicts::default();
    let judge = |ours: &[Proposal]| proposal::select(ours, std::slice::from_ref(chosen)).is_ok();
    let fits: Vec<bool> = candidates.iter().map(|one| *verdicts.of(&one.proposals, judge)).collect();
    candidates.into_iter().zip(fits).filter_map(|(one, fits)| fits.then_some(one)).collect()
}

/// Connections and sets of proposals that one line about a stranger names.
const NAMED: usize = 3;

/// Tells the log why no proposal was chosen: both sides, and what is missing.
fn explain(
    ctx: &mut Context<'_>,
    candidates: &[Arc<Connection>],
    path: &Path,
    verdicts: &Verdicts<'_, Result<Chosen, Box<NoMatch>>>,
) {
    for (ours, verdict) in verdicts.0.iter().take(NAMED) {
        let Err(error) = verdict else { continue };
        let mut with_it = candidates.iter().filter(|one| one.proposals == *ours).map(|one| &*one.name);
        let first: Vec<_> = with_it.by_ref().take(NAMED).collect();
        let rest = with_it.count();
        if let ([connection], 0) = (first.as_slice(), rest) {
            let (connection, why) = ((*connection).into(), error.to_string());
            ctx.out.events.push_back(Event::Refused { connection, remote: path.remote, why });
        }
        if ctx.may_log() {
            let others = if rest == 0 { String::new() } else { format!(" and {rest} more") };
            let connections = format!("{}{others}", first.join(", "));
            info!(connection = %connections, remote = %path.remote, %error, "refused");
        }
    }
}

/// Our half of the key exchange, returns the value to send. The keys come later.
fn agree(
    core: &mut Core,
    chosen: &Chosen,
    theirs: &KeyExchange<'_>,
    ni: &[u8],
    nr: &[u8],
) -> Result<Vec<u8>, CryptoError> {
    let KeId(method) = theirs.method;
    let group = Group::from_iana(method).ok_or(CryptoError::Library)?;
    let suite = ike_suite(chosen).ok_or(CryptoError::Library)?;
    let (public, exchange) = Deferred::respond(group, &theirs.data)?;
    core.begun = Some(Box::new(Begun { suite, ni: ni.to_vec(), nr: nr.to_vec(), exchange }));
    Ok(public)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_proposals_are_judged_once() {
        let sets = ["aes256gcm16-prfsha384-x25519", "aes128-sha256-modp2048"]
            .map(|text| [Proposal::ike(text).unwrap()]);
        let copies = [sets[0].clone(), sets[1].clone(), sets[0].clone(), sets[0].clone()];
        let (mut verdicts, judged) = (Verdicts::default(), std::cell::Cell::new(0));
        let judge = |ours: &[Proposal]| {
            judged.set(judged.get() + 1);
            ours[0].to_string()
        };
        let said = copies.each_ref().map(|set| verdicts.of(set, judge).clone());
        assert_eq!((judged.get(), &said[0]), (2, &said[3]));
        assert_ne!(said[0], said[1]);
    }
}
