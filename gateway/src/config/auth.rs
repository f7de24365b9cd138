//! How both ends of a connection prove who they are: the mapping `auth`.

use std::borrow::Cow;
use std::path::PathBuf;
use std::sync::Arc;

use controlplane::auth::eap::Users;
use controlplane::crypto::RsaPadding;

use super::keyfile::{self, Psk, read_psk};
use super::node::{Fields, FromNode, Keyword, Node};

/// How both ends prove who they are (RFC 7296 s2.15, s2.16).
#[derive(Clone, Debug)]
pub struct Auth {
    /// How we do.
    pub ours: OurProof,
    /// How the peer has to.
    pub theirs: TheirProof,
    /// How an RSA key of ours signs.
    pub rsa: RsaPadding,
}

/// How we prove who we are. Files but those of secrets are read when the connection is set up.
#[derive(Clone, Debug)]
pub enum OurProof {
    /// By the pre-shared key of both.
    Psk(Psk),
    /// By a certificate.
    Certificate(OwnCertificate),
    /// By a key that the peer knows (RFC 7670), PEM.
    RawKey(PathBuf),
    /// As a client with a password: EAP-MSCHAPv2.
    EapPassword {
        /// Our user name.
        user: String,
        /// Our password.
        password: Psk,
    },
    /// As a client with a certificate, inside EAP-TLS.
    EapTls(OwnCertificate, Authorities),
    /// As a gateway, inside the peer's EAP-TLS alone (RFC 5998).
    EapOnly,
    /// Not at all (RFC 7619).
    Null,
}

/// How the peer has to prove who it is.
#[derive(Clone, Debug)]
pub enum TheirProof {
    /// By the pre-shared key of both.
    Psk(Psk),
    /// By a certificate of these authorities.
    Authorities(Authorities),
    /// By this certificate, whoever issued it, PEM.
    Certificate(PathBuf),
    /// By one of the keys of this file (RFC 7670), PEM.
    RawKey(PathBuf),
    /// As a client, by EAP.
    Eap {
        /// Names and passwords for EAP-MSCHAPv2.
        users: Option<Arc<Users>>,
        /// Our side of EAP-TLS, and who issues the certificates of clients.
        tls: Option<(OwnCertificate, Authorities)>,
    },
    /// As a gateway, inside our EAP-TLS alone (RFC 5998).
    EapOnly,
    /// Not at all (RFC 7619).
    Null,
}

/// A certificate of ours.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OwnCertificate {
    /// The certificate and its intermediates, PEM.
    pub cert: PathBuf,
    /// Its private key, PEM.
    pub key: PathBuf,
}

/// Who may have issued a certificate of the peer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Authorities {
    /// Certificates of the authorities, PEM.
    pub ca: PathBuf,
    /// Their revocation lists, PEM or DER.
    pub crl: Option<PathBuf>,
}

/// Who need not prove anything (RFC 7619).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum NullAuth {
    Ours,
    Peer,
    Both,
}

impl Keyword for RsaPadding {
    const KEYWORDS: &'static [(&'static str, Self)] = &[("pkcs1", Self::Pkcs1), ("pss", Self::Pss)];
}

impl Keyword for NullAuth {
    const KEYWORDS: &'static [(&'static str, Self)] =
        &[("ours", Self::Ours), ("peer", Self::Peer), ("both", Self::Both)];
}

impl OurProof {
    /// Only an initiator can authenticate by EAP (RFC 7296 s2.16).
    pub const fn is_eap(&self) -> bool {
        matches!(self, Self::EapPassword { .. } | Self::EapTls(..))
    }
}

const PEM: &str = "the path of a PEM file";

impl FromNode for Auth {
    fn expected() -> Cow<'static, str> {
        "a mapping with `psk_file`, with `cert`, `key` and `ca`, with `key` and `peer_key`, with `cert`, `key` and \
         `eap_users` or `eap_ca`, or with `ca` and `eap_user` or `eap_cert`"
            .into()
    }

    fn from_node(node: Node<'_>) -> Option<Self> {
        let mut fields = node.fields()?;
        let auth = read(node, &mut fields);
        fields.finish();
        auth
    }
}

/// Ways in which one end proves itself, by the key that stands for each.
struct Ways {
    ours: Vec<&'static str>,
    theirs: Vec<&'static str>,
}

