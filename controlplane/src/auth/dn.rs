//! X.500 distinguished names: DER, text, comparison, and patterns with `*`.

use std::fmt;

use x509_cert::attr::AttributeTypeAndValue;
use x509_cert::der::asn1::{Any, ObjectIdentifier, SetOfVec};
use x509_cert::der::{Decode, Encode, Tag, Tagged};
use x509_cert::name::RdnSequence;

use super::IdentityError;

/// A distinguished name. Two names are equal when their attributes are, in order, whatever string types carry
/// them, without regard to case and to repeated or outer spaces (RFC 5280 s7.1, RFC 4518 in its common part).
#[derive(Clone)]
pub struct DistinguishedName {
    der: Vec<u8>,
    rdns: Vec<Vec<Attribute>>,
}

#[derive(Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Attribute {
    oid: ObjectIdentifier,
    /// As written; the DER in hexadecimal after `#` when the value is no string.
    text: String,
}

impl DistinguishedName {
    /// From DER, as in an ID payload or a certificate.
    pub fn from_der(der: &[u8]) -> Result<Self, IdentityError> {
        let sequence = RdnSequence::from_der(der).map_err(|_| IdentityError::Dn)?;
        let rdns = sequence
            .iter()
            .map(|rdn| {
                let mut attributes: Vec<_> = rdn.iter().map(Attribute::from_der).collect();
                attributes.sort();
                attributes
            })
            .collect();
        Ok(Self { der: der.to_vec(), rdns })
    }

    /// From text such as `C=CH, O=Example, CN=gw.example.net`, in the order of the DER as strongSwan and
    /// `openssl x509 -subject` write it. `/` may stand for the comma if the text starts with it; `+` joins the
    /// parts of a relative name; `\` takes the special meaning from the character after it.
    pub fn parse(text: &str) -> Result<Self, IdentityError> {
        let rdns = split_rdns(text)?;
        let mut sequence = RdnSequence::default();
        for attributes in &rdns {
            let values: Result<Vec<_>, _> = attributes.iter().map(Attribute::to_der).collect();
            let set = SetOfVec::try_from(values?).map_err(|_| IdentityError::Dn)?;
            sequence.push(set.into_vec().try_into().map_err(|_| IdentityError::Dn)?);
        }
        let der = sequence.to_der().map_err(|_| IdentityError::Dn)?;
        Ok(Self { der, rdns })
    }

    /// The DER.
    pub fn der(&self) -> &[u8] {
        &self.der
    }

    /// Whether there is no attribute in it.
    pub fn is_empty(&self) -> bool {
        self.rdns.is_empty()
    }

    /// Whether `name` has the same attributes in the same order, where a value `*` in this one stands for any.
    pub fn matches(&self, name: &Self) -> bool {
        self.rdns.len() == name.rdns.len()
            && self.rdns.iter().zip(&name.rdns).all(|(pattern, rdn)| {
                pattern.len() == rdn.len()
                    && pattern.iter().zip(rdn).all(|(pattern, attribute)| pattern.matches(attribute))
            })
    }

    /// Whether the relative names of `base` come first in this one, in their order.
    pub fn starts_with(&self, base: &Self) -> bool {
        self.rdns.len() >= base.rdns.len() && self.rdns.iter().zip(&base.rdns).all(is_same_rdn)
    }

    /// How many values are `*`.
    pub fn wildcards(&self) -> usize {
        self.rdns.iter().flatten().filter(|attribute| attribute.text == "*").count()
    }
}

impl PartialEq for DistinguishedName {
    fn eq(&self, other: &Self) -> bool {
        self.rdns.len() == other.rdns.len() && self.rdns.iter().zip(&other.rdns).all(is_same_rdn)
    }
}

fn is_same_rdn((left, right): (&Vec<Attribute>, &Vec<Attribute>)) -> bool {
    left.len() == right.len() && left.iter().zip(right).all(|(left, right)| left.is_same(right))
}

impl Eq for DistinguishedName {}

impl fmt::Display for DistinguishedName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (position, rdn) in self.rdns.iter().enumerate() {
            for (part, attribute) in rdn.iter().enumerate() {
                f.write_str(match (position, part) {
                    (0, 0) => "",
                    (_, 0) => ", ",
                    _ => "+",
                })?;
                match name_of(attribute.oid) {
                    Some(name) => write!(f, "{name}=")?,
                    None => write!(f, "{}=", attribute.oid)?,
                }
                for character in attribute.text.chars() {
                    // What a peer sends ends up in log lines: no control characters, and unambiguous.
                    match character {
                        ',' | '+' | '\\' | '=' => write!(f, "\\{character}")?,
                        control if control.is_control() => write!(f, "{}", control.escape_default())?,
                        plain => write!(f, "{plain}")?,
                    }
                }
            }
        }
        Ok(())
    }
}

impl fmt::Debug for DistinguishedName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

