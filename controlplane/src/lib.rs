//! IKEv2 for Spillway: a sans-IO protocol core, and the one control thread that drives it.
//!
//! [`Endpoint`] is the core. It is fed with datagrams and time and gives back datagrams, changes to the Child SAs
//! ([`update::ChildUpdate`]) and news ([`update::Event`]). What it accepts is in [`config`].
//!
//! # Attacks, and why they fail
//!
//! - **Spoofed floods** (RFC 7296 s2.6): above a threshold of half-open IKE SAs, in all or of one address, a peer must
//!   return a stateless cookie; what is half open is bounded and times out. One address gets a cookie and not a
//!   refusal, since there may be a NAT with many users behind it.
//! - **Replay**: message IDs are checked before decryption, and a repeated request only brings the last response
//!   back. A replayed first request gets the same answer while it is half open, and no second state.
//! - **Reflection**: the Initiator flag of a message must be that of the other end, and each direction has its own
//!   keys.
//! - **Forged errors**: nothing in IKE_SA_INIT is authentic, so an error there is believed only after a wait for the
//!   true response; a key exchange method is changed only to one that we offered. Cleartext messages count for
//!   nothing once there are keys.
//! - **Downgrade**, of a proposal, of IKE_INTERMEDIATE or of a PPK: AUTH covers both messages of IKE_SA_INIT and every
//!   IKE_INTERMEDIATE message and their number. Whoever insists on ML-KEM or a PPK refuses to go on without.
//! - **Identity probing**: a wrong identity, a wrong key and a wrong certificate all get AUTHENTICATION_FAILED; the
//!   reason is in our log alone.
//! - **Amplification**: an answer to a stranger is about as long as the request, and error answers are limited in
//!   number.
//! - **A NAT mapping that is stolen**: the peer's address follows only a new authentic message, and only when the
//!   peer is behind a NAT.
//! - **Malformed messages**: parsers return errors that name payload and offset; an authentic but malformed request
//!   ends the IKE SA as RFC 7296 s2.21.3 says, and an unauthentic one changes nothing.
//!
//! `sim/hostile.rs`, `sim/auth.rs` and `wire/payload/tests.rs` try each of them.
#![forbid(unsafe_code)]

pub mod auth;
pub mod config;
pub mod crypto;
pub mod endpoint;
#[cfg(any(test, fuzzing))]
pub mod fuzzing;
mod gate;
pub mod keylog;
mod lease;
pub mod ledger;
mod peer;
mod pool;
pub mod proposal;
pub mod rejection;
mod sa;
pub mod selector;
#[cfg(any(test, fuzzing))]
mod sim;
pub mod thread;
pub mod timer;
pub mod update;
pub mod waiters;
pub mod wire;

pub use endpoint::Endpoint;
