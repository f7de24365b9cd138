//! From the mapping `auth` to the proofs of both ends. Files of certificates and keys are read here.

use std::fs;
use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, Result, anyhow};
use controlplane::auth::eap::{
    PeerConfig, PeerMethod, ServerConfig, ServerMethod, TlsPeerConfig, TlsServerConfig,
};
use controlplane::auth::x509::{Certificate, Revocation, read_pem};
use controlplane::auth::{Identity, LocalProof, RemoteProof, Roles, TrustStore};
use controlplane::crypto::{PublicKey, Secret, SigningKey};
use zeroize::Zeroizing;

use crate::config::{Authorities, Connection, OurProof, OwnCertificate, TheirProof};

/// Our proof and the peer's. `comparisons`: of a peer's names with name constraints.
///
/// # Errors
/// Files that cannot be used, and proofs that do not go together.
pub(super) fn proofs(connection: &Connection, comparisons: usize) -> Result<(LocalProof, RemoteProof)> {
    let (ours, theirs) = (ours(connection, comparisons)?, theirs(connection, comparisons)?);
    Roles::of(&ours, &theirs).map_err(|why| anyhow!("{why}"))?;
    Ok((ours, theirs))
}

fn ours(connection: &Connection, comparisons: usize) -> Result<LocalProof> {
    let rsa = connection.auth.rsa;
    let by_eap = |identity, method| LocalProof::Eap(Arc::new(PeerConfig { identity, methods: vec![method] }));
    Ok(match &connection.auth.ours {
        OurProof::Psk(psk) => LocalProof::Psk(Secret::copy_of(psk.expose())),
        OurProof::Certificate(own) => {
            let Own { chain, key, .. } = Own::read(own)?;
            LocalProof::Certificate { key: Arc::new(key), chain: chain.into(), rsa }
        }
        OurProof::RawKey(path) => LocalProof::RawKey { key: Arc::new(private_key(path)?.0), rsa },
        OurProof::EapPassword { user, password } => {
            let password = Secret::copy_of(password.expose());
            by_eap(user.clone(), PeerMethod::Mschapv2 { user: user.clone(), password })
        }
        OurProof::EapTls(own, authorities) => {
            let (Own { chain, pem, .. }, trust) = (Own::read(own)?, trust(authorities, comparisons)?);
            let expected = connection.remote.id.clone();
            let tls = TlsPeerConfig::from_pem(Arc::new(trust), &chain, &pem, expected)
                .with_context(|| own.cert.display().to_string())?;
            by_eap(eap_identity(&connection.local.id), PeerMethod::Tls(Arc::new(tls)))
        }
        OurProof::EapOnly => LocalProof::EapOnly,
        OurProof::Null => LocalProof::Null,
    })
}

fn theirs(connection: &Connection, comparisons: usize) -> Result<RemoteProof> {
    Ok(match &connection.auth.theirs {
        TheirProof::Psk(psk) => RemoteProof::Psk(Secret::copy_of(psk.expose())),
        TheirProof::Authorities(authorities) => {
            RemoteProof::Certificate(Arc::new(trust(authorities, comparisons)?))
        }
        TheirProof::Certificate(path) => RemoteProof::Pinned(certificates(path)?.into()),
        TheirProof::RawKey(path) => {
            let keys = PublicKey::all_from_pem(&read(path)?).with_context(|| path.display().to_string())?;
            RemoteProof::RawKey(keys.into())
        }
        TheirProof::Eap { users, tls } => {
            let mut methods = Vec::new();
            if let Some((own, authorities)) = tls {
                let (Own { chain, pem, .. }, trust) = (Own::read(own)?, trust(authorities, comparisons)?);
                let tls = TlsServerConfig::from_pem(Arc::new(trust), &chain, &pem)
                    .with_context(|| own.cert.display().to_string())?;
                methods.push(ServerMethod::Tls(Arc::new(tls)));
            }
            methods.extend(users.clone().map(ServerMethod::Mschapv2));
            let name = connection.local.id.to_string();
            RemoteProof::Eap(Arc::new(ServerConfig { name, ask_identity: true, methods }))
        }
        TheirProof::EapOnly => RemoteProof::EapOnly,
        TheirProof::Null => RemoteProof::Null,
    })
}

/// What we answer when we are asked who we are: nothing of EAP-TLS is secret yet (RFC 9190 s2.1.7), so who says nothing
/// in IKE says nothing here.
fn eap_identity(id: &Identity) -> String {
    if *id == Identity::Null { "anonymous".to_owned() } else { id.to_string() }
}

/// A certificate of ours with its key.
struct Own {
    chain: Vec<Certificate>,
    key: SigningKey,
    pem: Zeroizing<Vec<u8>>,
}

impl Own {
    fn read(files: &OwnCertificate) -> Result<Self> {
        let chain = certificates(&files.cert)?;
        let (key, pem) = private_key(&files.key)?;
        if chain.first().is_none_or(|first| first.public_key().spki() != key.public().spki()) {
            let (key, cert) = (files.key.display(), files.cert.display());
            anyhow::bail!("{key} is not the key of the first certificate in {cert}");
        }
        Ok(Self { chain, key, pem })
    }
}

fn private_key(path: &Path) -> Result<(SigningKey, Zeroizing<Vec<u8>>)> {
    let pem = Zeroizing::new(read(path)?);
    let key = SigningKey::from_pem(&pem).with_context(|| path.display().to_string())?;
    Ok((key, pem))
}

fn certificates(path: &Path) -> Result<Vec<Certificate>> {
    read_pem(&read(path)?).with_context(|| path.display().to_string())
}

fn trust(files: &Authorities, comparisons: usize) -> Result<TrustStore> {
    let mut trust = TrustStore::new(Revocation::IfKnown, comparisons);
    trust.add_authorities_pem(&read(&files.ca)?).with_context(|| files.ca.display().to_string())?;
    if let Some(crl) = &files.crl {
        trust.add_crls(&read(crl)?).with_context(|| crl.display().to_string())?;
    }
    Ok(trust)
}

fn read(path: &Path) -> Result<Vec<u8>> {
    fs::read(path).with_context(|| format!("cannot read {}", path.display()))
}
