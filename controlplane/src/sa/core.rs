//! What every IKE SA has, whatever its state: SPIs, path, keys, message IDs; and the way messages take.

use std::net::{IpAddr, SocketAddr};
use std::time::Instant;

use dataplane::message::Datagram;
use dataplane::sa::{Endpoints, UdpPorts};
use tracing::{debug, warn};

use super::Context;
use super::fragment::{Fragment, Reassembly};
use super::init::Begun;
use super::mobike::Mobike;
use super::window::{Requests, Responses, Timeout};
use crate::crypto::{CryptoError, IkeKeys, IkeSuite, Random, Secret, SkOpener, SkSealer};
use crate::keylog::IkeKeyLog;
use crate::rejection::Rejection;
use crate::wire::{
    Encrypted, ExchangeType, GENERIC_LEN, HEADER_LEN, Header, Payload, PayloadType, SKF_HEADER_LEN,
    WireError, emit_chain, parse_chain,
};

/// The UDP port of IKE and encapsulated ESP behind NATs (RFC 7296 s2.23).
pub const NAT_PORT: u16 = 4500;

/// Length of IP and UDP headers, and of the non-ESP marker, around an IKE message.
const OVERHEAD_V4: usize = 20 + 8 + 4;
const OVERHEAD_V6: usize = 40 + 8 + 4;

/// The common part of an IKE SA.
pub(crate) struct Core {
    /// Our SPI; it names the IKE SA in the endpoint.
    pub spi: u64,
    /// The peer's SPI; 0 while it is not known.
    pub peer_spi: u64,
    /// We are the original initiator: of IKE_SA_INIT, or of the rekey that made this IKE SA.
    pub initiator: bool,
    /// Where we are and where the peer is.
    pub path: Path,
    /// NATs in between.
    pub nat: Nat,
    /// Where the request that is being served came from; its response goes there (RFC 7296 s2.11).
    pub reply: Path,
    /// The path of the tunnels, while another one for them is being agreed on or checked (RFC 4555).
    pub carried: Option<(Path, Nat)>,
    /// Both ends do MOBIKE.
    pub mobike: Option<Mobike>,
    /// We began the first IKE SA of the series, not the peer.
    pub began: bool,
    /// When the first IKE SA of the series began.
    pub since: Instant,
    /// It takes the place of another one, which goes when all children are here (RFC 7296 s2.8.3).
    pub renews: bool,
    /// Hash of whom the peer has proved to be.
    pub peer_key: u64,
    /// The peer is authenticated: what it sends moves the path only by rule.
    pub settled: bool,
    /// Keys of the SK payload and of what follows; `None` before IKE_SA_INIT is done.
    pub protection: Option<Protection>,
    /// As the responder of IKE_SA_INIT: what those keys come from, as long as nobody needs them.
    pub begun: Option<Box<Begun>>,
    /// Our requests.
    pub requests: Requests,
    /// The peer's requests.
    pub responses: Responses,
    /// Addresses that a configuration payload assigned.
    pub inner: Inner,
    reassembly: Reassembly,
    /// Opens repetitions of the last request, which were sealed before the keys changed (RFC 9370 s2.2.2).
    before: Option<SkOpener>,
    /// Longest IP packet of a message, when both ends do fragmentation.
    pub fragment_size: Option<usize>,
    /// When the peer was last heard: its last authenticated message. Packets of its tunnels are not counted, so that a peer
    /// whose IKE is dead is found, whatever its data plane does.
    pub last_heard: Instant,
    /// When we last sent something to the peer.
    pub last_sent: Instant,
}

/// Addresses and ports of the two ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Path {
    pub local: SocketAddr,
    pub remote: SocketAddr,
}

/// Who is behind a NAT (RFC 7296 s2.23).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Nat {
    /// We are.
    pub local: bool,
    /// The peer is.
    pub remote: bool,
    /// UDP encapsulation is wanted anyway.
    pub forced: bool,
}

impl Nat {
    pub fn encapsulate(self) -> bool {
        self.local || self.remote || self.forced
    }
}

