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
//!   reason is in our log alone. With EAP an unknown user gets the same messages as a wrong password.
//! - **EAP without server authentication** (RFC 7296 s2.16): an initiator says nothing in EAP before the responder has
//!   proved itself by a certificate or a raw key. Without one only EAP-TLS will do, and only where the configuration
//!   says so (RFC 5998).
//! - **EAP carried into another IKE SA**: both ends end EAP with an AUTH payload by its key, which covers this
//!   IKE_SA_INIT and both identities.
//! - **An AUTH payload that is cut short**: values are compared whole, in constant time; no length but the full one
//!   verifies.
//! - **Work that costs the sender nothing**: a first request costs us a key pair, and no shared secret before a message
//!   comes to the SPI that only the true address learns. That message need not be good: Diffie-Hellman gives the
//!   responder no way to tell. So what strangers can make us compute has a bound: an IKE SA whose peer
//!   fails, or never comes back, counts as half open for `half_open_timeout`, and of one address (an IPv6 network of 64
//!   bits) and in all there are only so many. Above a threshold it also has a price, a puzzle (RFC 8019): one solution
//!   buys one half-open IKE SA and with it one key exchange. We sign after the initiator has proved itself, except where RFC 7296
//!   s2.16 has the responder go first (EAP), whose number is bounded.
//! - **Puzzles that are evaded**: what was asked for, and when, is in the cookie under its MAC. A solution is for one
//!   address, port and SPI, and its cookie is too old when the half-open IKE SA that it made is gone. Who has no solution
//!   is served by lot, after a cookie, so that whoever sends most in the first moment of a second has not all of it.
//! - **Puzzles that we are given**, by who knows whom: we solve them up to a difficulty, in slices between all else, and
//!   while we do, no further one makes us begin anew.
//! - **Room that strangers take**: a first request is kept until AUTH covers it, so it has a greatest length; IKE SAs
//!   whose peer failed are bounded as above and leave the rest of the table to honest peers.
//! - **Lines that strangers write**: what the log gets of peers that have not proved themselves is bounded for each
//!   second, and what was not written is counted.
//! - **Amplification**: an answer to a stranger is about as long as the request, and error answers are limited in
//!   number.
//! - **A peer that takes ever more**, once it is authenticated: Child SAs of an IKE SA are bounded, and so is what is
//!   begun and not finished of additional key exchanges, in number and time.
//! - **A NAT mapping that is stolen**: the peer's address follows only a new authentic message, and only when the
//!   peer is behind a NAT. With MOBIKE no IKE message moves anything but the one that says so, and tunnels follow to
//!   another address only after a return routability check, so that no peer can have us flood somebody else.
//! - **Malformed messages**: parsers return errors that name payload and offset; an authentic but malformed request
//!   ends the IKE SA as RFC 7296 s2.21.3 says, and an unauthentic one changes nothing.
//!
//! | attack | tried by |
//! |---|---|
//! | floods, replayed first request, amplification | `sim/hostile.rs`: `a_flood_of_spoofed_requests_…`, `a_repeated_first_request_…`, `garbage_…` |
//! | work that costs the sender nothing | `sim/hostile.rs`: `a_first_request_costs_no_shared_secret`, `sim/strangers.rs`: `peers_that_fail_stay_half_open_…` |
//! | puzzles, ours | `sim/puzzles.rs`: `a_solution_is_good_for_one_…`, `an_easier_puzzle_…`, `nobody_is_served_by_lot_…`; `endpoint/cookie.rs` |
//! | puzzles, theirs | `sim/puzzles.rs`: `puzzles_are_solved_in_slices`, `a_puzzle_that_is_too_hard_…` |
//! | room, lines | `sim/strangers.rs`: `peers_that_fail_…`, `a_first_request_that_is_too_long_…`, `the_log_gets_so_many_lines_…` |
//! | replay, reflection | `sim/hostile.rs`: `replays_and_reflections_change_nothing` |
//! | forged errors, bent first messages | `sim/hostile.rs`: `forged_errors_…`, `no_bit_of_the_first_exchange_…` |
//! | downgrade, also through IKE_INTERMEDIATE | `sim/auth.rs`: `a_downgrade_of_the_offer_…`, `who_insists_on_ml_kem_…` |
//! | identity probing | `sim/basic.rs`: `wrong_psk_and_unknown_identity_…`, `sim/eap.rs`: `wrong_password_and_unknown_user_…` |
//! | EAP without server authentication | `sim/eap.rs`: `eap_without_server_authentication_is_refused` |
//! | EAP of another IKE SA | `sim/eap.rs`: `the_key_of_eap_ties_it_…`, `a_success_that_the_method_did_not_reach_…` |
//! | AUTH cut short | `sim/eap.rs`: `an_auth_payload_that_is_cut_short_…`, `auth/proof.rs`: every length of every method |
//! | ever more | `sim/followup.rs`: `what_a_peer_has_under_way_is_bounded`, `child_sas_of_a_peer_are_bounded` |
//! | stolen path | `sim/mobike.rs`: `a_peer_that_is_not_where_it_says_…`, `a_wrong_cookie_…` |
//! | malformed messages | `sim/hostile.rs`: `bent_…`, `wire/payload/tests.rs` |
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
pub mod limits;
mod peer;
mod per_second;
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
