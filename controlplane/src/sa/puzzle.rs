//! Puzzles (RFC 8019): work that an initiator does before a responder under attack does any for it.
//!
//! Given a string that nobody could foresee, four keys of a PRF are to be found under which its output for that string
//! ends in so many zero bits. No better way is known than trying, 2^bits times a key; to check takes four computations.

use crate::crypto::Prf;
use crate::wire::{Notify, NotifyType, Proposal, TransformType};

/// Keys of a solution (RFC 8019 s7.1.3).
pub(crate) const KEYS: usize = 4;

/// The PRFs that we ask for, those first that take most work for an output.
const PREFERENCE: [Prf; 5] =
    [Prf::HmacSha512, Prf::HmacSha384, Prf::HmacSha256, Prf::HmacSha1, Prf::Aes128Cmac];

/// What is asked of an initiator.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Puzzle {
    /// By which the keys are tried.
    pub prf: Prf,
    /// Zero bits at the end of each output; 0 leaves them to the initiator (RFC 8019 s7.1.1.1).
    pub difficulty: u8,
}

impl Puzzle {
    /// One by a PRF that the initiator offers and we know (RFC 8019 s7.1.1.2).
    pub fn of_offer(offered: &[Proposal], difficulty: u8) -> Option<Self> {
        let transforms = || offered.iter().flat_map(|proposal| &proposal.transforms);
        let offers =
            |prf: &Prf| transforms().any(|one| one.kind == TransformType::PRF && one.id == prf.iana());
        PREFERENCE.into_iter().find(offers).map(|prf| Self { prf, difficulty })
    }

    /// RFC 8019 s8.1. `None` when it is malformed, or asks for a PRF that we do not know.
    pub fn from_notify(notify: &Notify<'_>) -> Option<Self> {
        let &[high, low, difficulty] = notify.data.as_ref() else { return None };
        Some(Self { prf: Prf::from_iana(u16::from_be_bytes([high, low]))?, difficulty })
    }

    /// RFC 8019 s8.1.
    pub fn to_notify(self) -> Notify<'static> {
        let [high, low] = self.prf.iana().to_be_bytes();
        Notify::new(NotifyType::PUZZLE, vec![high, low, self.difficulty])
    }

    /// The content of a Puzzle Solution payload solves it for this string (RFC 8019 s8.2): four different keys of one
    /// size, which is not beyond the preferred one of the PRF.
    pub fn is_solved(self, solution: &[u8], string: &[u8]) -> bool {
        let size = solution.len() / KEYS;
        if size == 0 || !solution.len().is_multiple_of(KEYS) || size > self.prf.output_len() {
            return false;
        }
        let keys: Vec<_> = solution.chunks_exact(size).collect();
        let different = keys.iter().enumerate().all(|(at, key)| !keys.iter().take(at).any(|one| one == key));
        different && keys.iter().all(|key| self.is_key(key, string))
    }

    fn is_key(self, key: &[u8], string: &[u8]) -> bool {
        let output = self.prf.compute(key, &[string]);
        output.is_ok_and(|output| zero_bits(output.expose()) >= u32::from(self.difficulty))
    }
}

/// Zero bits at the end.
fn zero_bits(output: &[u8]) -> u32 {
    let mut bits = 0;
    for byte in output.iter().rev() {
        bits += byte.trailing_zeros();
        if *byte != 0 {
            break;
        }
    }
    bits
}

/// Looks for a solution, a slice at a time.
#[derive(Debug)]
pub(crate) struct Solver {
    puzzle: Puzzle,
    string: Vec<u8>,
    next: u32,
    solution: Vec<u8>,
}

impl Solver {
    /// Begins with a puzzle for this string.
    pub fn new(puzzle: Puzzle, string: Vec<u8>) -> Self {
        Self { puzzle, string, next: 0, solution: Vec::new() }
    }