/// Inner addresses of the two ends.
#[derive(Clone, Debug, Default)]
pub(crate) struct Inner {
    /// Assigned to us.
    pub local: Vec<IpAddr>,
    /// Assigned by us.
    pub remote: Vec<IpAddr>,
    /// We are asking for some in this IKE_AUTH.
    pub asking: bool,
}

/// Keys and ciphers of an established key exchange.
pub(crate) struct Protection {
    pub suite: IkeSuite,
    /// SK_d.
    pub d: Secret,
    /// SK_pi and SK_pr.
    pub pi: Secret,
    pub pr: Secret,
    sealer: SkSealer,
    opener: SkOpener,
    /// The key log has it.
    logged: bool,
}

impl Protection {
    /// `initiator`: we are the original initiator, so we send with SK_ei and SK_ai.
    pub fn new(suite: IkeSuite, keys: &IkeKeys, initiator: bool) -> Result<Self, CryptoError> {
        let ours = (&keys.ei, &keys.ai);
        let theirs = (&keys.er, &keys.ar);
        let (ours, theirs) = if initiator { (ours, theirs) } else { (theirs, ours) };
        Ok(Self {
            suite,
            d: keys.d.clone(),
            pi: keys.pi.clone(),
            pr: keys.pr.clone(),
            sealer: SkSealer::new(&suite, ours.0, ours.1)?,
            opener: SkOpener::new(&suite, theirs.0, theirs.1)?,
            logged: false,
        })
    }
}

/// A message whose ICV was good, put together from fragments when it came in some.
pub(crate) struct Opened {
    pub first: PayloadType,
    pub plain: Vec<u8>,
}

impl Opened {
    /// Its payloads.
    pub fn payloads(&self, ctx: &Context<'_>) -> Result<Vec<Payload<'_>>, WireError> {
        parse_chain(self.first, &self.plain, 0, &ctx.config.limits.of_message())
    }
}

/// What became of an encrypted message or fragment.
pub(crate) enum Opening {
    /// All of it is there.
    Whole(Opened),
    /// More fragments are needed.
    Partial,
    /// A copy of the request before; its response was sent again if it was due.
    Repeated,
    /// It does not count.
    Rejected(Rejection),
}

impl Core {
    /// A new one without keys.
    pub fn new(now: Instant, spi: u64, initiator: bool, path: Path) -> Self {
        Self {
            spi,
            peer_spi: 0,
            initiator,
            path,
            nat: Nat::default(),
            reply: path,
            carried: None,
            mobike: None,
            began: initiator,
            since: now,
            renews: false,
            peer_key: 0,
            settled: false,
            protection: None,
            begun: None,
            requests: Requests::default(),
            responses: Responses::default(),
            inner: Inner::default(),
            reassembly: Reassembly::default(),
            before: None,
            fragment_size: None,
            last_heard: now,
            last_sent: now,
        }
    }

    /// SPIs in the order of the header.
    pub fn spis(&self) -> (u64, u64) {
        if self.initiator { (self.spi, self.peer_spi) } else { (self.peer_spi, self.spi) }
    }

    /// The keys, when they are new since the last call: for the key log.
    pub fn keys_to_log(&mut self) -> Option<IkeKeyLog> {
        let (spis, initiator) = (self.spis(), self.initiator);
        let protection = self.protection.as_mut().filter(|protection| !protection.logged)?;
        protection.logged = true;
        let (ours, theirs) = (protection.sealer.keys(), protection.opener.keys());
        let (initiator, responder) = if initiator { (ours, theirs) } else { (theirs, ours) };
        Some(IkeKeyLog { spis, suite: protection.suite, initiator, responder })
    }

    /// Outer addresses of the Child SAs.
    pub fn endpoints(&self) -> Endpoints {
        let (Path { local, remote }, nat) = self.carried.unwrap_or((self.path, self.nat));
        let ports = UdpPorts { local: local.port(), remote: remote.port() };
        Endpoints { local: local.ip(), remote: remote.ip(), udp: nat.encapsulate().then_some(ports) }
    }

    /// Goes over to other keys. What was answered before can still be asked again.
    pub fn change_keys(&mut self, protection: Protection) {
        self.before = self.protection.replace(protection).map(|old| old.opener);
    }