fn read(node: Node<'_>, fields: &mut Fields<'_>) -> Option<Auth> {
    // All keys are known before anything is said of one of them.
    let eap_only = fields.optional::<bool>("eap_only") == Some(true);
    let rsa = fields.optional::<RsaPadding>("rsa");
    let ways = ways(fields)?;
    if rsa.is_some() && !ways.ours.iter().any(|way| matches!(*way, "cert" | "key")) {
        fields.error::<()>("rsa", "only with a `key` of ours, which signs in this way");
    }
    let (Some(&our_way), Some(&their_way)) = (ways.ours.first(), ways.theirs.first()) else {
        return match (ways.ours.first(), ways.theirs.first()) {
            (None, None) => node.error(format!("found neither, expected {}", Auth::expected())),
            (None, _) => fields.error(
                "cert",
                format!(
                    "missing, expected {PEM}, or `key` alone, `eap_user`, `eap_cert` or `null_auth: ours`"
                ),
            ),
            (Some(&our_way), _) => {
                // What is wrong with the one end is said all the same.
                let _said = read_ours(fields, our_way, None);
                fields.error(
                    "ca",
                    format!(
                        "missing, expected {PEM}, or `peer_cert`, `peer_key`, `eap_users`, `eap_ca` or `null_auth: peer`"
                    ),
                )
            }
        };
    };
    for ways in [&ways.ours, &ways.theirs] {
        // EAP may offer passwords and certificates.
        if let [one, other, ..] = ways[..]
            && !(one == "eap_users" && other == "eap_ca")
        {
            return node.error(format!("found both `{one}` and `{other}`, expected one of them"));
        }
    }
    if fields.has("crl") && !ways.theirs.iter().any(|way| matches!(*way, "ca" | "eap_ca")) {
        fields.error::<()>("crl", "only with `ca` or `eap_ca`, whose lists these are");
    }
    together(fields, our_way, &ways.theirs, eap_only)?;
    let authorities = match their_way {
        "ca" => authorities(fields, "ca").map(Some),
        _ => Some(None),
    };
    let ours = read_ours(fields, our_way, authorities.clone().flatten());
    let theirs = match their_way {
        "psk_file" => match &ours {
            Some(OurProof::Psk(psk)) => Some(TheirProof::Psk(psk.clone())),
            _ => None,
        },
        "ca" if eap_only => Some(TheirProof::EapOnly),
        "ca" => authorities.flatten().map(TheirProof::Authorities),
        "peer_cert" => existing_file(fields, "peer_cert", false).map(TheirProof::Certificate),
        "peer_key" => existing_file(fields, "peer_key", false).map(TheirProof::RawKey),
        "null_auth" => Some(TheirProof::Null),
        _ => read_eap(fields, &ways.theirs, &ours),
    };
    let ours = if eap_only && their_way != "ca" { ours.map(|_| OurProof::EapOnly) } else { ours };
    Some(Auth { ours: ours?, theirs: theirs?, rsa: rsa.unwrap_or_default() })
}

fn ways(fields: &mut Fields<'_>) -> Option<Ways> {
    let mut has = |key| fields.has(key);
    let (psk, ca, peer_cert) = (has("psk_file"), has("ca"), has("peer_cert"));
    let (cert, key, user) = (has("cert"), has("key"), has("eap_user"));
    let (password, eap_cert, eap_key) = (has("eap_password_file"), has("eap_cert"), has("eap_key"));
    let (peer_key, users, eap_ca) = (has("peer_key"), has("eap_users"), has("eap_ca"));
    let _known = has("crl");
    let null = match fields.read("null_auth", NullAuth::from_node) {
        Some(read) => Some(read?),
        None => None,
    };
    let named = |ways: &[(bool, &'static str)]| {
        ways.iter().filter(|(there, _)| *there).map(|&(_, key)| key).collect::<Vec<_>>()
    };
    // A key without a certificate is one that the peer knows, unless it has to check a certificate.
    let raw = key && !cert && !ca && !peer_cert;
    Some(Ways {
        ours: named(&[
            (psk, "psk_file"),
            (raw, "key"),
            ((cert || key) && !raw, "cert"),
            (user || password, "eap_user"),
            (eap_cert || eap_key, "eap_cert"),
            (matches!(null, Some(NullAuth::Ours | NullAuth::Both)), "null_auth"),
        ]),
        theirs: named(&[
            (psk, "psk_file"),
            (ca, "ca"),
            (peer_cert, "peer_cert"),
            (peer_key, "peer_key"),
            (users, "eap_users"),
            (eap_ca, "eap_ca"),
            (matches!(null, Some(NullAuth::Peer | NullAuth::Both)), "null_auth"),
        ]),
    })
}

/// Which proofs go together (RFC 7296 s2.16, RFC 5998 s4).
fn together(fields: &Fields<'_>, ours: &str, theirs: &[&'static str], eap_only: bool) -> Option<()> {
    let eap = theirs.iter().find(|way| matches!(**way, "eap_users" | "eap_ca"));
    let signature = |way: &str| matches!(way, "cert" | "key" | "ca" | "peer_cert" | "peer_key");
    let (client, their_way) =
        (matches!(ours, "eap_user" | "eap_cert"), theirs.first().copied().unwrap_or_default());
    if let (true, Some(eap)) = (client, eap) {
        return fields.error(
            eap,
            format!(
                "found `{ours}` too: only one end, the initiator, can authenticate by EAP (RFC 7296 s2.16)"
            ),
        );
    }
    if client && !signature(their_way) {
        return fields.error(
            ours,
            "with EAP the peer must prove itself by a certificate or a key first (RFC 7296 s2.16): expected `ca`",
        );
    }
    if let Some(eap) = eap
        && !signature(ours)
    {
        return fields.error(
            eap,
            "with EAP we must prove ourselves by a certificate or a key first (RFC 7296 s2.16): expected `cert` and `key`",
        );
    }
    if ours == "eap_cert" && their_way != "ca" {
        return fields
            .error("ca", format!("missing, expected {PEM}: EAP-TLS checks the gateway's certificate"));
    }
    if eap_only && !(theirs == ["eap_ca"] && ours == "cert" || ours == "eap_cert") {
        return fields.error(
            "eap_only",
            "only with EAP-TLS, which proves who both ends are (RFC 5998 s4): expected `eap_ca` without `eap_users`, or `eap_cert`",
        );
    }
    Some(())
}

