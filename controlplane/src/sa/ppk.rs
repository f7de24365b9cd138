//! Post-quantum preshared keys (RFC 8784): a second secret that goes into SK_d, SK_pi and SK_pr, so that whoever
//! breaks the key exchange later still cannot read the Child SAs.

use tracing::debug;

use super::core::{Core, Protection};
use crate::config::{Connection, Ppk};
use crate::crypto::{CryptoError, IkeKeys, Secret};
use crate::wire::{Notify, NotifyType};

/// PPK_ID_FIXED (RFC 8784 s5.1): the identity names one key that both ends have.
const ID_FIXED: u8 = 2;

/// SK_d, SK_pi and SK_pr as they were before a PPK went in.
pub(super) struct Unmixed {
    d: Secret,
    pi: Secret,
    pr: Secret,
}

/// PPK_IDENTITY in a request.
pub(super) fn identity(ppk: &Ppk) -> Notify<'static> {
    Notify::new(NotifyType::PPK_IDENTITY, [&[ID_FIXED], &*ppk.id].concat())
}

/// The PPK of the connection, if it is the one that the peer names.
pub(super) fn named<'c>(connection: &'c Connection, identity: &Notify<'_>) -> Option<&'c Ppk> {
    let (&kind, id) = identity.data.split_first()?;
    connection.ppk.as_ref().filter(|ppk| kind == ID_FIXED && *ppk.id == *id)
}

/// Mixes a PPK in (RFC 8784 s3). Returns what was there before.
pub(super) fn mix(core: &mut Core, ppk: &Ppk) -> Result<Unmixed, CryptoError> {
    let protection = core.protection.as_mut().ok_or(CryptoError::Library)?;
    let Protection { suite, d, pi, pr, .. } = protection;
    let none = || Secret::zeroed(0);
    let mut keys = IkeKeys {
        d: d.clone(),
        pi: pi.clone(),
        pr: pr.clone(),
        ai: none(),
        ar: none(),
        ei: none(),
        er: none(),
    };
    keys.mix_ppk(suite.prf, &ppk.secret)?;
    let replace = |slot: &mut Secret, fresh: &Secret| std::mem::replace(slot, fresh.clone());
    let before = Unmixed { d: replace(d, &keys.d), pi: replace(pi, &keys.pi), pr: replace(pr, &keys.pr) };
    debug!(ike = core.spi, "PPK in use");
    Ok(before)
}

/// Goes on without a PPK: the responder does not have it, and the connection does not insist.
pub(super) fn restore(core: &mut Core, unmixed: Unmixed) {
    if let Some(protection) = &mut core.protection {
        (protection.d, protection.pi, protection.pr) = (unmixed.d, unmixed.pi, unmixed.pr);
    }
}