    /// The headers of a message as IKE_INTERMEDIATE authenticates them (RFC 9242 s3.3.2): IKE header and generic
    /// header of SK, as if it was not fragmented. The lengths are of no account.
    pub fn intermediate_head(header: &Header, first: PayloadType) -> Vec<u8> {
        let mut head = Header { next_payload: PayloadType::SK, ..*header }.emit(0).to_vec();
        head.extend_from_slice(&[first.0, 0, 0, 0]);
        head
    }

    pub fn header(
        &self,
        exchange: ExchangeType,
        response: bool,
        message_id: u32,
        next: PayloadType,
    ) -> Header {
        let (spi_i, spi_r) = self.spis();
        Header {
            spi_i,
            spi_r,
            next_payload: next,
            minor: 0,
            exchange,
            initiator: self.initiator,
            version: false,
            response,
            message_id,
        }
    }

    /// Builds a cleartext message: IKE_SA_INIT.
    pub fn cleartext(
        &self,
        exchange: ExchangeType,
        response: bool,
        payloads: &[Payload<'_>],
    ) -> Result<Vec<u8>, WireError> {
        let mut message = vec![0; HEADER_LEN];
        let first = emit_chain(payloads, &mut message)?;
        let header = self.header(exchange, response, 0, first).emit(message.len());
        message.splice(..HEADER_LEN, header);
        Ok(message)
    }

    /// Sends a request. The caller made sure that none is outstanding.
    pub fn request(&mut self, ctx: &mut Context<'_>, exchange: ExchangeType, payloads: &[Payload<'_>]) {
        let id = self.requests.next_id();
        match self.seal(ctx, exchange, false, id, payloads) {
            Ok(packets) => {
                self.transmit(ctx, &packets);
                self.requests.sent(ctx.now, exchange, packets, &ctx.config.retransmit);
            }
            Err(error) => warn!(ike = self.spi, %exchange, %error, "cannot build a request"),
        }
    }

    /// Answers the request that is being processed, and keeps the response for repetitions.
    pub fn respond(&mut self, ctx: &mut Context<'_>, exchange: ExchangeType, payloads: &[Payload<'_>]) {
        let id = self.responses.expected();
        match self.seal(ctx, exchange, true, id, payloads) {
            Ok(packets) => {
                self.transmit_by(ctx, self.reply, &packets);
                self.responses.answered(packets);
            }
            Err(error) => warn!(ike = self.spi, %exchange, %error, "cannot build a response"),
        }
    }

    /// Queues packets to the peer.
    pub fn transmit(&mut self, ctx: &mut Context<'_>, packets: &[Vec<u8>]) {
        self.transmit_by(ctx, self.path, packets);
    }

    fn transmit_by(&mut self, ctx: &mut Context<'_>, path: Path, packets: &[Vec<u8>]) {
        self.last_sent = ctx.now;
        for packet in packets {
            let Path { local, remote } = path;
            ctx.out.transmit.push_back(Datagram { local, remote, payload: packet.clone() });
        }
    }

    /// Repeats the outstanding request when that is due. `false` when the peer is dead.
    pub fn retransmit(&mut self, ctx: &mut Context<'_>) -> bool {
        let retransmit = ctx.config.retransmit;
        match self.requests.timeout(ctx.now, &retransmit) {
            Timeout::NotYet => {}
            Timeout::Dead => return false,
            Timeout::Repeat(packets) => {
                let packets = packets.to_vec();
                debug!(ike = self.spi, remote = %self.path.remote, "repeating a request");
                self.transmit(ctx, &packets);
            }
        }
        true
    }

