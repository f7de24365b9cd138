use std::net::{IpAddr, Ipv4Addr};

use proptest::prelude::*;

use super::*;
use crate::wire::registry::*;
use crate::wire::{CfgAttribute, EapCode, Encrypted, HEADER_LEN, Header, ProposalSpi, Transform};

fn emit(payloads: &[Payload<'_>]) -> (PayloadType, Vec<u8>) {
    let mut out = Vec::new();
    let first = emit_chain(payloads, &mut out).unwrap();
    (first, out)
}

fn bytes(max: usize) -> impl Strategy<Value = Cow<'static, [u8]>> + Clone {
    prop::collection::vec(any::<u8>(), 0..max).prop_map(Cow::Owned)
}

fn proposal() -> impl Strategy<Value = (ProtocolId, ProposalSpi, Vec<Transform>)> {
    let transform = (any::<u8>(), any::<u16>(), any::<Option<u16>>()).prop_map(|(kind, id, key_length)| {
        Transform { key_length, ..Transform::new(TransformType(kind), id) }
    });
    let spi = prop_oneof![
        Just((ProtocolId::IKE, ProposalSpi::None)),
        any::<u64>().prop_map(|spi| (ProtocolId::IKE, ProposalSpi::Ike(spi))),
        any::<u32>().prop_map(|spi| (ProtocolId::ESP, ProposalSpi::Child(spi))),
        any::<u32>().prop_map(|spi| (ProtocolId::AH, ProposalSpi::Child(spi))),
    ];
    (spi, prop::collection::vec(transform, 0..12))
        .prop_map(|((protocol, spi), transforms)| (protocol, spi, transforms))
}

fn selector() -> impl Strategy<Value = TrafficSelector> + Clone {
    let addresses = prop_oneof![
        any::<[u32; 2]>().prop_map(|pair| pair.map(|bits| IpAddr::from(Ipv4Addr::from_bits(bits)))),
        any::<[u128; 2]>()
            .prop_map(|pair| pair.map(|bits| IpAddr::from(std::net::Ipv6Addr::from_bits(bits)))),
    ];
    (addresses, any::<u8>(), any::<[u16; 2]>()).prop_map(|([a, b], protocol, [start_port, end_port])| {
        TrafficSelector { protocol, start_port, end_port, start: a.min(b), end: a.max(b) }
    })
}

fn payload() -> impl Strategy<Value = Payload<'static>> {
    let id = (2u8..4, any::<[u8; 3]>(), bytes(40)).prop_map(|(kind, reserved, data)| Id {
        kind: IdType(kind),
        reserved,
        data,
    });
    let selectors = prop::collection::vec(selector(), 1..5);
    let attribute = (any::<u16>(), bytes(20))
        .prop_map(|(kind, value)| CfgAttribute { kind: CfgAttributeType(kind & 0x7fff), value });
    prop_oneof![
        (0u8..100, prop::collection::vec(proposal(), 1..4)).prop_map(|(first, proposals)| {
            let numbered = proposals.into_iter().zip(first..);
            Payload::Sa(
                numbered
                    .map(|((protocol, spi, transforms), number)| Proposal {
                        number,
                        protocol,
                        spi,
                        transforms,
                    })
                    .collect(),
            )
        }),
        (any::<u16>(), bytes(300))
            .prop_map(|(method, data)| Payload::Ke(KeyExchange { method: KeId(method), data })),
        id.clone().prop_map(Payload::IdI),
        id.prop_map(Payload::IdR),
        bytes(200).prop_map(|data| Payload::Cert(Cert { encoding: CertEncoding::X509_SIGNATURE, data })),
        (0usize..4).prop_map(|count| Payload::CertReq(CertReq {
            encoding: CertEncoding::X509_SIGNATURE,
            authorities: Cow::Owned(vec![7; count * 20]),
        })),
        (any::<u8>(), bytes(80))
            .prop_map(|(method, data)| Payload::Auth(Auth { method: AuthMethod(method), data })),
        prop::collection::vec(any::<u8>(), 16..256).prop_map(|nonce| Payload::Nonce(Cow::Owned(nonce))),
        (any::<u8>(), bytes(9), any::<u16>(), bytes(40)).prop_map(|(protocol, spi, kind, data)| {
            Payload::Notify(Notify { protocol: ProtocolId(protocol), spi, kind: NotifyType(kind), data })
        }),
        prop::collection::vec(any::<u32>(), 0..9)
            .prop_map(|spis| Payload::Delete(Delete::Child { protocol: ProtocolId::ESP, spis })),
        Just(Payload::Delete(Delete::Ike)),
        bytes(30).prop_map(Payload::Vendor),
        prop::collection::vec(any::<[u8; 4]>(), 1..9)
            .prop_map(|keys| Payload::PuzzleSolution(keys.concat().into())),
        selectors.clone().prop_map(Payload::TsI),
        selectors.prop_map(Payload::TsR),
        (any::<u8>(), prop::collection::vec(attribute, 0..6))
            .prop_map(|(kind, attributes)| Payload::Cp(Configuration { kind: CfgType(kind), attributes })),
        (any::<u8>(), prop::collection::vec(any::<u8>(), 1..60)).prop_map(|(identifier, data)| {
            Payload::Eap(Eap { code: EapCode::Response, identifier, data: Cow::Owned(data) })
        }),
    ]
}

