//! What the engine must prove at start-up beyond the known answers of all engines: that every way through it,
//! one for each count of vectors, key length and layout, agrees with another engine.

use crate::crypto::engine::{ESP_HEADER_LEN, Engine};
use crate::crypto::{EngineError, Job, Key, KeyMaterial, Suite};

use super::{Tier, Vaes};

/// Bytes of payload: each side of where an engine takes another way, each count of vectors that a packet or its end may have,
/// with and without room for the length block.
const LENGTHS: [usize; 44] = [
    0, 1, 16, 17, 31, 32, 33, 48, 49, 64, 80, 81, 100, 112, 113, 128, 130, 160, 180, 200, 223, 225, 239, 240,
    241, 256, 270, 290, 320, 368, 380, 410, 440, 490, 495, 496, 497, 512, 760, 1000, 1424, 4090, 4400, 9000,
];

/// More packets than are in flight at once.
const BURST: usize = 9;

/// With ESN its upper half is not zero.
const SEQ: u64 = 0x1_0203_0405;

impl<T: Tier> Vaes<T> {
    /// Compares with `judge` every suite at every length: sealed packets must be the same, and each must open what
    /// the other sealed.
    ///
    /// # Errors
    /// [`EngineError::SelfTest`] names the suite and the length.
    pub fn agrees_with<E: Engine>(&self, judge: &E) -> Result<(), EngineError> {
        for suite in Suite::all().filter(|&suite| self.supports(suite)) {
            for (esn, len) in [false, true].into_iter().flat_map(|esn| LENGTHS.map(|len| (esn, len))) {
                if self.compare(judge, suite, esn, len).is_none() {
                    let what = format!("{suite}{}, {len} bytes", if esn { " with ESN" } else { "" });
                    return Err(EngineError::SelfTest { engine: Self::NAME, what });
                }
            }
        }
        Ok(())
    }

    fn compare<E: Engine>(&self, judge: &E, suite: Suite, esn: bool, len: usize) -> Option<()> {
        let material = KeyMaterial::new((0..suite.key_len()).map(|n| (n * 37 + len) as u8).collect());
        let ours = Key::with_engine(self, suite, esn, &material).ok()?;
        let theirs = Key::with_engine(judge, suite, esn, &material).ok()?;
        let len = ESP_HEADER_LEN + ours.iv_len() + len + ours.icv_len();
        let plain: Vec<u8> = (0..len).map(|n| (n * 11 + n / 256) as u8).collect();

        let mut packets = vec![plain.clone(); BURST];
        let mut judged = plain;
        let run = |engine: &dyn Fn(&mut [Job<'_>]), key: &Key, packets: &mut [Vec<u8>]| {
            let job = |packet| Job { key, packet, seq: SEQ, ok: false };
            let mut jobs: Vec<_> = packets.iter_mut().map(|packet| job(packet.as_mut_slice())).collect();
            engine(&mut jobs);
            jobs.iter().all(|job| job.ok)
        };
        let same = |packets: &[Vec<u8>], judged: &[u8]| packets.iter().all(|packet| packet == judged);

        let sealed = run(&|jobs| self.seal(jobs), &ours, &mut packets)
            && run(&|jobs| judge.seal(jobs), &theirs, std::slice::from_mut(&mut judged))
            && same(&packets, &judged);
        let opened = run(&|jobs| self.open(jobs), &ours, &mut packets)
            && run(&|jobs| judge.open(jobs), &theirs, std::slice::from_mut(&mut judged))
            && same(&packets, &judged);
        (sealed && opened).then_some(())
    }
}