    /// Opens an encrypted message. Nothing changes before its ICV is verified. The path follows a peer behind a
    /// NAT whose mapping moved: only with a new message, since an attacker can replay an old one
    /// (RFC 7296 s2.23).
    pub fn open(&mut self, ctx: &mut Context<'_>, header: &Header, datagram: Datagram) -> Opening {
        use super::window::Order;
        let encrypted = match Encrypted::find(header, &datagram.payload) {
            Ok(encrypted) => encrypted,
            Err(error) => {
                debug!(ike = self.spi, %error, "not an encrypted message");
                let encrypted = matches!(header.next_payload, PayloadType::SK | PayloadType::SKF);
                return Opening::Rejected(if encrypted {
                    Rejection::Malformed
                } else {
                    Rejection::Cleartext
                });
            }
        };
        let order = if !header.response {
            self.responses.order(header.message_id)
        } else if self.requests.awaits(header.message_id, header.exchange) {
            Order::New
        } else {
            return Opening::Rejected(Rejection::Unsolicited);
        };
        if order == Order::Outside {
            return Opening::Rejected(Rejection::MessageId);
        }
        if order == Order::New
            && let Some(begun) = self.begun.take()
            && let Err(error) = begun.finish(self)
        {
            debug!(ike = self.spi, remote = %datagram.remote, %error, "key exchange failed");
            return Opening::Rejected(Rejection::KeyExchange);
        }
        let Some(protection) = &self.protection else {
            return Opening::Rejected(Rejection::UnexpectedExchange);
        };
        let mut message = datagram.payload;
        let (Encrypted::Sk { first, body_at } | Encrypted::Skf { first, body_at, .. }) = encrypted;
        let opener = match &self.before {
            Some(before) if order == Order::Repeated => before,
            _ => &protection.opener,
        };
        let range = match opener.open(&mut message, body_at) {
            Ok(range) => range,
            Err(error) => {
                debug!(ike = self.spi, remote = %datagram.remote, %error, "message is not authentic");
                return Opening::Rejected(Rejection::Integrity);
            }
        };
        if order == Order::Repeated {
            // RFC 7383 s2.6.1: of a fragmented request only the first fragment brings the response back.
            if !matches!(encrypted, Encrypted::Skf { number: 2.., .. }) {
                let packets = self.responses.last().to_vec();
                self.transmit_by(ctx, Path { local: datagram.local, remote: datagram.remote }, &packets);
            }
            return Opening::Repeated;
        }
        let plain = message.get(range).unwrap_or_default().to_vec();
        if !header.response {
            self.before = None;
        }
        self.last_heard = ctx.now;
        self.follow(ctx, Path { local: datagram.local, remote: datagram.remote }, header.response);
        let Encrypted::Skf { number, total, .. } = encrypted else {
            self.reassembly.clear();
            return Opening::Whole(Opened { first, plain });
        };
        let (message_id, response) = (header.message_id, header.response);
        let fragment = Fragment { message_id, response, number, total, first, content: plain };
        match self.reassembly.add(fragment, &ctx.config.limits) {
            Ok(Some((first, plain))) => Opening::Whole(Opened { first, plain }),
            Ok(None) => Opening::Partial,
            Err(_) => Opening::Rejected(Rejection::Fragment),
        }
    }

    /// Takes the path of an authenticated message as the peer's when the peer is behind a NAT. Before the peer is
    /// authenticated the path is that of its requests: it goes over to port 4500 (RFC 7296 s2.23). With MOBIKE the
    /// peer says so when it moves (RFC 4555 s3.8).
    fn follow(&mut self, ctx: &mut Context<'_>, path: Path, response: bool) {
        if !response {
            self.reply = path;
        }
        let follows = if self.settled { self.nat.remote && self.mobike.is_none() } else { !response };
        if self.path == path || !follows {
            return;
        }
        debug!(ike = self.spi, from = %self.path.remote, to = %path.remote, "peer moved");
        self.path = path;
        ctx.out.moved = true;
    }

    /// An authentic message with any bytes inside, as nothing in here would send it.
    #[cfg(any(test, fuzzing))]
    pub fn forge(&mut self, rng: &mut dyn Random, header: Header, plain: &[u8]) -> Option<Vec<u8>> {
        let (header, first) = (Header { next_payload: PayloadType::SK, ..header }, header.next_payload);
        seal_one(self.protection.as_mut()?, rng, header, &[], None, first, plain).ok()
    }

