//! The section `manual_sas`: tunnels that are keyed by hand.

use std::borrow::Cow;
use std::net::IpAddr;
use std::path::PathBuf;

use aws_lc_rs::constant_time::verify_slices_are_equal;
use controlplane::proposal::Weak;
use dataplane::crypto::suite::{Encryption, Integrity};
use dataplane::crypto::{KeyMaterial, Suite, SuiteError};
use dataplane::policy::Selector;
use dataplane::sa::{Lifetime, Mode, Protocol, Spi, UdpPorts};
use ipnet::IpNet;
use serde_yaml::Value;

use super::keyfile::read_key;
use super::node::{Fields, FromNode, Node};
use super::options::{SaOptions, SoftHard};
use super::port::is_unicast;
use super::selector::{Narrow, Selectors, read_protocol};

/// A tunnel that is keyed by hand.
#[derive(Clone, Debug)]
pub struct ManualSa {
    /// How packets are treated.
    pub options: SaOptions,
    /// Algorithms.
    pub suite: Suite,
    /// 64-bit sequence numbers.
    pub esn: bool,
    /// Our outer address.
    pub local: IpAddr,
    /// The peer's outer address.
    pub remote: IpAddr,
    /// UDP encapsulation (RFC 3948).
    pub encap: Option<UdpPorts>,
    /// What we send with.
    pub outbound: SaKey,
    /// What we receive with.
    pub inbound: SaKey,
    /// Traffic that goes through it.
    pub selectors: Vec<Selector>,
    /// Soft and hard lifetime.
    pub lifetime: Lifetime,
}

/// SPI and key of one direction.
#[derive(Clone, Debug)]
pub struct SaKey {
    /// The SPI.
    pub spi: Spi,
    /// The key.
    pub key: KeyMaterial,
}

impl FromNode for ManualSa {
    fn expected() -> Cow<'static, str> {
        "a mapping".into()
    }

    fn from_node(node: Node<'_>) -> Option<Self> {
        let mut fields = node.fields()?;
        let mut options = SaOptions::read(&mut fields)?;
        let suite = read_suite(&mut fields, &options);
        let esn = fields.optional("esn").unwrap_or(true);
        if esn && options.replay_window.is_none() {
            fields.error::<()>(
                "replay_window",
                "found 0, expected 64 or more with ESN: the receiver needs the window to work out the upper 32 \
                 bits (RFC 4303 s3.3.3); or set `esn: false`",
            );
        }
        let local = outer_address(&mut fields, "local");
        let remote = outer_address(&mut fields, "remote");
        let encap = fields.optional("encap").map(|Encap(ports)| ports);
        if encap.is_some() && options.protocol == Protocol::Ah {
            fields.error::<()>("encap", "only with ESP: AH cannot pass a NAT (RFC 3948 s1)");
        }
        if encap.is_none() {
            if fields.has("keepalive") {
                fields.error::<()>("keepalive", "only with `encap`: it keeps a NAT's mapping (RFC 3948 s4)");
            }
            options.outbound.keepalive = None;
        }
        let outbound = read_key_of(&mut fields, "outbound", suite);
        let inbound = read_key_of(&mut fields, "inbound", suite);
        if let (Some(outbound), Some(inbound)) = (&outbound, &inbound)
            && verify_slices_are_equal(outbound.key.expose(), inbound.key.expose()).is_ok()
        {
            fields.error::<()>("inbound", "the key is that of `outbound`: each direction needs its own");
        }
        let lifetime = fields.optional("lifetime").map(|SoftHard(lifetime)| lifetime).unwrap_or_default();
        let endpoints = local.zip(remote);
        if let Some((local, remote)) = endpoints {
            if local.is_ipv4() != remote.is_ipv4() {
                fields.error::<()>(
                    "remote",
                    format!("{remote} is not of the address family of `local`, {local}"),
                );
            }
            if local == remote {
                fields.error::<()>("remote", format!("{remote} is the address of `local` too"));
            }
        }
        let selectors = read_sa_selectors(&mut fields, options.mode, endpoints);
        fields.finish();
        Some(Self {
            options,
            suite: suite?,
            esn,
            local: local?,
            remote: remote?,
            encap,
            outbound: outbound?,
            inbound: inbound?,
            selectors: selectors?,
            lifetime,
        })
    }
}

