//! SAs from what is known of them: keys, SPIs, addresses, options.

use std::sync::Arc;

use crate::crypto::{Crypto, KeyError, KeyMaterial};
use crate::policy::Selector;
use crate::sa::lifetime::Usage;
use crate::sa::path_mtu::PathMtu;
use crate::sa::replay::ReplayWindow;
use crate::sa::sequence::Sequence;
use crate::sa::{Endpoints, InboundSa, Limits, OutboundOptions, OutboundSa, SaParams, Spi};

/// Packets after which a 32-bit sequence number is used up, and by when it should be replaced: 2^32 - 1, and
/// seven eighths of it.
const SEQUENCE_HARD: u64 = u32::MAX as u64;
const SEQUENCE_SOFT: u64 = SEQUENCE_HARD / 8 * 7;

impl OutboundSa {
    /// An SA that starts at `now`, in nanoseconds of the workers' clock. Without ESN its lifetime ends with its
    /// sequence numbers at the latest.
    ///
    /// # Errors
    /// [`KeyError`] when the key does not fit the suite.
    pub fn new(
        crypto: &Crypto,
        params: SaParams,
        spi: Spi,
        options: OutboundOptions,
        key: &KeyMaterial,
        now: u64,
    ) -> Result<Arc<Self>, KeyError> {
        let mut lifetime = params.lifetime;
        if !params.esn {
            lower(&mut lifetime.soft, SEQUENCE_SOFT);
            lower(&mut lifetime.hard, SEQUENCE_HARD);
        }
        Ok(Arc::new(Self {
            spi,
            options,
            sequence: Sequence::new(params.esn),
            usage: Usage::new(lifetime, now),
            path_mtu: PathMtu::default(),
            key: crypto.key(params.suite, params.esn, key)?,
            params,
        }))
    }
}

impl InboundSa {
    /// An SA that starts at `now`, in nanoseconds of the workers' clock. A window of 0 turns anti-replay off.
    ///
    /// # Errors
    /// [`KeyError`] when the key does not fit the suite.
    #[allow(clippy::too_many_arguments, reason = "what an SA is made of, all of it once")]
    pub fn new(
        crypto: &Crypto,
        params: SaParams,
        spi: Spi,
        selectors: Vec<Selector>,
        endpoints: Endpoints,
        window: u32,
        key: &KeyMaterial,
        now: u64,
    ) -> Result<Arc<Self>, KeyError> {
        Ok(Arc::new(Self {
            spi,
            selectors: selectors.into_boxed_slice(),
            endpoints,
            replay: (window > 0).then(|| ReplayWindow::new(window, params.esn)),
            usage: Usage::new(params.lifetime, now),
            key: crypto.key(params.suite, params.esn, key)?,
            params,
        }))
    }
}

fn lower(limits: &mut Limits, packets: u64) {
    limits.packets = Some(limits.packets.map_or(packets, |own| own.min(packets)));
}
