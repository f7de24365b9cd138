//! Stateless cookies (RFC 7296 s2.6): a peer that returns one receives at the address that it claims.

use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use aws_lc_rs::constant_time::verify_slices_are_equal;
use aws_lc_rs::hmac::{self, HMAC_SHA256, Key};

use crate::crypto::{Prf, Random};
use crate::sa::Puzzle;

/// Bytes of the MAC.
const MAC_LEN: usize = 16;
/// What else the cookie of a puzzle says: difficulty, PRF, and when it was made.
const INFO_LEN: usize = 7;

/// Makes and checks cookies. The secret is replaced when it is old; the one before it stays valid as long again.
pub(crate) struct Cookies {
    current: Option<Secret>,
    previous: Option<Secret>,
    lifetime: Duration,
    /// The cookie of a puzzle is good for so long: the time that an IKE SA stays half open. So a solution is good for one.
    puzzle_lifetime: Duration,
}

/// Whom a cookie is for.
#[derive(Clone, Copy)]
pub(crate) struct Claim<'a> {
    pub nonce: &'a [u8],
    pub remote: SocketAddr,
    pub spi: u64,
}

/// What its bearer was asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Given {
    /// The cookie alone.
    Cookie,
    /// This puzzle too.
    Puzzle(Puzzle),
}

struct Secret {
    version: u8,
    key: Key,
    since: Instant,
}

impl Cookies {
    pub fn new(lifetime: Duration, puzzle_lifetime: Duration) -> Self {
        Self { current: None, previous: None, lifetime, puzzle_lifetime }
    }

    /// The cookie for this request: `version | MAC(secret, 0 | SPIi | IPi | Ni)`. With a puzzle
    /// `version | info | MAC(secret, 1 | info | SPIi | IPi | port | Ni)`, where `info` is difficulty, PRF and time, so
    /// that we need not keep them, and a puzzle is never the same again (RFC 8019 s7.1.1.3, s10). The port is in it
    /// because an IKE SA is half open by address, port and SPI.
    pub fn make(
        &mut self,
        now: Instant,
        rng: &mut dyn Random,
        claim: &Claim<'_>,
        puzzle: Option<Puzzle>,
    ) -> Vec<u8> {
        self.rotate(now, rng);
        let Some(secret) = &self.current else { return Vec::new() };
        let info = puzzle.map(|Puzzle { prf, difficulty }| {
            let age = now.saturating_duration_since(secret.since).as_millis();
            let [high, low] = prf.iana().to_be_bytes();
            let [a, b, c, d] = u32::try_from(age).unwrap_or(u32::MAX).to_be_bytes();
            [difficulty, high, low, a, b, c, d]
        });
        secret.cookie(claim, info.as_ref())
    }

    /// What was asked for with this cookie, when it is ours and not too old.
    pub fn verify(&self, now: Instant, cookie: &[u8], claim: &Claim<'_>) -> Option<Given> {
        let info: Option<&[u8; INFO_LEN]> = match cookie.len().checked_sub(1 + MAC_LEN)? {
            0 => None,
            INFO_LEN => cookie.get(1..)?.first_chunk(),
            _ => return None,
        };
        let fresh = |secret: &&Secret| now < secret.since + self.lifetime * 2;
        let same = |secret: &&Secret| verify_slices_are_equal(&secret.cookie(claim, info), cookie).is_ok();
        let secrets = [&self.current, &self.previous].into_iter().flatten();
        let secret = secrets.filter(fresh).find(same)?;
        let Some(&[difficulty, high, low, a, b, c, d]) = info else { return Some(Given::Cookie) };
        let made = secret.since + Duration::from_millis(u32::from_be_bytes([a, b, c, d]).into());
        let prf = Prf::from_iana(u16::from_be_bytes([high, low]))?;
        (now < made + self.puzzle_lifetime).then_some(Given::Puzzle(Puzzle { prf, difficulty }))
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
    /// What has no fixed length is last, so that no two claims read the same.
    fn cookie(&self, &Claim { nonce, remote, spi }: &Claim<'_>, info: Option<&[u8; INFO_LEN]>) -> Vec<u8> {
        let info = info.map(<[u8; INFO_LEN]>::as_slice).unwrap_or_default();
        let address = match remote.ip() {
            IpAddr::V4(v4) => v4.to_ipv6_mapped(),
            IpAddr::V6(v6) => v6,
        };
        let mut context = hmac::Context::with_key(&self.key);
        context.update(&[u8::from(!info.is_empty())]);
        context.update(info);
        context.update(&spi.to_be_bytes());
        context.update(&address.octets());
        if !info.is_empty() {
            context.update(&remote.port().to_be_bytes());
        }
        context.update(nonce);
        let mut cookie = vec![self.version];
        cookie.extend_from_slice(info);
        cookie.extend(context.sign().as_ref().iter().take(MAC_LEN));
        cookie
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::crypto::Seeded;

    const LIFETIME: Duration = Duration::from_secs(60);
    const PUZZLE_LIFETIME: Duration = Duration::from_secs(30);
    const PUZZLE: Puzzle = Puzzle { prf: Prf::HmacSha384, difficulty: 17 };

    fn cookies() -> (Cookies, Seeded, Instant) {
        (Cookies::new(LIFETIME, PUZZLE_LIFETIME), Seeded(1), Instant::now())
    }

    fn claim<'a>(nonce: &'a [u8], remote: &str, spi: u64) -> Claim<'a> {
        Claim { nonce, remote: remote.parse().unwrap(), spi }
    }