proptest! {
    #[test]
    fn what_is_emitted_parses_to_the_same(payloads in prop::collection::vec(payload(), 0..8)) {
        let (first, wire) = emit(&payloads);
        prop_assert_eq!(parse_chain(first, &wire, 0, &MessageLimits::default()).unwrap(), payloads);
    }

    #[test]
    fn a_chain_cut_short_anywhere_is_an_error(payloads in prop::collection::vec(payload(), 1..4)) {
        let (first, wire) = emit(&payloads);
        for cut in 0..wire.len() {
            prop_assert!(parse_chain(first, &wire[..cut], 0, &MessageLimits::default()).is_err(), "cut at {}", cut);
        }
    }

    #[test]
    fn arbitrary_bytes_never_panic(first: u8, wire in prop::collection::vec(any::<u8>(), 0..400)) {
        let _ = parse_chain(PayloadType(first), &wire, 28, &MessageLimits::default());
        if let Ok(header) = Header::parse(&wire) {
            let _ = Encrypted::find(&header, &wire);
        }
    }

    #[test]
    fn a_flipped_bit_never_panics(
        payloads in prop::collection::vec(payload(), 1..6), at: prop::sample::Index, bit in 0u8..8,
    ) {
        let (first, mut wire) = emit(&payloads);
        let at = at.index(wire.len());
        wire[at] ^= 1 << bit;
        let _ = parse_chain(first, &wire, 28, &MessageLimits::default());
    }

    /// Every payload type over arbitrary bodies: the generic header is right, so the parsers themselves run.
    #[test]
    fn arbitrary_bodies_never_panic(kind in 33u8..55, body in prop::collection::vec(any::<u8>(), 0..200)) {
        let raw = RawPayload {
            kind: PayloadType(kind), critical: false, next: PayloadType::NONE, offset: 32, body: &body,
        };
        if let Err(error) = Payload::parse(&raw, &MessageLimits::default()) {
            prop_assert!((32..=32 + body.len()).contains(&error.offset), "{}", error);
        }
    }
}

/// The SA payload of an IKE_SA_INIT as RFC 7296 s3.3 lays it out, written by hand.
#[test]
fn an_sa_payload_by_hand() {
    let wire = [
        0, 0, 0, 48, // generic header
        0, 0, 0, 44, 1, 1, 0, 4, // proposal 1, IKE, no SPI, 4 transforms
        3, 0, 0, 12, 1, 0, 0, 12, 0x80, 14, 1, 0, // AES_CBC, 256 bits
        3, 0, 0, 8, 2, 0, 0, 5, // PRF_HMAC_SHA2_256
        3, 0, 0, 8, 3, 0, 0, 12, // HMAC_SHA2_256_128
        0, 0, 0, 8, 4, 0, 0, 31, // CURVE25519
    ];
    let parsed = parse_chain(PayloadType::SA, &wire, 28, &MessageLimits::default()).unwrap();
    let [Payload::Sa(proposals)] = parsed.as_slice() else { panic!("{parsed:?}") };
    let [proposal] = proposals.as_slice() else { panic!("{proposals:?}") };
    assert_eq!(proposal.to_string(), "IKE:AES_CBC_256/PRF_HMAC_SHA2_256/HMAC_SHA2_256_128/CURVE25519");
    assert_eq!(emit(&parsed).1, wire);
}

#[test]
fn unknown_attributes_and_transform_types_survive_parsing() {
    let wire = [
        0, 0, 0, 33, 0, 0, 0, 29, 1, 1, 0, 2, // two transforms
        3, 0, 0, 8, 99, 0, 0, 1, // transform type 99
        0, 0, 0, 13, 1, 0, 0, 20, 0, 77, 0, 1, 5, // AES_GCM_16 with a TLV attribute of type 77
    ];
    let parsed = parse_chain(PayloadType::SA, &wire, 0, &MessageLimits::default()).unwrap();
    let [Payload::Sa(proposals)] = parsed.as_slice() else { panic!() };
    assert_eq!(proposals[0].transforms[0].kind, TransformType(99));
    assert_eq!(proposals[0].transforms[1].unknown_attribute, Some(AttributeType(77)));
}

