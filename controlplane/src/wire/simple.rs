//! Payloads with few fields: KE, ID, CERT, CERTREQ, AUTH, N and D (RFC 7296 s3.4 to s3.11).

use std::borrow::Cow;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::payload::MessageLimits;
use super::reader::{Reader, WireError, WireErrorKind};
use super::registry::{AuthMethod, CertEncoding, IdType, KeId, NotifyType, ProtocolId};

/// Key Exchange payload (RFC 7296 s3.4).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyExchange<'a> {
    /// The method, which must be that of the proposal.
    pub method: KeId,
    /// Public value, encapsulation key or ciphertext.
    pub data: Cow<'a, [u8]>,
}

impl<'a> KeyExchange<'a> {
    pub(super) fn parse(reader: &mut Reader<'a>) -> Result<Self, WireError> {
        let method = KeId(reader.u16()?);
        reader.u16()?;
        Ok(Self { method, data: Cow::Borrowed(reader.remaining()) })
    }

    pub(super) fn emit(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.method.0.to_be_bytes());
        out.extend_from_slice(&[0, 0]);
        out.extend_from_slice(&self.data);
    }
}

/// Identification payload (RFC 7296 s3.5).
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Id<'a> {
    /// How the data is to be read.
    pub kind: IdType,
    /// RESERVED: zero from us, and ignored but for AUTH, which covers it as it was sent (s2.15).
    pub reserved: [u8; 3],
    /// The identity.
    pub data: Cow<'a, [u8]>,
}

impl<'a> Id<'a> {
    pub(super) fn parse(reader: &mut Reader<'a>, limits: &MessageLimits) -> Result<Self, WireError> {
        let kind = IdType(reader.u8()?);
        let reserved = reader.array()?;
        let (found, most) = (reader.len(), limits.identity);
        if found > most {
            return Err(reader.error(WireErrorKind::Identity { found, most }));
        }
        let expected = match kind {
            IdType::IPV4_ADDR => Some((4, "4 bytes of an IPv4 address")),
            IdType::IPV6_ADDR => Some((16, "16 bytes of an IPv6 address")),
            // An ID_NULL has to be empty (RFC 7619 s2.2). What is there stays, since AUTH covers it.
            _ => None,
        };
        if let Some((length, expected)) = expected
            && reader.len() != length
        {
            return Err(reader.error(WireErrorKind::Length { found: reader.len(), expected }));
        }
        Ok(Self { kind, reserved, data: Cow::Borrowed(reader.remaining()) })
    }

    pub(super) fn emit(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.body());
    }

    /// The payload without its generic header: what the AUTH computation covers (RFC 7296 s2.15, IDi').
    pub fn body(&self) -> Vec<u8> {
        let mut body = Vec::with_capacity(4 + self.data.len());
        body.push(self.kind.0);
        body.extend_from_slice(&self.reserved);
        body.extend_from_slice(&self.data);
        body
    }

    /// The same identity without a borrow.
    pub fn into_owned(self) -> Id<'static> {
        Id { kind: self.kind, reserved: self.reserved, data: Cow::Owned(self.data.into_owned()) }
    }
}

impl fmt::Display for Id<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.kind {
            IdType::FQDN | IdType::RFC822_ADDR => write!(f, "{}", self.data.escape_ascii()),
            IdType::IPV4_ADDR if let Ok(bytes) = <[u8; 4]>::try_from(self.data.as_ref()) => {
                Ipv4Addr::from(bytes).fmt(f)
            }
            IdType::IPV6_ADDR if let Ok(bytes) = <[u8; 16]>::try_from(self.data.as_ref()) => {
                Ipv6Addr::from(bytes).fmt(f)
            }
            IdType::NULL => f.write_str("%null"),
            kind => {
                write!(f, "{kind}:")?;
                self.data.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
            }
        }
    }
}

impl fmt::Debug for Id<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}({self})", self.kind)
    }
}

/// Certificate payload (RFC 7296 s3.6).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cert<'a> {
    /// Encoding of the data.
    pub encoding: CertEncoding,
    /// Certificate data.
    pub data: Cow<'a, [u8]>,
}

impl<'a> Cert<'a> {
    pub(super) fn parse(reader: &mut Reader<'a>) -> Result<Self, WireError> {
        Ok(Self { encoding: CertEncoding(reader.u8()?), data: Cow::Borrowed(reader.remaining()) })
    }

    pub(super) fn emit(&self, out: &mut Vec<u8>) {
        out.push(self.encoding.0);
        out.extend_from_slice(&self.data);
    }
}

/// Certificate Request payload (RFC 7296 s3.7).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CertReq<'a> {
    /// Encoding of the certificates that are asked for.
    pub encoding: CertEncoding,
    /// For X.509: the SHA-1 hashes of the trusted authorities' public keys, 20 bytes each.
    pub authorities: Cow<'a, [u8]>,
}

impl<'a> CertReq<'a> {
    pub(super) fn parse(reader: &mut Reader<'a>) -> Result<Self, WireError> {
        let encoding = CertEncoding(reader.u8()?);
        if encoding == CertEncoding::X509_SIGNATURE && !reader.len().is_multiple_of(20) {
            let expected = "a multiple of 20 bytes";
            return Err(reader.error(WireErrorKind::Length { found: reader.len(), expected }));
        }
        Ok(Self { encoding, authorities: Cow::Borrowed(reader.remaining()) })
    }

    pub(super) fn emit(&self, out: &mut Vec<u8>) {
        out.push(self.encoding.0);
        out.extend_from_slice(&self.authorities);
    }
}