    fn seal(
        &mut self,
        ctx: &mut Context<'_>,
        exchange: ExchangeType,
        response: bool,
        id: u32,
        payloads: &[Payload<'_>],
    ) -> Result<Vec<Vec<u8>>, SealError> {
        #[cfg(test)]
        let bent = ctx.out.bend.as_mut().map(|bend| {
            let mut bent = payloads.to_vec();
            bend(exchange, response, &mut bent);
            bent
        });
        #[cfg(test)]
        let payloads = bent.as_deref().unwrap_or(payloads);
        // RFC 8019 s7.2.2: in front of the Encrypted payload, and in the first fragment only.
        let (outside, inside) = match payloads {
            [Payload::PuzzleSolution(_), inside @ ..] => payloads.split_at(payloads.len() - inside.len()),
            _ => (&[][..], payloads),
        };
        let (mut clear, mut plain) = (Vec::new(), Vec::new());
        emit_chain(outside, &mut clear)?;
        let first = emit_chain(inside, &mut plain)?;
        let header = |next| self.header(exchange, response, id, next);
        let (whole, part) = (header(PayloadType::SK), header(PayloadType::SKF));
        let protection = self.protection.as_mut().ok_or(SealError::NoKeys)?;
        let suite = protection.suite;
        let overhead = if self.path.remote.is_ipv4() { OVERHEAD_V4 } else { OVERHEAD_V6 };
        let room = self.fragment_size.map(|size| size.saturating_sub(overhead + clear.len()));
        let fits = |room| HEADER_LEN + GENERIC_LEN + suite.sealed_len(plain.len()) <= room;
        let Some(room) = room.filter(|&room| !fits(room)) else {
            let packet = seal_one(protection, ctx.rng, whole, &clear, None, first, &plain)?;
            return Ok(vec![packet]);
        };
        let body = room.saturating_sub(HEADER_LEN + GENERIC_LEN + SKF_HEADER_LEN);
        let piece = suite.max_plain(body).filter(|&piece| piece > 0).ok_or(SealError::TooLong)?;
        let total = u16::try_from(plain.len().div_ceil(piece)).map_err(|_| SealError::TooLong)?;
        (1..=total)
            .zip(plain.chunks(piece))
            .map(|(number, piece)| {
                let (clear, first) =
                    if number == 1 { (&clear[..], first) } else { (&[][..], PayloadType::NONE) };
                seal_one(protection, ctx.rng, part, clear, Some((number, total)), first, piece)
            })
            .collect()
    }
}

/// Why a message could not be built.
#[derive(Debug, thiserror::Error)]
enum SealError {
    #[error("{0}")]
    Wire(#[from] WireError),
    #[error("{0}")]
    Crypto(#[from] CryptoError),
    #[error("no keys yet")]
    NoKeys,
    #[error("message is too long")]
    TooLong,
}

/// `clear` is a payload in front of the Encrypted one, or nothing.
fn seal_one(
    protection: &mut Protection,
    rng: &mut dyn Random,
    header: Header,
    clear: &[u8],
    fragment: Option<(u16, u16)>,
    first: PayloadType,
    plain: &[u8],
) -> Result<Vec<u8>, SealError> {
    let suite = protection.suite;
    let fragment_len = if fragment.is_some() { SKF_HEADER_LEN } else { 0 };
    let payload_len = GENERIC_LEN + fragment_len + suite.sealed_len(plain.len());
    let length_field = u16::try_from(payload_len).map_err(|_| SealError::TooLong)?;
    let length = HEADER_LEN + clear.len() + payload_len;
    let mut message = Vec::with_capacity(length);
    if let [_, rest @ ..] = clear {
        message.extend_from_slice(&Header { next_payload: PayloadType::PS, ..header }.emit(length));
        message.push(header.next_payload.0);
        message.extend_from_slice(rest);
    } else {
        message.extend_from_slice(&header.emit(length));
    }
    message.extend_from_slice(&[first.0, 0]);
    message.extend_from_slice(&length_field.to_be_bytes());
    if let Some((number, total)) = fragment {
        message.extend_from_slice(&number.to_be_bytes());
        message.extend_from_slice(&total.to_be_bytes());
    }
    let body = message.len();
    message.resize(body + suite.iv_len(), 0);
    message.extend_from_slice(plain);
    protection.sealer.seal(rng, &mut message, body)?;
    Ok(message)
}