#[test]
fn only_critical_unknown_payloads_are_refused() {
    let plain = [0, 0, 0, 5, 9];
    assert_eq!(
        parse_chain(PayloadType(200), &plain, 28, &MessageLimits::default()).unwrap(),
        [Payload::Other(PayloadType(200))]
    );
    let critical = [0, 0x80, 0, 5, 9];
    let error = parse_chain(PayloadType(200), &critical, 28, &MessageLimits::default()).unwrap_err();
    assert_eq!(error.kind, WireErrorKind::UnsupportedCritical(PayloadType(200)));
    assert_eq!(error.notify(), NotifyType::UNSUPPORTED_CRITICAL_PAYLOAD);
    // RFC 7296 s3.2: the bit says nothing about a payload that is known.
    let known = [0, 0x80, 0, 4];
    assert_eq!(
        parse_chain(PayloadType::VENDOR, &known, 28, &MessageLimits::default()).unwrap(),
        [Payload::Vendor(Cow::Borrowed(&[]))]
    );
}

#[test]
fn errors_name_payload_and_offset() {
    let short_nonce = [0, 0, 0, 8, 1, 2, 3, 4];
    let error = parse_chain(PayloadType::NONCE, &short_nonce, 28, &MessageLimits::default()).unwrap_err();
    assert_eq!(
        error.to_string(),
        "Nonce payload at byte 32: length field says 4, which is not 16 to 256 bytes"
    );
    let bad_length = [0, 0, 0, 3];
    let error = parse_chain(PayloadType::KE, &bad_length, 28, &MessageLimits::default()).unwrap_err();
    assert_eq!((error.place, error.offset), (Place::Payload(PayloadType::KE), 30));
    let trailing = [0, 0, 0, 4, 9];
    let error = parse_chain(PayloadType::VENDOR, &trailing, 28, &MessageLimits::default()).unwrap_err();
    assert_eq!(error.kind, WireErrorKind::Trailing(1));
}

#[test]
fn a_loop_of_payloads_is_bounded() {
    let wire = [43u8, 0, 0, 4].repeat(1000);
    let error = parse_chain(PayloadType::VENDOR, &wire, 28, &MessageLimits::default()).unwrap_err();
    assert_eq!(error.kind, WireErrorKind::Payloads(256));
}

#[test]
fn limits_are_the_most_that_is_read() {
    let proposal = |number| {
        let (protocol, spi) = (ProtocolId::IKE, ProposalSpi::None);
        Proposal { number, protocol, spi, transforms: vec![] }
    };
    let id = Id { kind: IdType::KEY_ID, reserved: [0; 3], data: vec![1; 9].into() };
    let payloads = [Payload::Sa(vec![proposal(1), proposal(2)]), Payload::IdI(id.clone()), Payload::IdR(id)];
    let (first, wire) = emit(&payloads);
    let parse = |payloads, proposals, identity| {
        let limits = MessageLimits { payloads, proposals, identity };
        parse_chain(first, &wire, 28, &limits).map_err(|error| error.kind)
    };
    assert_eq!(parse(3, 2, 9).unwrap(), payloads);
    assert_eq!(parse(2, 2, 9), Err(WireErrorKind::Payloads(2)));
    assert_eq!(parse(3, 1, 9), Err(WireErrorKind::Proposals(1)));
    assert_eq!(parse(3, 2, 8), Err(WireErrorKind::Identity { found: 9, most: 8 }));
}

/// RFC 8019 s8.2.
#[test]
fn a_solution_is_four_keys_of_one_size() {
    fn parse(body: &[u8]) -> Result<Payload<'_>, (usize, WireErrorKind)> {
        let (kind, next) = (PayloadType::PS, PayloadType::NONE);
        let raw = RawPayload { kind, critical: false, next, offset: 32, body };
        Payload::parse(&raw, &MessageLimits::default()).map_err(|error| (error.offset, error.kind))
    }
    assert_eq!(parse(&[7; 8]), Ok(Payload::PuzzleSolution(Cow::Borrowed(&[7; 8]))));
    for found in [0, 1, 3, 5, 15] {
        let expected = "four keys of one size";
        assert_eq!(parse(&vec![7; found]), Err((32, WireErrorKind::Length { found, expected })));
    }
}