    /// Tries more keys while `tries` are left. The content of the Puzzle Solution payload when it is complete.
    pub fn work(&mut self, tries: &mut u32) -> Option<Vec<u8>> {
        // AES-CMAC is at home with keys of 128 bits; HMAC takes any, and four octets are enough (RFC 8019 s8.2).
        let padding = if self.puzzle.prf == Prf::Aes128Cmac { 12 } else { 0 };
        while *tries > 0 {
            *tries -= 1;
            let mut key = vec![0; padding];
            key.extend_from_slice(&self.next.to_be_bytes());
            self.next = self.next.wrapping_add(1);
            if self.puzzle.is_key(&key, &self.string) {
                self.solution.extend_from_slice(&key);
                if self.solution.len() == KEYS * key.len() {
                    return Some(std::mem::take(&mut self.solution));
                }
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use hex_literal::hex;

    use super::*;
    use crate::proposal::{Proposal, offer};
    use crate::wire::ProposalSpi;

    /// Of RFC 8019 s4.4.
    const COOKIE: [u8; 20] = hex!("739ae7492d8a810cf5e8dc0f9626c9dda773c5a3");

    fn puzzle(difficulty: u8) -> Puzzle {
        Puzzle { prf: Prf::HmacSha256, difficulty }
    }

    #[test]
    fn zero_bits_are_counted_from_the_end() {
        assert_eq!(zero_bits(&[0xff, 0x01]), 0);
        assert_eq!(zero_bits(&[0xff, 0x10]), 4);
        assert_eq!(zero_bits(&[0x0c, 0, 0]), 18);
        assert_eq!(zero_bits(&[0x01, 0]), 8);
        assert_eq!(zero_bits(&[0, 0]), 16);
        assert_eq!(zero_bits(&[]), 0);
    }

    /// Found by another implementation of HMAC. (Those of RFC 8019 s4.4 for this cookie do not come out by its own
    /// definition, prf(K, cookie), nor by any other that is like it.)
    #[test]
    fn solutions_of_somebody_else() {
        let keys = [hex!("00075d0b"), hex!("0007d93b"), hex!("0009a551"), hex!("000d37cf")];
        let bits = keys.map(|key| zero_bits(Prf::HmacSha256.compute(&key, &[&COOKIE]).unwrap().expose()));
        assert_eq!(bits, [19, 18, 23, 19]);
        assert!(puzzle(18).is_solved(&keys.concat(), &COOKIE));
        assert!(!puzzle(19).is_solved(&keys.concat(), &COOKIE));
        let sha384 = Puzzle { prf: Prf::HmacSha384, difficulty: 12 };
        let found = Solver::new(sha384, COOKIE.to_vec()).work(&mut 24_153);
        assert_eq!(found.unwrap(), hex!("00002b81 0000344a 00004c68 00005e58"));
    }

    #[test]
    fn what_is_no_solution() {
        let good = hex!("00075d0b 0007d93b 0009a551 000d37cf");
        assert!(puzzle(18).is_solved(&good, &COOKIE));
        let repeated = hex!("00075d0b 0007d93b 0009a551 00075d0b");
        let wrong = hex!("00075d0b 0007d93b 0009a551 000d37ce");
        assert!(!puzzle(18).is_solved(&repeated, &COOKIE));
        assert!(!puzzle(18).is_solved(&wrong, &COOKIE));
        assert!(!puzzle(18).is_solved(&good, b"another cookie"));
        for length in 0..good.len() {
            assert!(!puzzle(18).is_solved(&good[..length], &COOKIE), "{length} octets");
        }
        // Keys that are longer than the PRF prefers, with no difficulty at all.
        let long: Vec<u8> = (0..4 * 33).collect();
        assert!(!puzzle(0).is_solved(&long, &COOKIE));
        assert!(puzzle(0).is_solved(&long[..4 * 32], &COOKIE));
    }

    #[test]
    fn what_the_solver_finds_in_slices_is_a_solution() {
        for prf in PREFERENCE {
            let puzzle = Puzzle { prf, difficulty: 7 };
            let mut solver = Solver::new(puzzle, COOKIE.to_vec());
            let mut slices = 0;
            let solution = loop {
                slices += 1;
                let mut tries = 10;
                if let Some(solution) = solver.work(&mut tries) {
                    break solution;
                }
                assert_eq!(tries, 0);
            };
            assert!(slices > 1);
            assert!(puzzle.is_solved(&solution, &COOKIE), "{prf:?}");
            let size = if prf == Prf::Aes128Cmac { 64 } else { 16 };
            assert_eq!(solution.len(), size);
        }
    }

    #[test]
    fn the_prf_is_one_that_was_offered() {
        let of = |text: &str| {
            let offered = offer(&[Proposal::ike(text).unwrap()], ProposalSpi::None);
            Puzzle::of_offer(&offered, 9).map(|puzzle| (puzzle.prf, puzzle.difficulty))
        };
        assert_eq!(of("aes128gcm16-prfsha256-prfsha384-x25519"), Some((Prf::HmacSha384, 9)));
        assert_eq!(of("aes128gcm16-prfaescmac-x25519"), Some((Prf::Aes128Cmac, 9)));
        let mut unknown = offer(&[Proposal::ike("aes128gcm16-prfsha256-x25519").unwrap()], ProposalSpi::None);
        unknown[0].transforms.retain(|one| one.kind != TransformType::PRF);
        assert_eq!(Puzzle::of_offer(&unknown, 9), None);
    }

    #[test]
    fn a_notify_is_three_octets() {
        let notify = puzzle(18).to_notify();
        assert_eq!((notify.kind, notify.data.as_ref()), (NotifyType::PUZZLE, &[0, 5, 18][..]));
        assert_eq!(Puzzle::from_notify(&notify), Some(puzzle(18)));
        for data in [&[][..], &[0, 5], &[0, 5, 18, 0], &[0, 99, 18]] {
            assert_eq!(Puzzle::from_notify(&Notify::new(NotifyType::PUZZLE, data)), None);
        }
    }
}
