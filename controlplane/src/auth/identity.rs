//! Identities: the content of ID payloads, and what a configuration expects there (RFC 7296 s3.5, RFC 4945 s3.1).

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use data_encoding::{HEXLOWER, HEXLOWER_PERMISSIVE};

use super::DistinguishedName;

/// The identity that one end claims.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Identity {
    /// ID_IPV4_ADDR or ID_IPV6_ADDR.
    Address(IpAddr),
    /// ID_FQDN, in lower case.
    Fqdn(String),
    /// ID_RFC822_ADDR, the domain in lower case.
    Email(String),
    /// ID_DER_ASN1_DN.
    Dn(DistinguishedName),
    /// ID_KEY_ID: opaque octets.
    KeyId(Vec<u8>),
    /// ID_NULL: none is claimed (RFC 7619 s2.2).
    Null,
}

/// Why an identity cannot be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum IdentityError {
    /// An ID type that Spillway does not know.
    #[error("identity type {0} is not supported")]
    Type(u8),
    /// An address of the wrong length.
    #[error("an identity that is an IP address has 4 or 16 octets, not {0}")]
    AddressLength(usize),
    /// A name with bytes that no name has.
    #[error("the identity is not a {kind}: {text:?}")]
    Name {
        /// What it should be.
        kind: &'static str,
        /// What it is.
        text: String,
    },
    /// Not a distinguished name.
    #[error("the identity is not a valid distinguished name, such as \"C=CH, O=Example, CN=gw.example.net\"")]
    Dn,
    /// An attribute type that Spillway does not know.
    #[error("unknown attribute {name:?} in a distinguished name; a dotted object identifier is accepted too")]
    DnAttribute {
        /// What stands before the equals sign.
        name: String,
    },
    /// A key ID that is not hexadecimal after `#`.
    #[error("after # an identity is hexadecimal")]
    Hex,
    /// Nothing.
    #[error("the identity is empty")]
    Empty,
}

impl Identity {
    /// From the ID type and the Identification Data of a payload.
    pub fn from_payload(id_type: u8, data: &[u8]) -> Result<Self, IdentityError> {
        let text = || String::from_utf8_lossy(data).into_owned();
        match id_type {
            1 => {
                let octets: [u8; 4] =
                    data.try_into().map_err(|_| IdentityError::AddressLength(data.len()))?;
                Ok(Self::Address(Ipv4Addr::from(octets).into()))
            }
            5 => {
                let octets: [u8; 16] =
                    data.try_into().map_err(|_| IdentityError::AddressLength(data.len()))?;
                Ok(Self::Address(Ipv6Addr::from(octets).into()))
            }
            2 => fqdn(&text()),
            3 => email(&text()),
            9 => Ok(Self::Dn(DistinguishedName::from_der(data)?)),
            11 if data.is_empty() => Err(IdentityError::Empty),
            11 => Ok(Self::KeyId(data.to_vec())),
            // There has to be no data in it (RFC 7619 s2.2); if there is, it says nothing.
            13 => Ok(Self::Null),
            other => Err(IdentityError::Type(other)),
        }
    }

    /// ID type and Identification Data of a payload.
    pub fn to_payload(&self) -> (u8, Vec<u8>) {
        match self {
            Self::Address(IpAddr::V4(address)) => (1, address.octets().to_vec()),
            Self::Address(IpAddr::V6(address)) => (5, address.octets().to_vec()),
            Self::Fqdn(name) => (2, name.as_bytes().to_vec()),
            Self::Email(name) => (3, name.as_bytes().to_vec()),
            Self::Dn(name) => (9, name.der().to_vec()),
            Self::KeyId(octets) => (11, octets.clone()),
            Self::Null => (13, Vec::new()),
        }
    }

