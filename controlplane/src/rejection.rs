//! What is not accepted, by name, and how often.

use crate::wire::{WireError, WireErrorKind};

macro_rules! rejections {
    ($($(#[$doc:meta])* $variant:ident = $name:literal;)*) => {
        /// A message, or what it asked for, that was not accepted.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum Rejection {
            $($(#[$doc])* $variant,)*
        }

        impl Rejection {
            /// All of them.
            pub const ALL: &[Self] = &[$(Self::$variant,)*];

            /// Its name in metrics and logs.
            pub const fn name(self) -> &'static str {
                match self {
                    $(Self::$variant => $name,)*
                }
            }
        }
    };
}

rejections! {
    /// Bytes that are no IKE message.
    Malformed = "malformed";
    /// Major version other than 2.
    MajorVersion = "major-version";
    /// No IKE SA has this SPI.
    UnknownSpi = "unknown-spi";
    /// The exchange type does not fit the state of the IKE SA.
    UnexpectedExchange = "unexpected-exchange";
    /// The message ID is not the next one, nor the one before.
    MessageId = "message-id";
    /// The integrity check failed.
    Integrity = "integrity";
    /// A cleartext message where only an encrypted one counts.
    Cleartext = "cleartext";
    /// A fragment that contradicts the others, or too many of them.
    Fragment = "fragment";
    /// No connection of the configuration fits the addresses.
    NoConnection = "no-connection";
    /// No common proposal.
    NoProposal = "no-proposal";
    /// A key exchange value for another method, or an invalid one.
    KeyExchange = "key-exchange";
    /// A cookie that we did not make, or an old one.
    Cookie = "cookie";
    /// A cookie was asked for.
    CookieRequired = "cookie-required";
    /// A puzzle was given: to a request without cookie, or with one that was no puzzle's.
    PuzzleRequired = "puzzle-required";
    /// The cookie of a puzzle came back without a solution, and the lot did not fall on it. Another puzzle was given.
    PuzzleMissing = "puzzle-missing";
    /// A wrong solution of a puzzle. Another puzzle was given.
    PuzzleWrong = "puzzle-wrong";
    /// A solution that has made a half-open IKE SA already.
    PuzzleSpent = "puzzle-spent";
    /// A responder's puzzle that is malformed, or harder than what we solve.
    PuzzleUnsolved = "puzzle-unsolved";
    /// Too many half-open IKE SAs.
    HalfOpen = "half-open-limit";
    /// Too many half-open IKE SAs of one address.
    HalfOpenAddress = "half-open-address-limit";
    /// A message with too many payloads.
    PayloadLimit = "payload-limit";
    /// An SA payload with too many proposals.
    ProposalLimit = "proposal-limit";
    /// An identity that is too long.
    IdentityLimit = "identity-limit";
    /// Certificates whose names and name constraints would take too many comparisons.
    NameLimit = "name-limit";
    /// A first request that is longer than what is kept of strangers.
    FirstRequestLength = "first-request-length";
    /// A line about a peer that has not proved itself, which the log did not get: too many in this second.
    LogLimit = "log-limit";
    /// A first request that comes when the gateway is going down.
    Closing = "closing";
    /// A first request again, which was answered long ago.
    Repetition = "repetition";
    /// A half-open IKE SA whose peer did not come back in time.
    HalfOpenTimeout = "half-open-timeout";
    /// Too many IKE SAs.
    IkeLimit = "ike-sa-limit";
    /// An error answer that was not sent: too many in this second.
    AnswerLimit = "answer-limit";
    /// No connection expects this identity.
    Identity = "identity";
    /// The AUTH payload is wrong or missing.
    Authentication = "authentication";
    /// An EAP exchange with too many packets, too long a message or too much time.
    EapLength = "eap-length";
    /// EAP failed: a wrong password, certificate or method.
    Eap = "eap";
    /// Too many EAP exchanges are under way.
    EapLimit = "eap-limit";
    /// No common traffic selectors.
    Selectors = "selectors";
    /// A critical payload that we do not know.
    CriticalPayload = "critical-payload";
    /// A payload that the exchange needs is missing, or there twice.
    Syntax = "syntax";
    /// The request collides with one of ours (RFC 7296 s2.25).
    Collision = "collision";
    /// The Child SA that the request is about does not exist.
    ChildNotFound = "child-not-found";
    /// An additional key exchange after CREATE_CHILD_SA that belongs to nothing under way (RFC 9370).
    FollowupUnknown = "followup-unknown";
    /// Selectors that make too many policies.
    PolicyLimit = "policy-limit";
    /// Traffic that would take one more Child SA of a child that has too many already.
    NarrowedLimit = "narrowed-limit";
    /// Traffic that our policy has and the peer's leaves out.
    LeftOut = "left-out";
    /// The like of what was left out a short time ago, or too much of it: the peer is not asked.
    LeftOutAgain = "left-out-again";
    /// Too many Child SAs of all peers.
    ChildSaLimit = "child-sa-limit";
    /// Too many Child SAs of one IKE SA.
    ChildLimit = "child-limit";
    /// Too many Child SAs whose additional key exchanges are under way at once.
    FollowupLimit = "followup-limit";
    /// A response to no request of ours.
    Unsolicited = "unsolicited-response";
    /// More addresses of a peer than are kept.
    AddressLimit = "address-limit";
    /// Addresses that a peer may not move to (RFC 4555).
    Addresses = "unacceptable-addresses";
    /// No address left, or none for this peer.
    Configuration = "configuration";
}

impl From<&WireError> for Rejection {
    /// A message that does not parse.
    fn from(error: &WireError) -> Self {
        match error.kind {
            WireErrorKind::MajorVersion(_) => Self::MajorVersion,
            WireErrorKind::UnsupportedCritical(_) => Self::CriticalPayload,
            WireErrorKind::Payloads(_) => Self::PayloadLimit,
            WireErrorKind::Proposals(_) => Self::ProposalLimit,
            WireErrorKind::Identity { .. } => Self::IdentityLimit,
            _ => Self::Malformed,
        }
    }
}

/// How often each rejection happened.
#[derive(Clone, Debug)]
pub struct Counters([u64; Rejection::ALL.len()]);

impl Default for Counters {
    fn default() -> Self {
        Self([0; Rejection::ALL.len()])
    }
}

impl Counters {
    /// Counts one.
    pub fn count(&mut self, rejection: Rejection) {
        if let Some(counter) = self.0.get_mut(rejection as usize) {
            *counter += 1;
        }
    }

    /// How often.
    pub fn get(&self, rejection: Rejection) -> u64 {
        self.0.get(rejection as usize).copied().unwrap_or(0)
    }

    /// Name and count of each, for metrics.
    pub fn iter(&self) -> impl Iterator<Item = (&'static str, u64)> {
        Rejection::ALL.iter().map(|&rejection| (rejection.name(), self.get(rejection)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_has_a_counter_and_a_name_of_its_own() {
        let mut counters = Counters::default();
        counters.count(Rejection::Cookie);
        counters.count(Rejection::Cookie);
        assert_eq!(counters.get(Rejection::Cookie), 2);
        assert_eq!(counters.iter().map(|(_, count)| count).sum::<u64>(), 2);
        let mut names: Vec<_> = counters.iter().map(|(name, _)| name).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), Rejection::ALL.len());
    }
}