#[test]
fn proposal_numbers_go_up_by_one() {
    let two = |second| {
        let one =
            Proposal { number: 1, protocol: ProtocolId::IKE, spi: ProposalSpi::None, transforms: vec![] };
        emit(&[Payload::Sa(vec![one.clone(), Proposal { number: second, ..one }])]).1
    };
    assert!(parse_chain(PayloadType::SA, &two(2), 0, &MessageLimits::default()).is_ok());
    let error = parse_chain(PayloadType::SA, &two(3), 0, &MessageLimits::default()).unwrap_err();
    assert!(matches!(error.kind, WireErrorKind::Value { field: "proposal number", found: 3, .. }));
}

#[test]
fn unknown_selector_types_are_left_out() {
    let wire = [
        0, 0, 0, 30, 2, 0, 0, 0, // two selectors
        10, 0, 0, 6, 1, 2, // TS_SECLABEL
        7, 6, 0, 16, 0, 80, 0, 80, 10, 0, 0, 0, 10, 0, 0, 255,
    ];
    let parsed = parse_chain(PayloadType::TS_I, &wire, 0, &MessageLimits::default()).unwrap();
    let [Payload::TsI(selectors)] = parsed.as_slice() else { panic!() };
    assert_eq!(selectors[0].to_string(), "10.0.0.0/24[6/80]");
    assert_eq!(selectors.len(), 1);
}

/// RFC 7619 s2.2: the data of an ID_NULL is ignored.
#[test]
fn an_id_null_may_have_data() {
    let wire = [0, 0, 0, 11, 13, 1, 2, 3, b'w', b'h', b'o'];
    let parsed = parse_chain(PayloadType::ID_I, &wire, 0, &MessageLimits::default()).unwrap();
    let [Payload::IdI(id)] = parsed.as_slice() else { panic!("{parsed:?}") };
    assert_eq!((id.to_string().as_str(), &*id.data), ("%null", b"who".as_slice()));
    assert_eq!(
        crate::auth::Identity::from_payload(id.kind.0, &id.data).unwrap(),
        crate::auth::Identity::Null
    );
    // AUTH covers the payload as it came, RESERVED included.
    assert_eq!(id.body(), &wire[4..]);
}

#[test]
fn the_encrypted_payload_is_found_and_must_be_first() {
    let message = |next: u8, payload: &[u8]| {
        let header = Header {
            spi_i: 1,
            spi_r: 2,
            next_payload: PayloadType(next),
            minor: 0,
            exchange: ExchangeType::IKE_AUTH,
            initiator: true,
            version: false,
            response: false,
            message_id: 1,
        };
        let mut wire = header.emit(HEADER_LEN + payload.len()).to_vec();
        wire.extend_from_slice(payload);
        Encrypted::find(&Header::parse(&wire).unwrap(), &wire)
    };
    assert_eq!(message(46, &[35, 0, 0, 5, 1]), Ok(Encrypted::Sk { first: PayloadType::ID_I, body_at: 32 }));
    assert_eq!(
        message(53, &[35, 0, 0, 9, 0, 1, 0, 2, 1]),
        Ok(Encrypted::Skf { first: PayloadType::ID_I, number: 1, total: 2, body_at: 36 })
    );
    assert!(message(53, &[35, 0, 0, 9, 0, 2, 0, 2, 1]).is_err(), "only fragment 1 names a payload");
    assert!(message(53, &[0, 0, 0, 9, 0, 3, 0, 2, 1]).is_err(), "number above total");
    assert!(message(53, &[0, 0, 0, 9, 0, 0, 0, 2, 1]).is_err(), "numbers start at 1");
    assert!(message(43, &[46, 0, 0, 4, 0, 0, 0, 4]).is_err(), "cleartext payload first");
    assert_eq!(
        message(54, &[46, 0, 0, 8, 1, 2, 3, 4, 35, 0, 0, 5, 1]),
        Ok(Encrypted::Sk { first: PayloadType::ID_I, body_at: 40 }),
        "RFC 8019 s7.2.2"
    );
    let twice = [54, 0, 0, 8, 1, 2, 3, 4, 46, 0, 0, 8, 1, 2, 3, 4, 35, 0, 0, 5, 1];
    assert!(message(54, &twice).is_err());
    assert!(message(54, &[0, 0, 0, 8, 1, 2, 3, 4]).is_err(), "a solution alone");
    assert!(message(46, &[35, 0, 0, 4, 0]).is_err(), "bytes after SK");
    assert!(message(0, &[]).is_err());
}

#[test]
fn a_payload_too_long_for_its_length_field_is_not_emitted() {
    let huge = Payload::Vendor(Cow::Owned(vec![0; 65532]));
    assert!(emit_chain(&[huge], &mut Vec::new()).is_err());
    let fits = Payload::Vendor(Cow::Owned(vec![0; 65531]));
    assert!(emit_chain(&[fits], &mut Vec::new()).is_ok());
}
