use std::slice::from_ref;

use super::*;

fn ike(text: &str) -> Proposal {
    Proposal::ike(text).unwrap()
}

fn offered(proposals: &[Proposal]) -> Vec<wire::Proposal> {
    offer(proposals, ProposalSpi::None)
}

fn chosen(ours: &[Proposal], theirs: &[Proposal]) -> String {
    select(ours, &offered(theirs)).unwrap().to_string()
}

#[test]
fn keywords_become_transforms() {
    for (text, shown) in [
        ("aes256gcm16-prfsha384-x25519", "IKE:AES_GCM_16_256/PRF_HMAC_SHA2_384/CURVE25519"),
        ("aes128-sha256-modp2048", "IKE:AES_CBC_128/PRF_HMAC_SHA2_256/HMAC_SHA2_256_128/MODP_2048"),
        (
            "chacha20poly1305-prfsha256-x25519-ke1_mlkem768-ke2_none",
            "IKE:CHACHA20_POLY1305/PRF_HMAC_SHA2_256/CURVE25519/KE1_ML_KEM_768/KE2_NONE",
        ),
    ] {
        assert_eq!(ike(text).to_string(), shown);
    }
    assert_eq!(Proposal::esp("aes128gcm16-esn").unwrap().to_string(), "ESP:AES_GCM_16_128/ESN");
    assert_eq!(
        Proposal::esp("aes256-sha256").unwrap().to_string(),
        "ESP:AES_CBC_256/HMAC_SHA2_256_128/NO_ESN"
    );
    assert_eq!(Proposal::ah("sha512-esn-noesn").unwrap().to_string(), "AH:HMAC_SHA2_512_256/ESN/NO_ESN");
}

#[test]
fn what_is_broken_is_refused_with_the_reason() {
    for (text, says) in [
        ("aes128-sha256-modp768", "group 1"),
        ("aes128-sha256-modp1024", "group 2"),
        ("aes128-sha256-modp1536", "group 5"),
        ("aes128-sha256-modp1024s160", "group 22"),
        ("aes128-sha256-x25519-ke1_modp1024", "group 2"),
        ("aes128-md5-modp2048", "MD5"),
        ("aes128-sha256-prfmd5-modp2048", "MD5"),
        ("des-sha256-modp2048", "56-bit"),
    ] {
        let error = Proposal::ike(text).unwrap_err();
        assert!(matches!(error, ProposalError::Refused { .. }), "{text}: {error}");
        assert!(error.to_string().contains(says), "{text}: {error}");
    }
}

#[test]
fn impossible_combinations_are_refused() {
    for (text, says) in [
        ("aes256gcm16-x25519", "needs a PRF"),
        ("aes256gcm16-sha256-x25519", "takes no integrity algorithm"),
        ("aes256gcm16-aes256-sha256-x25519", "two proposals"),
        ("aes256-x25519", "integrity"),
        ("aes256-sha256", "key exchange"),
        ("aes256-sha256-x25519-esn", "for ESP"),
        ("null-sha256-x25519", "for ESP only"),
        ("aes256-sha256-x25520", "unknown algorithm `x25520`"),
        ("", "unknown algorithm"),
    ] {
        let error = Proposal::ike(text).unwrap_err().to_string();
        assert!(error.contains(says), "{text}: {error}");
    }
    assert!(Proposal::esp("aes128").unwrap_err().to_string().contains("not safe"));
    assert!(
        Proposal::esp("aes128gcm16-ke1_mlkem768").unwrap_err().to_string().contains("first key exchange")
    );
    assert!(Proposal::ah("aes128gcm16").unwrap_err().to_string().contains("AH takes"));
}

#[test]
fn weak_ones_warn() {
    assert_eq!(ike("3des-sha1-modp2048").warnings().len(), 3);
    assert!(ike("aes128-sha256-modp2048").warnings().is_empty());
}

#[test]
fn our_order_decides() {
    let ours =
        [ike("aes256gcm16-aes128gcm16-prfsha384-prfsha256-x25519-ecp256"), ike("aes128-sha256-modp2048")];
    let theirs = [ike("aes128-sha256-modp2048"), ike("aes128gcm16-aes256gcm16-prfsha256-ecp256-x25519")];
    assert_eq!(chosen(&ours, &theirs), "IKE:AES_GCM_16_256/PRF_HMAC_SHA2_256/CURVE25519");
    let answer = select(&ours, &offered(&theirs)).unwrap().answer(ProposalSpi::None);
    assert_eq!(answer.number, 2);
    assert_eq!(verify(&theirs, &[answer]).unwrap().ke(), Some(KeId::CURVE25519));
}

#[test]
fn key_lengths_must_be_equal() {
    assert!(select(&[ike("aes256-sha256-x25519")], &offered(&[ike("aes128-sha256-x25519")])).is_err());
}

#[test]
fn no_match_shows_both_sides_and_the_missing_piece() {
    let ours = [ike("aes256gcm16-prfsha384-x25519"), ike("aes128-sha256-x25519")];
    let theirs = [ike("aes128-sha256-modp2048")];
    let error = select(&ours, &offered(&theirs)).unwrap_err();
    assert_eq!(error.missing.len(), 1);
    assert_eq!(
        error.to_string(),
        "no proposal chosen: we accept IKE:AES_GCM_16_256/PRF_HMAC_SHA2_384/CURVE25519, \
         IKE:AES_CBC_128/PRF_HMAC_SHA2_256/HMAC_SHA2_256_128/CURVE25519; \
         peer has IKE:AES_CBC_128/PRF_HMAC_SHA2_256/HMAC_SHA2_256_128/MODP_2048; \
         no common KE: ours CURVE25519, theirs MODP_2048"
    );
}

