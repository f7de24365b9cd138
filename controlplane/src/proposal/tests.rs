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

fn refused(text: &str, protocol: ProtocolId) -> String {
    Proposal::parse(text, protocol).unwrap_err().to_string()
}

#[test]
fn the_prf_follows_the_integrity_algorithm_when_it_is_left_out() {
    let prfs = |text| ike(text).of(TransformType::PRF).map(|prf| PrfId(prf.id)).collect::<Vec<_>>();
    assert_eq!(prfs("aes128-sha256-modp2048"), [PrfId::HMAC_SHA2_256]);
    assert_eq!(prfs("aes128-aescmac-modp2048"), [PrfId::AES128_CMAC]);
    assert!(refused("aes128gcm16-modp2048", ProtocolId::IKE).starts_with("no PRF"));
}

#[test]
fn broken_algorithms_are_refused_with_the_reason() {
    for group in ["modp768", "modp1024", "modp1536"] {
        let message = refused(&format!("aes128-sha256-{group}"), ProtocolId::IKE);
        assert!(message.starts_with(&format!("`{group}` is refused: ")) && message.contains("Logjam"));
    }
    assert!(refused("aes128-sha256-modp1024s160", ProtocolId::IKE).contains("small subgroups"));
    assert!(refused("aes128-sha256-prfmd5-modp2048", ProtocolId::IKE).contains("MD5 is broken"));
    assert!(refused("aes128-sha256-ecp192", ProtocolId::IKE).contains("too weak"));
    assert!(refused("aes128-md5", ProtocolId::ESP).contains("MD5 is broken"));
    assert!(refused("des-sha256", ProtocolId::ESP).contains("56-bit"));
    assert!(refused("aes128gcm16-ke1_modp768-x25519", ProtocolId::ESP).contains("Logjam"));
}

/// A peer that has nothing else is told apart from one that has other algorithms.
#[test]
fn broken_algorithms_of_a_peer_are_named_as_such() {
    let ours = [ike("aes256gcm16-prfsha384-x25519"), ike("aes128-sha256-modp2048")];
    let mut theirs = offered(&ours[1..]);
    for (kind, id) in [(TransformType::KE, 2), (TransformType::ENCR, 2), (TransformType::INTEG, 1)] {
        for transform in theirs[0].transforms.iter_mut().filter(|one| one.kind == kind) {
            *transform = Transform::new(kind, id);
        }
    }
    let told = select(&ours, &theirs).unwrap_err().to_string();
    for why in ["MODP_1024 (refused: ", "DES (refused: ", "HMAC_MD5_96 (refused: "] {
        assert!(told.contains(why), "{told}");
    }
}

#[test]
fn what_protects_nothing_or_half_is_refused() {
    assert!(refused("aes128", ProtocolId::ESP).contains("Paterson"));
    assert!(refused("null", ProtocolId::ESP).contains("protects nothing"));
    assert!(refused("sha256", ProtocolId::ESP).contains("no encryption"));
    for cipher in ["null-sha256", "aes128gmac", "aes128gcm16iiv", "chacha20poly1305iiv"] {
        let message = refused(&format!("{cipher}-prfsha256-x25519"), ProtocolId::IKE);
        assert!(message.contains("for ESP, not for IKE"), "{message}");
    }
}

#[test]
fn what_does_not_go_together_is_refused() {
    let (esp, ah) = (ProtocolId::ESP, ProtocolId::AH);
    assert!(refused("aes128gcm16-aes128-sha256", esp).contains("make two of it"));
    assert!(refused("aes128gcm16-sha256", esp).contains("leave `sha256` out"));
    assert!(refused("aes128-sha256", ah).contains("AH does not encrypt"));
    assert!(refused("esn", ah).contains("no integrity"));
    assert!(refused("aes128gcm16-prfsha256", esp).contains("no PRF"));
    assert!(refused("aes128gcm16-prfsha256-x25519-esn", ProtocolId::IKE).contains("child's proposals"));
    assert!(refused("aes128gcm16-prfsha256", ProtocolId::IKE).contains("no key exchange"));
    assert!(refused("aes128gcm16-prfsha256-none", ProtocolId::IKE).contains("no key exchange"));
    assert!(refused("aes128gcm16-ke1_mlkem768", esp).contains("needs a first one"));
    assert!(refused("aes128gcm16-ke1_sha256", esp).contains("only a key exchange"));
    assert!(refused("aes128ctr-sha256", esp).contains("not offered for ESP"));
    assert!(refused("aes128gcm16-aes128gcm16", esp).contains("twice"));
    assert!(refused("aes128gcm16-", esp).contains("empty word"));
    assert!(refused("", esp).contains("empty word"));
}

#[test]
fn slips_get_a_suggestion() {
    let near = "unknown algorithm `aes128cgm16`; did you mean `aes128gcm16`?";
    assert_eq!(refused("aes128cgm16", ProtocolId::ESP), near);
    assert_eq!(refused("rot13", ProtocolId::ESP), "unknown algorithm `rot13`");
}

#[test]
fn gmac_is_a_cipher_in_esp_and_an_integrity_algorithm_in_ah() {
    assert_eq!(Proposal::esp("aes128gmac").unwrap().to_string(), "ESP:NULL_AUTH_AES_GMAC_128/NO_ESN");
    assert_eq!(Proposal::ah("aes128gmac").unwrap().to_string(), "AH:AES_128_GMAC/NO_ESN");
}

#[test]
fn weak_ones_are_named() {
    assert_eq!(
        ike("3des-sha1-modp2048").weak().collect::<Vec<_>>(),
        [Weak::TripleDes, Weak::Sha1, Weak::Sha1]
    );
    assert_eq!(ike("aes128-sha256-modp2048").weak().count(), 0);
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
