//! Bounds on what others can make us keep and do. All of them are in the configuration, and whatever meets one of them
//! is counted ([`crate::rejection`]).
//!
//! What is not here follows from the format or the protocol: a side of a Child SA has no more traffic selectors, and a
//! proposal no more transforms, than their count, one octet, can say; what a payload lists (attributes, SPIs, hashes,
//! certificates) is bounded by the message; for a request of ours a peer can have made one SA. The search for a path of
//! certificates is bounded by `rustls-webpki`, and what meets that counts as `authentication`.

use std::time::Duration;

use crate::auth::eap::EapLimits;
use crate::wire::MessageLimits;

/// Bounds on what strangers can make us keep and do (RFC 7296 s2.6).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FloodLimits {
    /// From so many half-open IKE SAs on, new ones must return a cookie.
    pub cookie_threshold: usize,
    /// From so many half-open IKE SAs of one address on, new ones of it must return a cookie. A cookie and not a
    /// refusal, because there may be a NAT with many users behind it.
    pub cookie_threshold_per_address: usize,
    /// From so many half-open IKE SAs on, new ones must solve a puzzle (RFC 8019); `None` for never.
    pub puzzle_threshold: Option<usize>,
    /// Zero bits that a puzzle asks for. It takes four times 2^this computations of a PRF to solve one, and four to check:
    /// 16 are half a second of a core to an honest peer, and where 10^9 a second are computed for an attacker still twice
    /// what a key exchange costs us.
    pub puzzle_difficulty: u8,
    /// With each doubling of the half-open IKE SAs beyond the threshold a puzzle asks for one more, up to this.
    pub puzzle_difficulty_max: u8,
    /// So many requests with a good cookie and no solution are served in a second nevertheless: there are peers that do
    /// not know puzzles.
    pub puzzle_unsolved_per_second: u32,
    /// As an initiator, we solve puzzles up to this difficulty.
    pub puzzle_solve: u8,
    /// A cookie secret is replaced after this time; the one before it stays valid as long again.
    pub cookie_lifetime: Duration,
    /// No more half-open IKE SAs than this: further requests are dropped.
    pub half_open: usize,
    /// No more half-open IKE SAs of one address than this.
    pub half_open_per_address: usize,
    /// A half-open IKE SA is forgotten after this time.
    pub half_open_timeout: Duration,
    /// No more IKE SAs than this, half-open or not: further requests are dropped.
    pub ike_sas: usize,
    /// No more EAP exchanges are under way than this: one takes tens of kilobytes.
    pub eap: usize,
    /// An EAP exchange is given up after this time. There may be a human in it.
    pub eap_timeout: Duration,
    /// No EAP exchange has more packets in one direction. EAP-TLS with long chains takes about twenty.
    pub eap_packets: u16,
    /// No message inside EAP-TLS is longer, put together: three times a large chain.
    pub eap_message: usize,
    /// No first request is longer. It is kept while the IKE SA is half open. RFC 7296 s2 wants 1,280 octets and better
    /// 3,000.
    pub first_request: usize,
    /// No message is longer, put together from fragments. A certificate chain is some kilobytes.
    pub message: usize,
    /// No message has more fragments.
    pub fragments: u16,
    /// No message has more payloads: without a bound one of 64 KiB could have 16,384.
    pub payloads: usize,
    /// No SA payload has more proposals: a peer with more is not negotiating, and each is compared with each of ours.
    pub proposals: usize,
    /// No identity is longer: it would fill logs and tables before the peer is authenticated.
    pub identity: usize,
    /// Comparisons of a peer's names with the name constraints of its CAs, in all of the paths that its certificates can
    /// be put into: a comparison costs microseconds, and the peer is not authenticated yet. No honest peer needs a tenth.
    pub name_comparisons: usize,
    /// No more stateless error answers than this in a second: they are a favour to honest peers (RFC 7296 s2.21.4).
    pub answers_per_second: u32,
    /// The log gets no more lines than this in a second of peers that have not proved themselves.
    pub log_lines_per_second: u32,
    /// No more datagrams wait for the control thread. At 20,000 handshakes a second 2,048 of them wait for a tenth of a
    /// second at most, less than it takes a peer to repeat one.
    pub queue: usize,
}

impl Default for FloodLimits {
    fn default() -> Self {
        Self {
            cookie_threshold: 256,
            cookie_threshold_per_address: 32,
            puzzle_threshold: Some(2_048),
            puzzle_difficulty: 16,
            puzzle_difficulty_max: 18,
            puzzle_unsolved_per_second: 100,
            puzzle_solve: 20,
            cookie_lifetime: Duration::from_secs(60),
            half_open: 50_000,
            half_open_per_address: 4_096,
            half_open_timeout: Duration::from_secs(30),
            ike_sas: 250_000,
            eap: 4_096,
            eap_timeout: Duration::from_secs(120),
            eap_packets: 200,
            eap_message: 64 << 10,
            first_request: 4 << 10,
            message: 64 << 10,
            fragments: 255,
            payloads: 256,
            proposals: 64,
            identity: 2048,
            name_comparisons: 20_000,
            answers_per_second: 1000,
            log_lines_per_second: 20,
            queue: 2048,
        }
    }
}