    /// From a configuration, with strongSwan's rules: `%null` for nobody; an IP address; a distinguished name if there is an equals
    /// sign; `@#` and hexadecimal for a key ID; `@name` for an FQDN and `@@name` for an e-mail address whatever
    /// they look like; an e-mail address if there is an at sign; else an FQDN. A prefix forces the type:
    /// `ipv4:`, `ipv6:`, `fqdn:` or `dns:`, `rfc822:` or `email:` or `userfqdn:`, `asn1dn:`, `keyid:`.
    pub fn parse(text: &str) -> Result<Self, IdentityError> {
        let text = text.trim();
        if text.is_empty() {
            return Err(IdentityError::Empty);
        }
        if text == "%null" {
            return Ok(Self::Null);
        }
        if let Some((prefix, rest)) = text.split_once(':') {
            match prefix.to_ascii_lowercase().as_str() {
                "ipv4" => return address(rest, "IPv4 address", IpAddr::is_ipv4),
                "ipv6" => return address(rest, "IPv6 address", IpAddr::is_ipv6),
                "fqdn" | "dns" => return fqdn(rest),
                "rfc822" | "email" | "userfqdn" => return email(rest),
                "asn1dn" => return dn(rest),
                "keyid" => return key_id(rest),
                _ => {}
            }
        }
        if let Ok(address) = text.parse() {
            return Ok(Self::Address(address));
        }
        if text.contains('=') {
            return dn(text);
        }
        match text.split_once('@') {
            Some(("", rest)) => match (rest.strip_prefix('#'), rest.strip_prefix('@')) {
                (Some(_), _) => key_id(rest),
                (_, Some(name)) => email(name),
                (None, None) => fqdn(rest),
            },
            Some(_) => email(text),
            None => fqdn(text),
        }
    }
}

impl fmt::Display for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Address(address) => write!(f, "{address}"),
            Self::Fqdn(name) | Self::Email(name) => f.write_str(name),
            Self::Dn(name) => write!(f, "{name}"),
            Self::KeyId(octets) => match std::str::from_utf8(octets) {
                Ok(text) if text.chars().all(|character| character.is_ascii_graphic()) => {
                    write!(f, "keyid:{text}")
                }
                _ => write!(f, "keyid:#{}", HEXLOWER.encode(octets)),
            },
            Self::Null => f.write_str("%null"),
        }
    }
}

/// What a configuration expects the peer's identity to be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum IdPattern {
    /// `%any`: any identity. NULL is none, and does not match.
    Any,
    /// This one.
    Exact(Identity),
    /// `*.example.net`: one or more labels before the suffix, which is kept with its dot.
    FqdnSuffix(String),
    /// `*@example.net`: any mailbox of the domain, which is kept with its at sign.
    EmailDomain(String),
    /// A distinguished name with `*` values.
    Dn(DistinguishedName),
}

/// How well an identity matches. Greater is more specific, so that of several connections the most specific
/// can be chosen.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum MatchQuality {
    /// The pattern takes any identity.
    Any,
    /// The pattern takes several. The number is larger for a pattern that says more: one per `*` less.
    Wildcard(i16),
    /// The pattern is this identity.
    Exact,
}

impl IdPattern {
    /// From a configuration: `%any` or `*`, a name that starts with `*.` or `*@`, a distinguished name, or what
    /// [`Identity::parse`] reads.
    pub fn parse(text: &str) -> Result<Self, IdentityError> {
        let text = text.trim();
        if matches!(text, "%any" | "*") {
            return Ok(Self::Any);
        }
        let name = text.strip_prefix('@').unwrap_or(text);
        if let Some(suffix) = name.strip_prefix("*.") {
            let Identity::Fqdn(suffix) = fqdn(suffix)? else { return Err(IdentityError::Empty) };
            return Ok(Self::FqdnSuffix(format!(".{suffix}")));
        }
        if let Some(domain) = name.strip_prefix("*@") {
            let Identity::Fqdn(domain) = fqdn(domain)? else { return Err(IdentityError::Empty) };
            return Ok(Self::EmailDomain(format!("@{domain}")));
        }
        match Identity::parse(text)? {
            Identity::Dn(name) if name.wildcards() > 0 => Ok(Self::Dn(name)),
            Identity::Fqdn(name) | Identity::Email(name) if name.contains('*') => Err(IdentityError::Name {
                kind: "name; a * stands for whole labels at the start only, as in *.example.net or *@example.net",
                text: name,
            }),
            identity => Ok(Self::Exact(identity)),
        }
    }