#[test]
fn additional_key_exchanges_are_optional_only_with_none() {
    let must = ike("aes256gcm16-prfsha384-x25519-ke1_mlkem768");
    let may = ike("aes256gcm16-prfsha384-x25519-ke1_mlkem768-ke1_none");
    let plain = ike("aes256gcm16-prfsha384-x25519");
    assert!(select(from_ref(&must), &offered(from_ref(&plain))).is_err());
    assert!(select(from_ref(&plain), &offered(from_ref(&must))).is_err());
    assert!(select(from_ref(&may), &offered(from_ref(&plain))).unwrap().additional().is_empty());
    let answer = select(&[plain], &offered(from_ref(&may))).unwrap();
    assert!(answer.additional().is_empty());
    assert_eq!(answer.to_string(), "IKE:AES_GCM_16_256/PRF_HMAC_SHA2_384/CURVE25519/KE1_NONE");
    assert!(verify(from_ref(&may), &[answer.answer(ProposalSpi::None)]).is_ok());
    assert_eq!(select(&[must], &offered(&[may])).unwrap().additional(), [KeId::ML_KEM_768]);
}

#[test]
fn no_method_is_used_twice() {
    let ours = ike("aes256gcm16-prfsha384-x25519-ke1_mlkem768-ke2_mlkem768-ke2_mlkem1024");
    let both = select(from_ref(&ours), &offered(from_ref(&ours))).unwrap();
    assert_eq!(both.additional(), [KeId::ML_KEM_768, KeId::ML_KEM_1024]);
}

#[test]
fn integrity_none_beside_a_combined_cipher_is_accepted() {
    let ours = [ike("aes256gcm16-prfsha384-x25519")];
    let mut theirs = offered(&ours);
    theirs[0].transforms.push(Transform::new(TransformType::INTEG, 0));
    let chosen = select(&ours, &theirs).unwrap();
    assert_eq!(chosen.integ(), None);
    assert!(chosen.to_string().contains("NONE"), "a type that was offered is answered");
}

#[test]
fn unknown_transforms_are_skipped_and_unknown_types_spoil_the_proposal() {
    let ours = [ike("aes256gcm16-prfsha384-x25519")];
    let mut theirs = offered(&ours);
    theirs[0].transforms.insert(0, Transform::new(TransformType::KE, 999));
    assert!(select(&ours, &theirs).is_ok());
    theirs[0].transforms.push(Transform::new(TransformType(99), 1));
    assert_eq!(select(&ours, &theirs).unwrap_err().missing[0].kind, TransformType(99));
    let mut attribute = offered(&ours);
    attribute[0].transforms[0].unknown_attribute = Some(wire::AttributeType(77));
    assert!(select(&ours, &attribute).is_err());
}

#[test]
fn a_response_may_only_take_from_the_offer() {
    let ours = [ike("aes256gcm16-prfsha384-x25519-ecp256")];
    let good = offered(&[ike("aes256gcm16-prfsha384-ecp256")]);
    assert_eq!(verify(&ours, &good).unwrap().ke(), Some(KeId::ECP_256));
    assert!(verify(&ours, &offered(&ours)).is_err(), "two methods chosen");
    let mut number = good.clone();
    number[0].number = 2;
    assert!(verify(&ours, &number).is_err());
    assert!(verify(&ours, &offered(&[ike("aes256gcm16-prfsha384-modp2048")])).is_err());
    assert!(verify(&ours, &[]).is_err());
    assert!(verify(&ours, &[good[0].clone(), good[0].clone()]).is_err());
}

#[test]
fn child_proposals_take_or_leave_key_exchange() {
    let pfs = Proposal::esp("aes128gcm16-x25519-esn").unwrap();
    let plain = Proposal::esp("aes128gcm16-esn").unwrap();
    let may = Proposal::esp("aes128gcm16-x25519-none-esn").unwrap();
    let spi = ProposalSpi::Child(7);
    assert!(select(from_ref(&pfs), &offer(from_ref(&plain), spi)).is_err());
    assert_eq!(select(from_ref(&may), &offer(from_ref(&plain), spi)).unwrap().ke(), None);
    assert_eq!(select(from_ref(&may), &offer(from_ref(&pfs), spi)).unwrap().ke(), Some(KeId::CURVE25519));
    assert_eq!(select(from_ref(&plain), &offer(&[may], spi)).unwrap().ke(), None);
    assert_eq!(pfs.without_key_exchange(), plain);
    assert!(select(&[plain], &offer(&[pfs], spi)).is_err(), "a peer that insists on PFS is not ignored");
}

#[test]
fn a_peer_without_esn_transform_means_32_bits() {
    let both = Proposal::esp("aes128gcm16-esn-noesn").unwrap();
    let mut theirs = offer(&[Proposal::esp("aes128gcm16").unwrap()], ProposalSpi::Child(1));
    theirs[0].transforms.retain(|transform| transform.kind != TransformType::ESN);
    assert!(!select(&[both], &theirs).unwrap().esn());
    assert!(select(&[Proposal::esp("aes128gcm16-esn").unwrap()], &theirs).is_err());
}