impl Attribute {
    fn from_der(attribute: &AttributeTypeAndValue) -> Self {
        let value = &attribute.value;
        let text = match value.tag() {
            Tag::PrintableString | Tag::Utf8String | Tag::Ia5String | Tag::TeletexString => {
                std::str::from_utf8(value.value()).ok().map(str::to_owned)
            }
            Tag::BmpString => {
                let units = value
                    .value()
                    .chunks(2)
                    .map(|pair| pair.iter().fold(0, |unit, byte| unit << 8 | u16::from(*byte)));
                char::decode_utf16(units).collect::<Result<String, _>>().ok()
            }
            _ => None,
        };
        let text = text.unwrap_or_else(|| {
            let der = value.to_der().unwrap_or_default();
            format!("#{}", data_encoding::HEXLOWER.encode(&der))
        });
        Self { oid: attribute.oid, text }
    }

    fn to_der(&self) -> Result<AttributeTypeAndValue, IdentityError> {
        // DC and e-mail are IA5String (RFC 4519 s2.4, RFC 2985 s5.2.1); else PrintableString where it suffices.
        let tag = if matches!(name_of(self.oid), Some("DC" | "E")) && self.text.is_ascii() {
            Tag::Ia5String
        } else if self.text.chars().all(is_printable) {
            Tag::PrintableString
        } else {
            Tag::Utf8String
        };
        let value = Any::new(tag, self.text.as_bytes()).map_err(|_| IdentityError::Dn)?;
        Ok(AttributeTypeAndValue { oid: self.oid, value })
    }

    fn is_same(&self, other: &Self) -> bool {
        self.oid == other.oid && fold(&self.text) == fold(&other.text)
    }

    fn matches(&self, attribute: &Self) -> bool {
        self.oid == attribute.oid && (self.text == "*" || self.is_same(attribute))
    }
}

/// Keywords of attribute types, the one used for printing first.
const TYPES: &[(&str, &str)] = &[
    ("CN", "2.5.4.3"),
    ("SN", "2.5.4.5"),
    ("SERIALNUMBER", "2.5.4.5"),
    ("S", "2.5.4.4"),
    ("C", "2.5.4.6"),
    ("L", "2.5.4.7"),
    ("ST", "2.5.4.8"),
    ("STREET", "2.5.4.9"),
    ("O", "2.5.4.10"),
    ("OU", "2.5.4.11"),
    ("T", "2.5.4.12"),
    ("D", "2.5.4.13"),
    ("POSTALCODE", "2.5.4.17"),
    ("N", "2.5.4.41"),
    ("G", "2.5.4.42"),
    ("GN", "2.5.4.42"),
    ("I", "2.5.4.43"),
    ("E", "1.2.840.113549.1.9.1"),
    ("EMAIL", "1.2.840.113549.1.9.1"),
    ("EMAILADDRESS", "1.2.840.113549.1.9.1"),
    ("UN", "1.2.840.113549.1.9.2"),
    ("UID", "0.9.2342.19200300.100.1.1"),
    ("DC", "0.9.2342.19200300.100.1.25"),
];

fn name_of(oid: ObjectIdentifier) -> Option<&'static str> {
    let dotted = oid.to_string();
    TYPES.iter().find(|(_, known)| *known == dotted).map(|(name, _)| *name)
}

fn oid_of(name: &str) -> Result<ObjectIdentifier, IdentityError> {
    let upper = name.to_ascii_uppercase();
    let dotted = TYPES.iter().find(|(known, _)| *known == upper).map_or(name, |(_, dotted)| *dotted);
    ObjectIdentifier::new(dotted).map_err(|_| IdentityError::DnAttribute { name: name.to_owned() })
}

/// Cuts the text into relative names, and those into attributes, sorted.
fn split_rdns(text: &str) -> Result<Vec<Vec<Attribute>>, IdentityError> {
    let (separator, text) = match text.trim().strip_prefix('/') {
        Some(rest) => ('/', rest),
        None => (',', text.trim()),
    };
    let mut rdns = vec![Vec::new()];
    let mut name: Option<String> = None;
    let mut current = String::new();
    let mut characters = text.chars();
    loop {
        let character = characters.next();
        match character {
            Some('\\') => current.push(characters.next().ok_or(IdentityError::Dn)?),
            Some('=') if name.is_none() => name = Some(std::mem::take(&mut current)),
            Some(other) if other != separator && other != '+' => current.push(other),
            end => {
                let oid = oid_of(name.take().ok_or(IdentityError::Dn)?.trim())?;
                let text = std::mem::take(&mut current).trim().to_owned();
                let rdn = rdns.last_mut().ok_or(IdentityError::Dn)?;
                rdn.push(Attribute { oid, text });
                rdn.sort();
                match end {
                    None => return Ok(rdns),
                    Some('+') => {}
                    Some(_) => rdns.push(Vec::new()),
                }
            }
        }
    }
}

/// Lower case, with single spaces.
fn fold(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ").to_lowercase()
}

/// The characters of PrintableString (X.680 s41.4).
fn is_printable(character: char) -> bool {
    character.is_ascii_alphanumeric() || " '()+,-./:=?".contains(character)
}