    /// Whether and how well `identity` matches.
    pub fn matches(&self, identity: &Identity) -> Option<MatchQuality> {
        let found = match (self, identity) {
            (Self::Exact(expected), identity) => {
                return (expected == identity).then_some(MatchQuality::Exact);
            }
            (_, Identity::Null) => return None,
            (Self::Any, _) => return Some(MatchQuality::Any),
            (Self::FqdnSuffix(suffix), Identity::Fqdn(name)) => name.strip_suffix(suffix.as_str()),
            (Self::EmailDomain(domain), Identity::Email(name)) => name.strip_suffix(domain.as_str()),
            (Self::Dn(pattern), Identity::Dn(name)) => {
                let quality = i16::try_from(pattern.wildcards()).map_or(i16::MIN, |stars| -stars);
                return pattern.matches(name).then_some(MatchQuality::Wildcard(quality));
            }
            _ => None,
        };
        found.filter(|rest| !rest.is_empty()).map(|_| MatchQuality::Wildcard(-1))
    }
}

impl fmt::Display for IdPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Any => f.write_str("%any"),
            Self::Exact(identity) => write!(f, "{identity}"),
            Self::FqdnSuffix(suffix) | Self::EmailDomain(suffix) => write!(f, "*{suffix}"),
            Self::Dn(name) => write!(f, "{name}"),
        }
    }
}

/// Names are printable ASCII without spaces: no terminator (RFC 7296 s3.5), nothing that bends a log line.
fn is_name(text: &str) -> bool {
    !text.is_empty() && text.len() <= 255 && text.bytes().all(|byte| byte.is_ascii_graphic())
}

fn fqdn(text: &str) -> Result<Identity, IdentityError> {
    if !is_name(text) {
        return Err(IdentityError::Name { kind: "fully qualified domain name", text: shortened(text) });
    }
    Ok(Identity::Fqdn(text.to_ascii_lowercase()))
}

/// The domain is compared without regard to case; the mailbox is its host's own affair (RFC 5321 s2.4).
fn email(text: &str) -> Result<Identity, IdentityError> {
    match text.rsplit_once('@') {
        Some((mailbox, domain)) if is_name(text) && !mailbox.is_empty() && !domain.is_empty() => {
            Ok(Identity::Email(format!("{mailbox}@{}", domain.to_ascii_lowercase())))
        }
        _ => Err(IdentityError::Name { kind: "e-mail address", text: shortened(text) }),
    }
}

fn dn(text: &str) -> Result<Identity, IdentityError> {
    match text.strip_prefix('#') {
        Some(digits) => {
            let der = HEXLOWER_PERMISSIVE.decode(digits.as_bytes()).map_err(|_| IdentityError::Hex)?;
            Ok(Identity::Dn(DistinguishedName::from_der(&der)?))
        }
        None => Ok(Identity::Dn(DistinguishedName::parse(text)?)),
    }
}

fn key_id(text: &str) -> Result<Identity, IdentityError> {
    let octets = match text.strip_prefix('#') {
        Some(digits) => HEXLOWER_PERMISSIVE.decode(digits.as_bytes()).map_err(|_| IdentityError::Hex)?,
        None => text.as_bytes().to_vec(),
    };
    if octets.is_empty() {
        return Err(IdentityError::Empty);
    }
    Ok(Identity::KeyId(octets))
}

fn address(text: &str, kind: &'static str, right: fn(&IpAddr) -> bool) -> Result<Identity, IdentityError> {
    match text.trim().parse() {
        Ok(address) if right(&address) => Ok(Identity::Address(address)),
        _ => Err(IdentityError::Name { kind, text: shortened(text) }),
    }
}

