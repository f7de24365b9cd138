//! What every engine must answer before it carries traffic.

use super::aws_lc::AwsLc;
use super::engine::{ESP_HEADER_LEN, Engine};
use super::known_answer::{KnownAnswer, Packet, parse};
use super::suite::Encryption;
use super::{AhJob, EngineError, Job, Key};

/// Packets of another implementation, one of each suite.
const KNOWN_ANSWERS: &str = include_str!("vectors/known_answers.txt");

/// Asks an engine for every ESP suite that it carries: it must open the known packet, seal what gives the known
/// packet (CBC, whose IV is not to be known: what opens again), and refuse the packet with one bit changed.
///
/// # Errors
/// [`EngineError::SelfTest`] names the suite and the step.
pub fn esp<E: Engine>(engine: &E) -> Result<(), EngineError> {
    each::<E>(|answer| match &answer.packet {
        Packet::Esp { plaintext, sealed } if engine.supports(answer.suite) => {
            check_esp(engine, answer, plaintext, sealed)
        }
        _ => Ok(()),
    })
}

/// The same for AH, which only aws-lc-rs carries.
///
/// # Errors
/// [`EngineError::SelfTest`] names the suite and the step.
pub fn ah(engine: &AwsLc) -> Result<(), EngineError> {
    each::<AwsLc>(|answer| match &answer.packet {
        Packet::Ah { icv_at, packet, icv } => check_ah(engine, answer, *icv_at, packet, icv),
        Packet::Esp { .. } => Ok(()),
    })
}

fn each<E: Engine>(check: impl Fn(&KnownAnswer) -> Result<(), &'static str>) -> Result<(), EngineError> {
    let fail = |what| EngineError::SelfTest { engine: E::NAME, what };
    for answer in parse(KNOWN_ANSWERS) {
        let answer = answer.map_err(|line| fail(format!("known answers, {line}")))?;
        check(&answer).map_err(|step| fail(format!("{}, {step}", answer.suite)))?;
    }
    Ok(())
}

fn check_esp<E: Engine>(
    engine: &E,
    answer: &KnownAnswer,
    plaintext: &[u8],
    sealed: &[u8],
) -> Result<(), &'static str> {
    let KnownAnswer { suite, esn, seq, ref material, .. } = *answer;
    let key = Key::with_engine(engine, suite, esn, material).map_err(|_| "key")?;
    let start = ESP_HEADER_LEN + key.iv_len();
    let payload = start..start + plaintext.len();
    let open = |packet: &mut [u8]| {
        let mut jobs = [Job { key: &key, packet, seq, ok: false }];
        engine.open(&mut jobs);
        jobs.iter().all(|job| job.ok)
    };

    let mut packet = sealed.to_vec();
    if !open(&mut packet) || packet.get(payload.clone()) != Some(plaintext) {
        return Err("open");
    }

    let mut jobs = [Job { key: &key, packet: &mut packet, seq, ok: false }];
    engine.seal(&mut jobs);
    if !jobs.iter().all(|job| job.ok) {
        return Err("seal");
    }
    let chosen_iv = matches!(suite.encryption(), Some(Encryption::AesCbc(_) | Encryption::TripleDesCbc));
    if !chosen_iv && packet != sealed {
        return Err("sealed packet");
    }
    if !open(&mut packet) || packet.get(payload.clone()) != Some(plaintext) {
        return Err("open what was sealed");
    }

    for changed in [0, ESP_HEADER_LEN, sealed.len() - 1] {
        let mut packet = sealed.to_vec();
        packet.iter_mut().skip(changed).take(1).for_each(|byte| *byte ^= 0x10);
        if open(&mut packet) || packet.get(payload.clone()) == Some(plaintext) {
            return Err("refuse a changed packet");
        }
    }
    Ok(())
}

fn check_ah(
    engine: &AwsLc,
    answer: &KnownAnswer,
    icv_at: usize,
    packet: &[u8],
    icv: &[u8],
) -> Result<(), &'static str> {
    let KnownAnswer { suite, esn, seq, ref material, .. } = *answer;
    let key = Key::with_engine(engine, suite, esn, material).map_err(|_| "key")?;
    let mut packet = packet.to_vec();
    packet.extend(esn.then_some([0xff; 4]).into_iter().flatten());

    let mut jobs = [AhJob { key: &key, packet: &mut packet, icv_at, seq, ok: false }];
    engine.seal_ah(&mut jobs);
    if !jobs.iter().all(|job| job.ok) || packet.get(icv_at..icv_at + icv.len()) != Some(icv) {
        return Err("seal");
    }
    for (changed, expected) in [(None, true), (Some(0), false), (Some(icv_at), false)] {
        packet.iter_mut().skip(changed.unwrap_or(usize::MAX)).take(1).for_each(|byte| *byte ^= 0x10);
        let mut jobs = [AhJob { key: &key, packet: &mut packet, icv_at, seq, ok: false }];
        engine.open_ah(&mut jobs);
        if jobs.iter().any(|job| job.ok != expected) {
            return Err(if expected { "open" } else { "refuse a changed packet" });
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::crypto::{EngineKey, KeyError, KeyMaterial, Suite};

    /// What an engine does wrong after it opened a packet.
    type Defect = fn(&mut Job<'_>);

    /// aws-lc with one defect.
    struct Broken(Defect);

    impl Engine for Broken {
        const NAME: &'static str = "broken";
        fn supports(&self, suite: Suite) -> bool {
            suite.to_string() == "aes128gcm16"
        }
        fn key(&self, suite: Suite, esn: bool, material: &KeyMaterial) -> Result<EngineKey, KeyError> {
            AwsLc::new().key(suite, esn, material)
        }
        fn seal(&self, jobs: &mut [Job<'_>]) {
            AwsLc::new().seal(jobs);
        }
        fn open(&self, jobs: &mut [Job<'_>]) {
            AwsLc::new().open(jobs);
            jobs.iter_mut().for_each(self.0);
        }
    }

    #[test]
    fn every_suite_has_a_known_answer() {
        let answered: Vec<_> = parse(KNOWN_ANSWERS).map(|answer| answer.unwrap().suite).collect();
        for suite in Suite::all() {
            assert_eq!(answered.iter().filter(|&&known| known == suite).count(), 1, "{suite}");
        }
    }

    #[test]
    fn a_sound_engine_passes() {
        assert_eq!(esp(&AwsLc::new()).and_then(|()| ah(&AwsLc::new())), Ok(()));
    }

    #[test]
    fn a_defect_is_found_and_named() {
        let defects: [(Defect, &str); 3] = [
            (|job| job.packet[16] ^= 1, "aes128gcm16, open"),
            (|job| job.ok = true, "aes128gcm16, refuse a changed packet"),
            (|job| job.ok = false, "aes128gcm16, open"),
        ];
        for (defect, what) in defects {
            let error = EngineError::SelfTest { engine: "broken", what: what.to_owned() };
            assert_eq!(esp(&Broken(defect)), Err(error));
        }
    }
}