impl FloodLimits {
    /// How hard a puzzle is at so many half-open IKE SAs; `None` when there is none.
    pub(crate) fn puzzle(&self, half_open: usize) -> Option<u8> {
        let threshold = self.puzzle_threshold.filter(|&threshold| half_open >= threshold)?;
        let doublings = (half_open / threshold.max(1)).checked_ilog2().unwrap_or(0);
        let harder = self.puzzle_difficulty.saturating_add(u8::try_from(doublings).unwrap_or(u8::MAX));
        Some(harder.min(self.puzzle_difficulty_max))
    }

    /// Those of one EAP exchange.
    pub(crate) fn of_eap(&self) -> EapLimits {
        EapLimits { packets: self.eap_packets, message: self.eap_message }
    }

    /// Those of one message.
    pub(crate) fn of_message(&self) -> MessageLimits {
        MessageLimits { payloads: self.payloads, proposals: self.proposals, identity: self.identity }
    }
}

/// Bounds on what a peer that has proved itself can have, and on how long we go on with one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PeerLimits {
    /// No more Child SAs of all peers. A rekey makes one more for a while, which the data plane's tables have room for.
    pub child_sas: usize,
    /// A peer gets no more Child SAs of one IKE SA; twice as many while it rekeys them. It could fill the data plane
    /// otherwise.
    pub children: usize,
    /// Policies that one Child SA may turn into: local times remote prefixes.
    pub policies: usize,
    /// No more Child SAs of one child of the configuration on one IKE SA, where the peer narrows it and further packets
    /// ask for what it leaves out (RFC 7296 s2.9).
    pub narrowed: usize,
    /// After the peer left out a packet too, it is not asked for the like again for this time.
    pub left_out_pause: Duration,
    /// Nor for anything after so many of them within that time.
    pub left_out: usize,
    /// Child SAs and rekeys of an IKE SA whose additional key exchanges are under way (RFC 9370 s2.2.4). A peer that does
    /// one thing after the other has one.
    pub followups: usize,
    /// The next additional key exchange has to come within this time.
    pub followup_timeout: Duration,
    /// A peer may forget additional key exchanges of ours so often in a row.
    pub followup_retries: u8,
    /// No more addresses that a peer may move to are kept (RFC 4555 s3.4).
    pub addresses: usize,
    /// A responder that wants us to authenticate anew more often than this does not get it (RFC 4478).
    pub shortest_reauth: Duration,
    /// Cookies and other key exchange methods that a responder asks for are followed so often; one that wants more is
    /// playing with us.
    pub init_attempts: u8,
    /// After an attempt that failed, packets do not set off another one for so long. An attempt costs both ends a key
    /// exchange, and traffic asks for one without end; the peer that answered "no" will hardly change its mind sooner.
    /// Whoever mends the cause waits no longer than this, and an operator's `initiate` does not wait at all.
    pub acquire_pause: Duration,
    /// Peers whose inner addresses are remembered in each pool, so that they get them again.
    pub remembered_addresses: usize,
}

impl Default for PeerLimits {
    fn default() -> Self {
        Self {
            child_sas: 200_000,
            children: 256,
            policies: 4096,
            narrowed: 64,
            left_out_pause: Duration::from_secs(60),
            left_out: 64,
            followups: 4,
            followup_timeout: Duration::from_secs(20),
            followup_retries: 5,
            addresses: 16,
            shortest_reauth: Duration::from_secs(10),
            init_attempts: 6,
            acquire_pause: Duration::from_secs(5),
            remembered_addresses: 100_000,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn puzzles_get_harder_with_the_flood() {
        let limits =
            FloodLimits { puzzle_threshold: Some(100), puzzle_difficulty_max: 18, ..Default::default() };
        let hard = |half_open| limits.puzzle(half_open);
        let expected = [None, Some(16), Some(16), Some(17), Some(17), Some(18), Some(18)];
        assert_eq!([99, 100, 199, 200, 399, 400, 5000].map(hard), expected);
        let always = FloodLimits { puzzle_threshold: Some(0), ..limits };
        assert_eq!([0, 1, 2, 3, 9].map(|half_open| always.puzzle(half_open)), [16, 16, 17, 17, 18].map(Some));
        let off = FloodLimits { puzzle_threshold: None, ..limits };
        assert_eq!(off.puzzle(usize::MAX), None);
    }
}