/// Enough of a name to recognise it. The error quotes it with escapes.
fn shortened(text: &str) -> String {
    text.chars().take(64).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn id(text: &str) -> Identity {
        Identity::parse(text).unwrap()
    }

    #[test]
    fn configuration_strings_get_the_type_of_strongswan() {
        assert_eq!(id("192.0.2.1"), Identity::Address("192.0.2.1".parse().unwrap()));
        assert_eq!(id("2001:db8::1"), Identity::Address("2001:db8::1".parse().unwrap()));
        assert_eq!(id("GW.example.net"), Identity::Fqdn("gw.example.net".into()));
        assert_eq!(id("@192.0.2.1"), Identity::Fqdn("192.0.2.1".into()));
        assert_eq!(id("Carol@Example.net"), Identity::Email("Carol@example.net".into()));
        assert_eq!(id("@@a@b"), Identity::Email("a@b".into()));
        assert_eq!(id("@#00ff"), Identity::KeyId(vec![0, 0xff]));
        assert_eq!(id("keyid:branch-7"), Identity::KeyId(b"branch-7".to_vec()));
        assert_eq!(id("fqdn:a@b"), Identity::Fqdn("a@b".into()));
        assert!(matches!(id("C=CH, CN=gw"), Identity::Dn(_)));
        assert_eq!(id("asn1dn:#300d310b3009060355040313026777"), id("CN=gw"));
        for text in ["", "  ", "ipv4:::1", "ipv6:1.2.3.4", "email:x", "@#0g", "a b", "x@"] {
            assert!(Identity::parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn payloads_round_trip() {
        let all = ["192.0.2.1", "2001:db8::1", "gw.example.net", "c@example.net", "C=CH, CN=gw", "@#0102"];
        for identity in all.map(id).into_iter().chain([Identity::Null]) {
            let (id_type, data) = identity.to_payload();
            assert_eq!(Identity::from_payload(id_type, &data), Ok(identity));
        }
    }

    #[test]
    fn bad_payloads_are_refused() {
        assert_eq!(Identity::from_payload(1, &[1, 2, 3]), Err(IdentityError::AddressLength(3)));
        assert_eq!(Identity::from_payload(5, &[0; 4]), Err(IdentityError::AddressLength(4)));
        assert_eq!(Identity::from_payload(200, &[]), Err(IdentityError::Type(200)));
        assert!(Identity::from_payload(2, b"gw\0.example.net").is_err());
        assert!(Identity::from_payload(2, b"gw\n").is_err());
        assert!(Identity::from_payload(2, &[0xff, 0xfe]).is_err());
        assert!(Identity::from_payload(3, b"no-at-sign").is_err());
        assert!(Identity::from_payload(9, b"CN=gw").is_err());
        assert_eq!(Identity::from_payload(11, b""), Err(IdentityError::Empty));
        assert_eq!(Identity::from_payload(13, b"ignored"), Ok(Identity::Null));
    }

    #[test]
    fn wildcards_take_whole_labels() {
        let pattern = IdPattern::parse("*.Example.net").unwrap();
        assert_eq!(pattern.to_string(), "*.example.net");
        assert!(pattern.matches(&id("gw.example.net")).is_some());
        assert!(pattern.matches(&id("a.b.example.net")).is_some());
        for other in
            ["example.net", "@.example.net", "gwexample.net", "gw.example.net.evil.org", "gw.example.org"]
        {
            assert_eq!(pattern.matches(&id(other)), None, "{other}");
        }
        // The same characters in another type are another identity.
        assert_eq!(pattern.matches(&id("keyid:gw.example.net")), None);
        let pattern = IdPattern::parse("*@example.net").unwrap();
        assert!(pattern.matches(&id("carol@EXAMPLE.net")).is_some());
        assert_eq!(pattern.matches(&id("carol@sub.example.net")), None);
        assert!(IdPattern::parse("gw*.example.net").is_err());
        assert!(IdPattern::parse("gw.*.net").is_err());
    }

    #[test]
    fn the_more_specific_pattern_is_greater() {
        let name = id("C=CH, OU=a, CN=gw");
        let quality = |text| IdPattern::parse(text).unwrap().matches(&name).unwrap();
        assert!(quality("%any") < quality("C=CH, OU=*, CN=*"));
        assert!(quality("C=CH, OU=*, CN=*") < quality("C=CH, OU=a, CN=*"));
        assert!(quality("C=CH, OU=a, CN=*") < quality("C=CH, OU=a, CN=gw"));
    }

    #[test]
    fn null_matches_only_null() {
        for text in ["%any", "*", "*.example.net", "gw"] {
            assert_eq!(IdPattern::parse(text).unwrap().matches(&Identity::Null), None);
        }
        assert_eq!(IdPattern::parse("%null").unwrap().matches(&Identity::Null), Some(MatchQuality::Exact));
        assert_eq!(Identity::parse("%null"), Ok(Identity::Null), "and it is read as it is shown");
    }

    proptest! {
        #[test]
        fn any_payload_is_read_or_refused(id_type: u8, data: Vec<u8>) {
            if let Ok(identity) = Identity::from_payload(id_type, &data) {
                let shown = identity.to_string();
                prop_assert!(!shown.chars().any(char::is_control));
                prop_assert_eq!(IdPattern::Exact(identity.clone()).matches(&identity), Some(MatchQuality::Exact));
            }
        }

        #[test]
        fn any_text_is_read_or_refused(text: String) {
            let _ = Identity::parse(&text);
            let _ = IdPattern::parse(&text);
        }
    }
}
