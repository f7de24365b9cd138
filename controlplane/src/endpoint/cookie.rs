//! Stateless cookies (RFC 7296 s2.6): a peer that returns one receives at the address that it claims.

use std::net::IpAddr;
use std::time::{Duration, Instant};

use aws_lc_rs::constant_time::verify_slices_are_equal;
use aws_lc_rs::hmac::{self, HMAC_SHA256, Key};

use crate::crypto::Random;

/// A byte of secret version, then this many of the MAC.
const MAC_LEN: usize = 16;

/// Makes and checks cookies. The secret is replaced when it is old; the one before it stays valid as long again.
pub(crate) struct Cookies {
    current: Option<Secret>,
    previous: Option<Secret>,
    lifetime: Duration,
}

struct Secret {
    version: u8,
    key: Key,
    since: Instant,
}

impl Cookies {
    pub fn new(lifetime: Duration) -> Self {
        Self { current: None, previous: None, lifetime }
    }

    /// The cookie for this request: `version | MAC(secret, Ni | IPi | SPIi)`.
    pub fn make(
        &mut self,
        now: Instant,
        rng: &mut dyn Random,
        nonce: &[u8],
        address: IpAddr,
        spi: u64,
    ) -> Vec<u8> {
        self.rotate(now, rng);
        self.current.as_ref().map_or_else(Vec::new, |secret| secret.cookie(nonce, address, spi))
    }

    /// The cookie is ours and not too old.
    pub fn verify(&self, now: Instant, cookie: &[u8], nonce: &[u8], address: IpAddr, spi: u64) -> bool {
        let secrets = [&self.current, &self.previous];
        let fresh = |secret: &&Secret| now < secret.since + self.lifetime * 2;
        secrets
            .into_iter()
            .flatten()
            .filter(fresh)
            .any(|secret| verify_slices_are_equal(&secret.cookie(nonce, address, spi), cookie).is_ok())
    }

    fn rotate(&mut self, now: Instant, rng: &mut dyn Random) {
        if self.current.as_ref().is_some_and(|secret| now < secret.since + self.lifetime) {
            return;
        }
        let mut key = [0; 32];
        rng.fill(&mut key);
        let version = self.current.as_ref().map_or(0, |secret| secret.version.wrapping_add(1));
        let fresh = Secret { version, key: Key::new(HMAC_SHA256, &key), since: now };
        zeroize::Zeroize::zeroize(&mut key);
        self.previous = self.current.replace(fresh);
    }
}

impl Secret {
    fn cookie(&self, nonce: &[u8], address: IpAddr, spi: u64) -> Vec<u8> {
        let mut context = hmac::Context::with_key(&self.key);
        context.update(nonce);
        match address {
            IpAddr::V4(v4) => context.update(&v4.octets()),
            IpAddr::V6(v6) => context.update(&v6.octets()),
        }
        context.update(&spi.to_be_bytes());
        let mut cookie = vec![self.version];
        cookie.extend(context.sign().as_ref().iter().take(MAC_LEN));
        cookie
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::crypto::Seeded;

    const LIFETIME: Duration = Duration::from_secs(60);

    #[test]
    fn a_cookie_is_for_one_nonce_address_and_spi() {
        let (mut cookies, mut rng, now) = (Cookies::new(LIFETIME), Seeded(1), Instant::now());
        let peer = "198.51.100.1".parse().unwrap();
        let cookie = cookies.make(now, &mut rng, b"nonce", peer, 7);
        assert!(cookies.verify(now, &cookie, b"nonce", peer, 7));
        assert!(!cookies.verify(now, &cookie, b"nonze", peer, 7));
        assert!(!cookies.verify(now, &cookie, b"nonce", "198.51.100.2".parse().unwrap(), 7));
        assert!(!cookies.verify(now, &cookie, b"nonce", peer, 8));
        assert!(!cookies.verify(now, &cookie[..16], b"nonce", peer, 7));
        assert!(!cookies.verify(now, &[], b"nonce", peer, 7));
    }

    #[test]
    fn secrets_rotate_and_the_one_before_is_still_good() {
        let (mut cookies, mut rng, start) = (Cookies::new(LIFETIME), Seeded(1), Instant::now());
        let peer = "2001:db8::1".parse().unwrap();
        let old = cookies.make(start, &mut rng, b"n", peer, 7);
        let later = start + LIFETIME + Duration::from_secs(1);
        let new = cookies.make(later, &mut rng, b"n", peer, 7);
        assert_ne!(old[0], new[0]);
        assert!(cookies.verify(later, &old, b"n", peer, 7));
        assert!(cookies.verify(later, &new, b"n", peer, 7));
        let much_later = later + LIFETIME;
        assert!(!cookies.verify(much_later, &old, b"n", peer, 7));
        cookies.make(much_later + LIFETIME, &mut rng, b"n", peer, 7);
        assert!(!cookies.verify(much_later + LIFETIME, &old, b"n", peer, 7));
    }

    #[test]
    fn before_the_first_secret_nothing_verifies() {
        let cookies = Cookies::new(LIFETIME);
        assert!(!cookies.verify(Instant::now(), &[0; 17], b"n", "198.51.100.1".parse().unwrap(), 1));
    }
}
