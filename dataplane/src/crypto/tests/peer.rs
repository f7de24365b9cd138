//! Packets of another implementation: every suite, with and without ESN, on both sides of the 32-bit wrap.

use super::*;
use crate::crypto::known_answer::{KnownAnswer, Packet, parse};
use crate::crypto::suite::Encryption;

const PACKETS: &str = include_str!("../vectors/ipsec.txt");

/// Opens every packet, and seals those whose IV is known beforehand.
pub fn check<E: Engine>(engine: &E) {
    for suite in suites(engine) {
        let mut packets = 0;
        for answer in parse(PACKETS).map(|answer| answer.unwrap()).filter(|answer| answer.suite == suite) {
            check_packet(engine, &answer);
            packets += 1;
        }
        assert_eq!(packets, 6, "{suite}");
    }
}

fn check_packet<E: Engine>(engine: &E, answer: &KnownAnswer) {
    let KnownAnswer { suite, esn, seq, ref material, ref packet } = *answer;
    let Packet::Esp { plaintext, sealed } = packet else { panic!("{suite} in an AH packet") };
    let key = Key::with_engine(engine, suite, esn, material).unwrap();

    let mut packet = sealed.clone();
    assert!(open(engine, &key, &mut packet, seq), "{suite}");
    assert_eq!(payload(&key, &packet), plaintext, "{suite}");

    let mut packet = unsealed(&key, *sealed.first_chunk().unwrap(), plaintext);
    assert!(seal(engine, &key, &mut packet, seq), "{suite}");
    match suite.encryption() {
        Some(Encryption::AesCbc(_) | Encryption::TripleDesCbc) => {
            assert_ne!(packet, *sealed, "{suite}: the IV is to be unpredictable");
            assert!(open(engine, &key, &mut packet, seq), "{suite}");
            assert_eq!(payload(&key, &packet), plaintext, "{suite}");
        }
        _ => assert_eq!(packet, *sealed, "{suite}"),
    }
}

mod ah {
    use super::*;
    use crate::crypto::{AhJob, Crypto, EngineChoice};

    fn answers() -> impl Iterator<Item = (KnownAnswer, usize, Vec<u8>, Vec<u8>)> {
        parse(PACKETS).map(|answer| answer.unwrap()).filter_map(|answer| match &answer.packet {
            Packet::Ah { icv_at, packet, icv } => {
                let (icv_at, mut packet, icv) = (*icv_at, packet.clone(), icv.clone());
                packet.extend_from_slice(if answer.esn { &[0xee; 4] } else { &[] });
                Some((answer, icv_at, packet, icv))
            }
            Packet::Esp { .. } => None,
        })
    }

    #[test]
    fn packets_of_another_implementation() {
        let crypto = Crypto::new(EngineChoice::AwsLc).unwrap();
        let mut packets = 0;
        for (answer, icv_at, mut packet, icv) in answers() {
            let KnownAnswer { suite, esn, seq, material, .. } = answer;
            let key = crypto.key(suite, esn, &material).unwrap();
            assert_eq!(icv.len(), key.iv_len() + key.icv_len(), "{suite}");
            let mut jobs = [AhJob { key: &key, packet: &mut packet, icv_at, seq, ok: false }];
            crypto.seal_ah(&mut jobs);
            assert!(jobs[0].ok, "{suite}");
            assert_eq!(packet[icv_at..icv_at + icv.len()], icv, "{suite}");

            let before = packet.clone();
            let mut jobs = [AhJob { key: &key, packet: &mut packet, icv_at, seq, ok: false }];
            crypto.open_ah(&mut jobs);
            assert!(jobs[0].ok, "{suite}");
            assert_eq!(packet, before, "{suite}: the ICV stays in place");
            packets += 1;
        }
        assert_eq!(packets, 6 * 3 * 2 + 3 * 3);
    }

    #[test]
    fn a_changed_bit_or_upper_half_is_refused() {
        let crypto = Crypto::new(EngineChoice::AwsLc).unwrap();
        for (answer, icv_at, mut packet, icv) in answers() {
            let KnownAnswer { suite, esn, seq, material, .. } = answer;
            let key = crypto.key(suite, esn, &material).unwrap();
            packet[icv_at..icv_at + icv.len()].copy_from_slice(&icv);
            let end = packet.len() - if esn { 4 } else { 0 };
            for bit in 0..end * 8 {
                let mut packet = packet.clone();
                packet[bit / 8] ^= 1 << (bit % 8);
                let mut jobs = [AhJob { key: &key, packet: &mut packet, icv_at, seq, ok: true }];
                crypto.open_ah(&mut jobs);
                assert!(!jobs[0].ok, "{suite}, bit {bit}");
            }
            let mut jobs = [AhJob { key: &key, packet: &mut packet, icv_at, seq: seq ^ (1 << 32), ok: true }];
            crypto.open_ah(&mut jobs);
            assert_eq!(jobs[0].ok, !esn, "{suite}");
        }
    }

    #[test]
    fn an_icv_that_does_not_fit_is_refused() {
        let crypto = Crypto::new(EngineChoice::AwsLc).unwrap();
        for (answer, icv_at, mut packet, icv) in answers() {
            let key = crypto.key(answer.suite, answer.esn, &answer.material).unwrap();
            let room = packet.len() - if answer.esn { 4 } else { 0 } - icv.len();
            for (icv_at, fits) in [(icv_at, true), (room, true), (room + 1, false), (usize::MAX, false)] {
                let mut jobs = [AhJob { key: &key, packet: &mut packet, icv_at, seq: 1, ok: !fits }];
                crypto.seal_ah(&mut jobs);
                assert_eq!(jobs[0].ok, fits, "{}", answer.suite);
                crypto.open_ah(&mut jobs);
                assert_eq!(jobs[0].ok, fits, "{}", answer.suite);
            }
            let mut jobs = [AhJob { key: &key, packet: &mut [], icv_at: 0, seq: 1, ok: true }];
            crypto.open_ah(&mut jobs);
            assert!(!jobs[0].ok);
        }
    }

    #[test]
    fn a_key_of_the_other_protocol_is_refused() {
        let crypto = Crypto::new(EngineChoice::AwsLc).unwrap();
        let engine = AwsLc::new();
        let (ah, esp) = (
            key(&engine, "sha256".parse().unwrap(), false, 1),
            key(&engine, "null-sha256".parse().unwrap(), false, 1),
        );
        let mut packet = [0; 100];
        assert!(!seal(&engine, &ah, &mut packet, 1) && !open(&engine, &ah, &mut packet, 1));
        let mut jobs = [AhJob { key: &esp, packet: &mut packet, icv_at: 40, seq: 1, ok: true }];
        crypto.seal_ah(&mut jobs);
        assert!(!jobs[0].ok);
    }
}