#[cfg(test)]
mod tests {
    use hex_literal::hex;
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn text_becomes_der_in_the_same_order() {
        let name = DistinguishedName::parse("C=CH, O=strongSwan Project, CN=moon.strongswan.org").unwrap();
        let der = hex!(
            "3048310b3009060355040613024348311b3019060355040a13127374726f6e675377616e20"
            "50726f6a656374311c301a060355040313136d6f6f6e2e7374726f6e677377616e2e6f7267"
        );
        assert_eq!(name.der(), der);
        assert_eq!(name.to_string(), "C=CH, O=strongSwan Project, CN=moon.strongswan.org");
        assert_eq!(DistinguishedName::from_der(name.der()).unwrap(), name);
        assert_eq!(
            DistinguishedName::parse("/C=CH/O=strongSwan Project/CN=moon.strongswan.org").unwrap(),
            name
        );
    }

    #[test]
    fn comparison_ignores_case_spaces_and_string_type() {
        let printable = DistinguishedName::parse("C=ch, O=An  Example,CN=Gw").unwrap();
        let other = DistinguishedName::parse("c=CH, o=an example, cn=gw").unwrap();
        assert_eq!(printable, other);
        assert_ne!(printable, DistinguishedName::parse("O=An Example, C=CH, CN=Gw").unwrap());
        assert_ne!(printable, DistinguishedName::parse("C=CH, O=An Example").unwrap());
        // CN "gw" as UTF8String, and as PrintableString.
        let utf8 = DistinguishedName::from_der(&hex!("300d310b300906035504030c026777")).unwrap();
        let plain = DistinguishedName::from_der(&hex!("300d310b3009060355040313026777")).unwrap();
        assert_eq!(utf8, plain);
        let bmp = DistinguishedName::from_der(&hex!("300f310d300b06035504031e0400670077")).unwrap();
        assert_eq!(bmp, plain);
    }

    #[test]
    fn a_star_stands_for_one_value() {
        let pattern = DistinguishedName::parse("C=CH, O=Example, OU=*, CN=*").unwrap();
        assert_eq!(pattern.wildcards(), 2);
        let name = |text| DistinguishedName::parse(text).unwrap();
        assert!(pattern.matches(&name("C=CH, O=Example, OU=Sales, CN=alice")));
        assert!(!pattern.matches(&name("C=CH, O=Example, CN=alice")));
        assert!(!pattern.matches(&name("C=CH, O=Other, OU=Sales, CN=alice")));
        assert!(!pattern.matches(&name("C=CH, O=Example, OU=Sales, CN=alice, CN=bob")));
        // The star is no prefix search, and a name that holds a star is no pattern for others.
        assert!(!name("CN=a*").matches(&name("CN=alice")));
        assert!(!name("CN=alice").matches(&name("CN=*")));
    }

    #[test]
    fn escapes_and_joined_attributes() {
        let name = DistinguishedName::parse(r"O=Example\, Inc., CN=a+UID=7").unwrap();
        assert_eq!(name, DistinguishedName::parse(r"O=Example\, Inc., UID=7+CN=a").unwrap());
        assert_eq!(name.to_string(), r"O=Example\, Inc., CN=a+UID=7");
        assert_eq!(DistinguishedName::parse(&name.to_string()).unwrap(), name);
    }

    #[test]
    fn nonsense_is_an_error() {
        for text in ["", "CN", "CN=a,,", "XX=1", "CN=a\\", "=a", "1.2.=a"] {
            assert!(DistinguishedName::parse(text).is_err(), "{text}");
        }
        assert!(DistinguishedName::from_der(&[0x30, 0x05, 0x31]).is_err());
        assert!(DistinguishedName::from_der(&[]).is_err());
    }

    #[test]
    fn log_lines_carry_no_control_characters() {
        let name = DistinguishedName::from_der(&hex!("300e310c300a06035504030c0361 0a62")).unwrap();
        assert_eq!(name.to_string(), "CN=a\\nb");
    }

    proptest! {
        #[test]
        fn any_der_is_parsed_or_refused(bytes: Vec<u8>) {
            if let Ok(name) = DistinguishedName::from_der(&bytes) {
                let _ = name.to_string();
                prop_assert!(name.matches(&name) || name.wildcards() > 0);
            }
        }

        #[test]
        fn names_survive_text_and_der(values in proptest::collection::vec("[ -~]{1,12}", 1..5)) {
            let values: Vec<_> = values.iter().map(|value| value.trim()).filter(|value| !value.is_empty()).collect();
            prop_assume!(!values.is_empty());
            let text = values
                .iter()
                .map(|value| format!("CN={}", value.replace('\\', "\\\\").replace(',', "\\,").replace('+', "\\+").replace('=', "\\=")))
                .collect::<Vec<_>>()
                .join(", ");
            let name = DistinguishedName::parse(&text).unwrap();
            prop_assert_eq!(&DistinguishedName::from_der(name.der()).unwrap(), &name);
            prop_assert_eq!(&DistinguishedName::parse(&name.to_string()).unwrap(), &name);
        }
    }
}