fn read_suite(fields: &mut Fields<'_>, options: &SaOptions) -> Option<Suite> {
    let read = |node: Node<'_>| {
        let text = node.text("a suite such as aes128gcm16")?;
        match parse_suite(text, options.protocol) {
            Ok(suite) => {
                options.check_weak(node, weak(suite));
                Some(suite)
            }
            Err(message) => node.error(message),
        }
    };
    match fields.read("suite", read) {
        Some(suite) => suite,
        None => fields.error("suite", "missing, expected a suite such as aes128gcm16 or aes256-sha256"),
    }
}

/// The suite of a keyword, which must be one of the SA's protocol.
fn parse_suite(text: &str, protocol: Protocol) -> Result<Suite, String> {
    for (ending, esn) in [("-noesn", false), ("-esn", true)] {
        if let Some(suite) = text.strip_suffix(ending) {
            return Err(format!("`{text}` is a proposal; here it is `suite: {suite}` and `esn: {esn}`"));
        }
    }
    let suite: Suite = text.parse().map_err(|error: SuiteError| error.to_string())?;
    match (protocol, suite.encryption(), suite.integrity()) {
        (Protocol::Esp, None, Some(Integrity::AesGmac(key))) => {
            Err(format!("`{suite}` is for AH; for ESP it is `{}`", Encryption::AesGmac(key)))
        }
        (Protocol::Esp, None, _) => Err(format!("`{suite}` is for AH; for ESP it is `null-{suite}`")),
        (Protocol::Ah, Some(Encryption::AesGmac(_)), _) => {
            Err(format!("`{suite}` is for ESP; for AH it is `ah-{suite}`"))
        }
        (Protocol::Ah, Some(_), _) => Err(format!(
            "AH does not encrypt: `{suite}` is for ESP, expected one such as sha256 or ah-aes128gmac"
        )),
        (Protocol::Esp, Some(_), _) | (Protocol::Ah, None, _) => Ok(suite),
    }
}

/// Weak algorithms of a suite.
fn weak(suite: Suite) -> impl Iterator<Item = Weak> {
    let cipher = matches!(suite.encryption(), Some(Encryption::TripleDesCbc)).then_some(Weak::TripleDes);
    let mac = matches!(suite.integrity(), Some(Integrity::HmacSha1)).then_some(Weak::Sha1);
    cipher.into_iter().chain(mac)
}

fn outer_address(fields: &mut Fields<'_>, key: &'static str) -> Option<IpAddr> {
    let address = fields.required::<IpAddr>(key)?;
    if !is_unicast(address) {
        return fields
            .error(key, format!("{address} cannot be the end of a tunnel, expected a unicast address"));
    }
    Some(address)
}

fn read_key_of(fields: &mut Fields<'_>, direction: &'static str, suite: Option<Suite>) -> Option<SaKey> {
    let read = |node: Node<'_>| {
        let mut fields = node.fields()?;
        let spi = match fields.read("spi", read_spi) {
            Some(spi) => spi,
            None => fields.error("spi", format!("missing, expected {SPI_EXPECTED}")),
        };
        // Without a suite there is no telling what the file should hold.
        let key = match suite {
            None => fields.required::<PathBuf>("key_file").and(None),
            Some(suite) => fields.required("key_file").and_then(|path: PathBuf| {
                let path = node.resolve(&path);
                match read_key(&path, suite) {
                    Ok(key) => Some(key),
                    Err(error) => fields.error("key_file", error.to_string()),
                }
            }),
        };
        fields.finish();
        Some(SaKey { spi: spi?, key: key? })
    };
    match fields.read(direction, read) {
        Some(key) => key,
        None => fields.error(direction, "missing, expected a mapping with `spi` and `key_file`"),
    }
}

const SPI_EXPECTED: &str = "an SPI from 0x100 to 0xffffffff: 0 to 255 are reserved (RFC 4303 s2.1)";

fn read_spi(node: Node<'_>) -> Option<Spi> {
    let spi = node.value.as_u64().and_then(|number| Spi::try_from(number).ok());
    spi.filter(|spi| *spi > 255).or_else(|| node.unexpected(SPI_EXPECTED))
}