/// Authentication payload (RFC 7296 s3.8).
#[derive(Clone, PartialEq, Eq)]
pub struct Auth<'a> {
    /// Authentication method.
    pub method: AuthMethod,
    /// Authentication data.
    pub data: Cow<'a, [u8]>,
}

impl<'a> Auth<'a> {
    pub(super) fn parse(reader: &mut Reader<'a>) -> Result<Self, WireError> {
        let method = AuthMethod(reader.u8()?);
        reader.array::<3>()?;
        Ok(Self { method, data: Cow::Borrowed(reader.remaining()) })
    }

    pub(super) fn emit(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&[self.method.0, 0, 0, 0]);
        out.extend_from_slice(&self.data);
    }
}

impl fmt::Debug for Auth<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "AUTH({}, {} bytes)", self.method, self.data.len())
    }
}

/// Notify payload (RFC 7296 s3.10).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Notify<'a> {
    /// Protocol of the SA it is about, `NONE` when it is about no particular SA.
    pub protocol: ProtocolId,
    /// SPI of that SA, empty when there is none.
    pub spi: Cow<'a, [u8]>,
    /// What is notified.
    pub kind: NotifyType,
    /// Notification data.
    pub data: Cow<'a, [u8]>,
}

impl<'a> Notify<'a> {
    /// A notify about no particular SA.
    pub fn new(kind: NotifyType, data: impl Into<Cow<'a, [u8]>>) -> Self {
        Self { protocol: ProtocolId::NONE, spi: Cow::Borrowed(&[]), kind, data: data.into() }
    }

    /// A notify without data.
    pub fn bare(kind: NotifyType) -> Self {
        Self::new(kind, &[][..])
    }

    /// A notify about a Child SA.
    pub fn about_child(kind: NotifyType, protocol: ProtocolId, spi: u32) -> Self {
        Self { protocol, spi: Cow::Owned(spi.to_be_bytes().to_vec()), kind, data: Cow::Borrowed(&[]) }
    }

    /// The SPI of a Child SA, when there is one.
    pub fn child_spi(&self) -> Option<u32> {
        <[u8; 4]>::try_from(self.spi.as_ref()).ok().map(u32::from_be_bytes)
    }

    pub(super) fn parse(reader: &mut Reader<'a>) -> Result<Self, WireError> {
        let protocol = ProtocolId(reader.u8()?);
        let spi_size = usize::from(reader.u8()?);
        let kind = NotifyType(reader.u16()?);
        let spi = Cow::Borrowed(reader.take(spi_size)?);
        Ok(Self { protocol, spi, kind, data: Cow::Borrowed(reader.remaining()) })
    }

    pub(super) fn emit(&self, out: &mut Vec<u8>) -> Result<(), WireErrorKind> {
        let found = self.spi.len();
        let spi_size = u8::try_from(found)
            .map_err(|_| WireErrorKind::Length { found, expected: "at most 255 bytes of SPI" })?;
        out.extend_from_slice(&[self.protocol.0, spi_size]);
        out.extend_from_slice(&self.kind.0.to_be_bytes());
        out.extend_from_slice(&self.spi);
        out.extend_from_slice(&self.data);
        Ok(())
    }
}

/// Delete payload (RFC 7296 s3.11).
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Delete {
    /// The IKE SA over which it is sent.
    Ike,
    /// Child SAs, by the SPIs that the sender receives on.
    Child {
        /// AH or ESP.
        protocol: ProtocolId,
        /// Inbound SPIs of the sender.
        spis: Vec<u32>,
    },
}

impl Delete {
    pub(super) fn parse(reader: &mut Reader<'_>) -> Result<Self, WireError> {
        let protocol = ProtocolId(reader.u8()?);
        let spi_size_at = *reader;
        let spi_size = reader.u8()?;
        let count = usize::from(reader.u16()?);
        let (expected, text) = match protocol {
            ProtocolId::IKE => (0, "0 for an IKE SA"),
            _ => (4, "4 for AH and ESP"),
        };
        if spi_size != expected {
            let found = u32::from(spi_size);
            return Err(spi_size_at.error(WireErrorKind::Value { field: "SPI size", found, expected: text }));
        }
        if protocol == ProtocolId::IKE {
            return Ok(Self::Ike);
        }
        if reader.len() != count * 4 {
            let expected = "4 bytes for each SPI";
            return Err(reader.error(WireErrorKind::Length { found: reader.len(), expected }));
        }
        let spis = reader.remaining().chunks_exact(4).filter_map(|spi| spi.try_into().ok());
        Ok(Self::Child { protocol, spis: spis.map(u32::from_be_bytes).collect() })
    }

    pub(super) fn emit(&self, out: &mut Vec<u8>) -> Result<(), WireErrorKind> {
        match self {
            Self::Ike => out.extend_from_slice(&[ProtocolId::IKE.0, 0, 0, 0]),
            Self::Child { protocol, spis } => {
                let found = spis.len();
                let count = u16::try_from(found)
                    .map_err(|_| WireErrorKind::Length { found, expected: "at most 65535 SPIs" })?;
                out.extend_from_slice(&[protocol.0, 4]);
                out.extend_from_slice(&count.to_be_bytes());
                spis.iter().for_each(|spi| out.extend_from_slice(&spi.to_be_bytes()));
            }
        }
        Ok(())
    }
}

impl From<IpAddr> for Id<'static> {
    fn from(address: IpAddr) -> Self {
        let (kind, data) = match address {
            IpAddr::V4(v4) => (IdType::IPV4_ADDR, v4.octets().to_vec()),
            IpAddr::V6(v6) => (IdType::IPV6_ADDR, v6.octets().to_vec()),
        };
        Self { kind, reserved: [0; 3], data: Cow::Owned(data) }
    }
}
