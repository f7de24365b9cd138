//! The cryptography of IKEv2, over AWS-LC.
//!
//! # The API in short
//!
//! ```text
//! Group::from_iana(31)                      which key exchanges there are, and why others are refused
//! KeyExchange::generate(group)              initiator: (KeyExchange, public value)
//! kex::respond(group, peer_public)          responder: (public value, shared secret)
//! kex::Deferred::respond(group, ...)        the same, where the shared secret can wait
//! KeyExchange::finish(peer_public)          initiator: shared secret
//! keys::skeyseed*(..), IkeKeys::derive(..)  the key schedule; IkeKeys::mix_ppk, child_keymat
//! SkSealer::new / SkOpener::new             the Encrypted payload: seal and open whole messages in place
//! SigningKey::choose / sign                 AUTH by signature: RFC 7427, RFC 8420, and the older methods
//! PublicKey::verify, SignatureScheme        the other side of it, and Authentication Data of method 14
//! ```
//!
//! All secrets are [`Secret`]s: zeroised on drop, never printed. Random bytes come from a [`Random`] that is
//! handed in. Every fallible step answers with a [`CryptoError`]. Nothing here knows the wire format of IKE
//! beyond the layout inside an Encrypted payload.

pub mod cipher;
mod error;
mod group;
pub mod kex;
pub mod keys;
mod modp;
mod modp_primes;
pub mod prf;
mod public_key;
mod random;
#[cfg(any(test, fuzzing))]
mod repeated;
pub mod scheme;
mod secret;
pub mod signature;
pub mod transform;

pub use cipher::{SkOpener, SkSealer};
pub use error::CryptoError;
pub use group::Group;
pub use kex::KeyExchange;
pub use keys::{ChildKeys, Exchange, IkeKeys, IkeSuite};
pub use prf::{Prf, PrfKey};
pub use public_key::{KeyKind, PublicKey, SignatureError};
pub use random::{Random, SystemRandom};
pub use scheme::{ClassicMethod, Hash, RsaPadding, SignatureScheme};
pub use secret::Secret;
pub use signature::SigningKey;
pub use transform::{AesKey, Encr, Integ};

#[cfg(any(test, fuzzing))]
pub(crate) use {random::testing::Seeded, repeated::repeat_key_exchanges};