    #[test]
    fn a_cookie_is_for_one_nonce_address_and_spi() {
        for (puzzle, given) in [(None, Given::Cookie), (Some(PUZZLE), Given::Puzzle(PUZZLE))] {
            let (mut cookies, mut rng, now) = cookies();
            let peer = claim(b"nonce", "198.51.100.1:500", 7);
            let cookie = cookies.make(now, &mut rng, &peer, puzzle);
            assert!(cookie.len() <= 64, "RFC 7296 s2.6");
            assert_eq!(cookies.verify(now, &cookie, &peer), Some(given));
            for other in [
                claim(b"nonze", "198.51.100.1:500", 7),
                claim(b"nonce", "198.51.100.2:500", 7),
                claim(b"nonce", "[2001:db8::1]:500", 7),
                claim(b"nonce", "198.51.100.1:500", 8),
            ] {
                assert_eq!(cookies.verify(now, &cookie, &other), None);
            }
            // A solution must not be good for another port; a cookie alone may come from behind a NAT.
            let moved = claim(b"nonce", "198.51.100.1:501", 7);
            assert_eq!(cookies.verify(now, &cookie, &moved).is_none(), puzzle.is_some());
            for length in 0..cookie.len() {
                assert_eq!(cookies.verify(now, &cookie[..length], &peer), None);
            }
        }
    }

    #[test]
    fn no_bit_of_a_cookie_can_be_changed() {
        let (mut cookies, mut rng, now) = cookies();
        let peer = claim(b"nonce", "198.51.100.1:500", 7);
        let cookie = cookies.make(now, &mut rng, &peer, Some(PUZZLE));
        for bit in 0..cookie.len() * 8 {
            let mut bent = cookie.clone();
            bent[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(
                cookies.verify(now, &bent, &peer),
                None,
                "bit {bit}: an easier puzzle, or another time"
            );
        }
    }

    /// The string that the MAC covers for one claim must not be that of another with a longer nonce.
    #[test]
    fn a_puzzle_is_not_taken_for_a_cookie_alone() {
        let (mut cookies, mut rng, now) = cookies();
        let peer = claim(b"nonce", "198.51.100.1:500", 7);
        let cookie = cookies.make(now, &mut rng, &peer, Some(PUZZLE));
        let (head, mac) = (&cookie[..1], &cookie[1 + INFO_LEN..]);
        assert_eq!(cookies.verify(now, &[head, mac].concat(), &peer), None);
    }

    #[test]
    fn a_puzzle_is_never_the_same_again_and_lasts_as_long_as_an_ike_sa_is_half_open() {
        let (mut cookies, mut rng, start) = cookies();
        let peer = claim(b"nonce", "198.51.100.1:500", 7);
        cookies.make(start, &mut rng, &peer, None);
        let made = start + Duration::from_secs(40);
        let cookie = cookies.make(made, &mut rng, &peer, Some(PUZZLE));
        assert_ne!(cookies.make(made + Duration::from_millis(1), &mut rng, &peer, Some(PUZZLE)), cookie);
        let almost = made + PUZZLE_LIFETIME - Duration::from_millis(1);
        assert_eq!(cookies.verify(almost, &cookie, &peer), Some(Given::Puzzle(PUZZLE)));
        assert_eq!(cookies.verify(made + PUZZLE_LIFETIME, &cookie, &peer), None);
    }

    #[test]
    fn secrets_rotate_and_the_one_before_is_still_good() {
        let (mut cookies, mut rng, start) = cookies();
        let peer = claim(b"n", "[2001:db8::1]:500", 7);
        let old = cookies.make(start, &mut rng, &peer, None);
        let later = start + LIFETIME + Duration::from_secs(1);
        let new = cookies.make(later, &mut rng, &peer, None);
        assert_ne!(old[0], new[0]);
        assert_eq!(cookies.verify(later, &old, &peer), Some(Given::Cookie));
        assert_eq!(cookies.verify(later, &new, &peer), Some(Given::Cookie));
        let much_later = later + LIFETIME;
        assert_eq!(cookies.verify(much_later, &old, &peer), None);
        cookies.make(much_later + LIFETIME, &mut rng, &peer, None);
        assert_eq!(cookies.verify(much_later + LIFETIME, &old, &peer), None);
    }

    #[test]
    fn before_the_first_secret_nothing_verifies() {
        let (cookies, _, now) = cookies();
        assert_eq!(cookies.verify(now, &[0; 17], &claim(b"n", "198.51.100.1:500", 1)), None);
    }
}
