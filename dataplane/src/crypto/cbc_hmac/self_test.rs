//! What the engine must prove at start-up beyond the known answers of all engines, which come one by one: that bursts which fill
//! its lanes, and leave them, agree with another engine.

use super::CbcHmac;
use crate::crypto::engine::{ESP_HEADER_LEN, Engine};
use crate::crypto::{EngineError, Job, Key, KeyMaterial, Suite, self_test};

/// Packets of a burst: some of the lanes, all of them, and as many as go through together.
const BURSTS: [usize; 5] = [2, 7, 13, 16, 64];

/// With ESN its upper half is not zero.
const SEQ: u64 = 0x1_0203_0405;

impl CbcHmac {
    /// Puts each set of instructions that the engine may take to the self-tests.
    ///
    /// # Errors
    /// [`EngineError::SelfTest`] names what it did wrong.
    pub fn prove<J: Engine>(&self, judge: &J) -> Result<(), EngineError> {
        for ciphers in self.ciphers.each() {
            let engine = Self { ciphers, ..*self };
            self_test::esp(&engine)?;
            engine.agrees_with(judge)?;
        }
        Ok(())
    }

    /// Compares with `judge` bursts of every suite: each must open what the other sealed.
    fn agrees_with<J: Engine>(&self, judge: &J) -> Result<(), EngineError> {
        for suite in Suite::all().filter(|&suite| self.supports(suite)) {
            for (esn, burst) in [false, true].into_iter().flat_map(|esn| BURSTS.map(|burst| (esn, burst))) {
                if self.compare(judge, suite, esn, burst).is_none() {
                    let what = format!(
                        "{suite}{}, {burst} packets with {:?} and {:?}",
                        if esn { " with ESN" } else { "" },
                        self.ciphers,
                        self.hashes
                    );
                    return Err(EngineError::SelfTest { engine: Self::NAME, what });
                }
            }
        }
        Ok(())
    }

    fn compare<J: Engine>(&self, judge: &J, suite: Suite, esn: bool, burst: usize) -> Option<()> {
        let material = KeyMaterial::new((0..suite.key_len()).map(|n| (n * 37 + burst) as u8).collect());
        let ours = Key::with_engine(self, suite, esn, &material).ok()?;
        let theirs = Key::with_engine(judge, suite, esn, &material).ok()?;
        let start = ESP_HEADER_LEN + ours.iv_len();
        let plain: Vec<Vec<u8>> = (0..burst)
            .map(|n| {
                let len = start + suite.pad_align() * (1 + n * 29 % 90) + ours.icv_len();
                (0..len).map(|at| (at * 11 + n) as u8).collect()
            })
            .collect();
        let run = |engine: &dyn Fn(&mut [Job<'_>]), key: &Key, packets: &mut [Vec<u8>]| {
            let job = |packet| Job { key, packet, seq: SEQ, ok: false };
            let mut jobs: Vec<_> = packets.iter_mut().map(|packet| job(packet.as_mut_slice())).collect();
            engine(&mut jobs);
            jobs.iter().all(|job| job.ok)
        };
        let payload = |packet: &[u8]| packet.get(start..packet.len() - ours.icv_len()).map(<[u8]>::to_vec);
        let same = |packets: &[Vec<u8>]| {
            packets.iter().zip(&plain).all(|(packet, plain)| payload(packet) == payload(plain))
        };

        let mut packets = plain.clone();
        let sealed = run(&|jobs| self.seal(jobs), &ours, &mut packets)
            && run(&|jobs| judge.open(jobs), &theirs, &mut packets)
            && same(&packets);
        let mut packets = plain.clone();
        let opened = run(&|jobs| judge.seal(jobs), &theirs, &mut packets)
            && run(&|jobs| self.open(jobs), &ours, &mut packets)
            && same(&packets);
        (sealed && opened).then_some(())
    }
}