fn read_ours(fields: &mut Fields<'_>, way: &str, authorities: Option<Authorities>) -> Option<OurProof> {
    match way {
        "psk_file" => fields.read("psk_file", secret_file).flatten().map(OurProof::Psk),
        "cert" => own_certificate(fields, "cert", "key").map(OurProof::Certificate),
        "key" => existing_file(fields, "key", true).map(OurProof::RawKey),
        "eap_cert" => {
            let own = own_certificate(fields, "eap_cert", "eap_key");
            Some(OurProof::EapTls(own?, authorities?))
        }
        "eap_user" => {
            let user = fields.required::<String>("eap_user");
            let password = match fields.read("eap_password_file", secret_file) {
                Some(password) => password,
                None => {
                    fields.error("eap_password_file", "missing, expected the path of a file with one line")
                }
            };
            Some(OurProof::EapPassword { user: user?, password: password? })
        }
        _ => Some(OurProof::Null),
    }
}

/// What we ask clients for.
fn read_eap(fields: &mut Fields<'_>, ways: &[&'static str], ours: &Option<OurProof>) -> Option<TheirProof> {
    let users = match ways.contains(&"eap_users") {
        true => Some(fields.read("eap_users", read_users).flatten()),
        false => None,
    };
    let tls = match (ways.contains(&"eap_ca"), ours) {
        (true, Some(OurProof::Certificate(own))) => {
            Some(authorities(fields, "eap_ca").map(|ca| (own.clone(), ca)))
        }
        (true, Some(_)) => {
            return fields.error("cert", format!("missing, expected {PEM}: EAP-TLS shows it to the client"));
        }
        // What is wrong with our certificate was said.
        (true, None) => return None,
        (false, _) => None,
    };
    // What was there and could not be read was said.
    let users = match users {
        Some(read) => Some(read?),
        None => None,
    };
    let tls = match tls {
        Some(read) => Some(read?),
        None => None,
    };
    Some(TheirProof::Eap { users, tls })
}

fn read_users(node: Node<'_>) -> Option<Arc<Users>> {
    let file = secret_file(node)?;
    let Ok(text) = std::str::from_utf8(file.expose()) else {
        return node.error("the file is not UTF-8");
    };
    match Users::parse(text) {
        Ok(users) => Some(Arc::new(users)),
        Err(error) => node.error(error.to_string()),
    }
}

fn own_certificate(fields: &mut Fields<'_>, cert: &'static str, key: &'static str) -> Option<OwnCertificate> {
    let cert = existing_file(fields, cert, false);
    let key = existing_file(fields, key, true);
    Some(OwnCertificate { cert: cert?, key: key? })
}

fn authorities(fields: &mut Fields<'_>, key: &'static str) -> Option<Authorities> {
    let ca = existing_file(fields, key, false);
    let crl = match fields.has("crl") {
        true => Some(existing_file(fields, "crl", false)?),
        false => None,
    };
    Some(Authorities { ca: ca?, crl })
}

/// The content of a file that only its owner may read.
pub(super) fn secret_file(node: Node<'_>) -> Option<Psk> {
    let path = node.resolve(&PathBuf::from_node(node)?);
    match read_psk(&path) {
        Ok(secret) => Some(secret),
        Err(error) => node.error(error.to_string()),
    }
}

fn existing_file(fields: &mut Fields<'_>, key: &'static str, secret: bool) -> Option<PathBuf> {
    let read = |node: Node<'_>| {
        let path = node.resolve(&PathBuf::from_node(node)?);
        match keyfile::check(&path, secret) {
            Ok(()) => Some(path),
            Err(error) => node.error(error.to_string()),
        }
    };
    match fields.read(key, read) {
        Some(path) => path,
        None => fields.error(key, format!("missing, expected {PEM}")),
    }
}
