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

/// When an SA starts, and where its sequence numbers stand then.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Start {
    /// In nanoseconds of the workers' clock.
    pub now: u64,
    /// The highest sequence number that counts as used: sent by an outbound SA, received by an inbound one. 0 with
    /// a new key.
    pub used: u64,
}

/// An SA with a new key that starts now.
impl From<u64> for Start {
    fn from(now: u64) -> Self {
        Self { now, used: 0 }
    }
}

impl OutboundSa {
    /// An SA that sends from the number behind `start.used` on. Without ESN its lifetime ends with its sequence
    /// numbers at the latest.
    ///
    /// # Errors
    /// [`KeyError`] when the key does not fit the suite.
    pub fn new(
        crypto: &Crypto,
        params: SaParams,
        spi: Spi,
        options: OutboundOptions,
        key: &KeyMaterial,
        start: impl Into<Start>,
    ) -> Result<Arc<Self>, KeyError> {
        let start = start.into();
        let mut lifetime = params.lifetime;
        if !params.esn {
            lower(&mut lifetime.soft, SEQUENCE_SOFT.saturating_sub(start.used));
            lower(&mut lifetime.hard, SEQUENCE_HARD.saturating_sub(start.used));
        }
        Ok(Arc::new(Self {
            spi,
            options,
            sequence: Sequence::starting_at(start.used.saturating_add(1), params.esn),
            usage: Usage::new(lifetime, start.now),
            path_mtu: PathMtu::default(),
            key: crypto.key(params.suite, params.esn, key)?,
            params,
        }))
    }
}

impl InboundSa {
    /// An SA that takes every number up to `start.used` for a replay. A window of 0 turns anti-replay off.
    ///
    /// # Errors
    /// [`KeyError`] when the key does not fit the suite.
    #[allow(clippy::too_many_arguments, reason = "what an SA is made of, all of it once")]
    pub fn new(
        crypto: &Crypto,
        params: SaParams,
        spi: Spi,
        selectors: impl AsRef<[Selector]>,
        endpoints: Endpoints,
        window: u32,
        key: &KeyMaterial,
        start: impl Into<Start>,
    ) -> Result<Arc<Self>, KeyError> {
        let start = start.into();
        Ok(Arc::new(Self {
            spi,
            selectors: selectors.as_ref().into(),
            endpoints,
            replay: (window > 0).then(|| ReplayWindow::starting_at(start.used, window, params.esn)),
            usage: Usage::new(params.lifetime, start.now),
            key: crypto.key(params.suite, params.esn, key)?,
            params,
        }))
    }
}

fn lower(limits: &mut Limits, packets: u64) {
    limits.packets = Some(limits.packets.map_or(packets, |own| own.min(packets)));
}

#[cfg(test)]
#[cfg(not(loom))]
mod tests {
    use super::*;
    use crate::crypto::EngineChoice;
    use crate::drops::DropReason;
    use crate::sa::{Lifetime, Mode, Protocol, TunnelId};

    fn pair(esn: bool, used: u64) -> (Arc<OutboundSa>, Arc<InboundSa>) {
        let crypto = Crypto::new(EngineChoice::AwsLc).unwrap();
        let params = SaParams {
            tunnel: TunnelId(0),
            protocol: Protocol::Esp,
            mode: Mode::Tunnel,
            suite: "aes128gcm16".parse().unwrap(),
            esn,
            lifetime: Lifetime::default(),
            ecn: true,
        };
        let key = KeyMaterial::new(vec![7; 20]);
        let start = Start { now: 0, used };
        let endpoints =
            Endpoints { local: [198, 51, 100, 1].into(), remote: [198, 51, 100, 2].into(), udp: None };
        let options = OutboundOptions::default();
        let outbound = OutboundSa::new(&crypto, params.clone(), 0x1000, options, &key, start).unwrap();
        let inbound =
            InboundSa::new(&crypto, params, 0x2000, [] as [Selector; 0], endpoints, 64, &key, start).unwrap();
        (outbound, inbound)
    }

    #[test]
    fn numbers_go_on_behind_those_that_were_used() {
        for used in [0, 1_000, 5_000_000_000] {
            let (outbound, inbound) = pair(true, used);
            assert_eq!(outbound.sequence.reserve(1), Some(used + 1));
            let replay = inbound.replay.as_ref().unwrap();
            if used > 0 {
                assert_eq!(replay.accept(used), Err(DropReason::ReplayDuplicate));
            }
            assert_eq!(replay.accept(used + 1), Ok(()));
        }
    }

    #[test]
    fn thirty_two_bit_numbers_that_were_used_shorten_the_lifetime() {
        let (outbound, _) = pair(false, u64::from(u32::MAX) - 1);
        let mut lease = Default::default();
        let charge = outbound.usage.charge(&mut lease, 100, 1);
        assert!(charge.allowed && charge.reached.is_some(), "one is left, so it is time to replace the SA");
        assert!(!outbound.usage.charge(&mut lease, 100, 1).allowed);
        let (spent, _) = pair(false, u64::from(u32::MAX));
        assert!(spent.sequence.is_exhausted());
        assert!(!spent.usage.charge(&mut Default::default(), 100, 1).allowed);
    }
}