/// In transport mode the selectors are between the ends themselves, and may be left out or narrowed to a
/// protocol (RFC 4301 s4.1: transport mode is between two hosts).
fn read_sa_selectors(
    fields: &mut Fields<'_>,
    mode: Mode,
    endpoints: Option<(IpAddr, IpAddr)>,
) -> Option<Vec<Selector>> {
    match mode {
        Mode::Tunnel => fields.required("selectors").map(|Selectors(selectors)| selectors),
        Mode::Transport => {
            let between = |narrow: Narrow| {
                endpoints.map(|(local, remote)| vec![narrow.between(IpNet::from(local), IpNet::from(remote))])
            };
            let read = |node: Node<'_>| {
                let mut fields = node.fields()?;
                let ends = endpoints.map(|(local, remote)| (IpNet::from(local), IpNet::from(remote)));
                for (key, end) in [("local", ends.map(|ends| ends.0)), ("remote", ends.map(|ends| ends.1))] {
                    let prefix = fields.optional(key).map(|OnePrefix(prefix)| prefix);
                    if let (Some(found), Some(end)) = (prefix, end)
                        && found != end
                    {
                        let why = "transport mode is between the ends themselves";
                        fields.error::<()>(key, format!("found {found}, expected {end}: {why}"));
                    }
                }
                let narrow = read_protocol(&mut fields);
                fields.finish();
                between(narrow?)
            };
            fields.read("selectors", read).unwrap_or_else(|| between(Narrow::any()))
        }
    }
}

/// A prefix, or a list of just one.
struct OnePrefix(IpNet);

impl FromNode for OnePrefix {
    fn expected() -> Cow<'static, str> {
        IpNet::expected()
    }

    fn from_node(node: Node<'_>) -> Option<Self> {
        match node.value {
            Value::Sequence(_) => match Vec::<IpNet>::from_node(node)?.as_slice() {
                [prefix] => Some(Self(*prefix)),
                _ => node.error("transport mode has one address on each side"),
            },
            _ => IpNet::from_node(node).map(Self),
        }
    }
}

/// UDP ports; 4500 on both sides when they are left out (RFC 3948 s2).
struct Encap(UdpPorts);

impl FromNode for Encap {
    fn expected() -> Cow<'static, str> {
        "a mapping with `local_port` and `remote_port`".into()
    }

    fn from_node(node: Node<'_>) -> Option<Self> {
        let mut fields = node.fields()?;
        let local = fields.number("local_port", 1..=65_535, "a port").unwrap_or(4500);
        let remote = fields.number("remote_port", 1..=65_535, "a port").unwrap_or(4500);
        fields.finish();
        Some(Self(UdpPorts { local, remote }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_suite_is_one_of_the_protocol() {
        let shown = |text, protocol| parse_suite(text, protocol).unwrap().to_string();
        assert_eq!(shown("aes-sha2_256", Protocol::Esp), "aes128-sha256");
        assert_eq!(shown("ah-aes128gmac", Protocol::Ah), "ah-aes128gmac");
        let refused = |text, protocol| parse_suite(text, protocol).unwrap_err();
        assert!(refused("sha256", Protocol::Esp).ends_with("for ESP it is `null-sha256`"));
        assert!(refused("ah-aes128gmac", Protocol::Esp).ends_with("for ESP it is `aes128gmac`"));
        assert!(refused("aes128gmac", Protocol::Ah).ends_with("for AH it is `ah-aes128gmac`"));
        assert!(refused("aes128gcm16", Protocol::Ah).starts_with("AH does not encrypt"));
        assert!(refused("aes128gcm16-esn", Protocol::Esp).ends_with("`suite: aes128gcm16` and `esn: true`"));
        assert!(refused("aes128-sha256-noesn", Protocol::Esp).ends_with("and `esn: false`"));
    }

    #[test]
    fn the_weak_algorithms_are_those_that_the_data_plane_wants_named() {
        for suite in Suite::all() {
            assert_eq!(weak(suite).next().is_some(), suite.needs_opt_in(), "{suite}");
        }
        assert_eq!(weak("3des-sha1".parse().unwrap()).collect::<Vec<_>>(), [Weak::TripleDes, Weak::Sha1]);
    }
}
