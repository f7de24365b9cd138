//! The peer: Intel's ipsec-mb library as Debian packages it, loaded at run time. Its AES-GCM is called as ipsec-secgw and
//! VPP's plug-in call it, one packet a call, with a key block that was made before.
//!
//! No part of Spillway uses it.
#![allow(unsafe_code)]

use std::ffi::c_void;
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use aws_lc_rs::aead::{AES_128_GCM, AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use dataplane::buffer::BURST;
use dataplane::crypto::Suite;
use libloading::Library;

use crate::engine_case::{Work, frame};
use crate::measure::{Case, Round};
use crate::traffic::{Order, SMALLEST, Size, Stream};

/// Its name in reports.
pub const NAME: &str = "ipsec-mb";

/// Debian's libipsec-mb1.
const LIBRARY: &str = "libIPSec_MB.so.1";
const TAG: usize = 16;

/// `struct gcm_key_data`: 240 bytes of round keys and at most 48 powers of H.
#[repr(C, align(64))]
struct KeyBlock([u8; 1024]);

/// `struct gcm_context_data`: what a call keeps, 96 bytes in version 1.3.
#[repr(C, align(64))]
struct Scratch([u8; 256]);

/// `aes_gcm_pre_*`: raw key to key block.
type Prepare = unsafe extern "C" fn(*const c_void, *mut KeyBlock);
/// `aes_gcm_enc_*`: key, context, out, in, length, IV, AAD and its length, tag and its length.
type Seal = unsafe extern "C" fn(
    *const KeyBlock,
    *mut Scratch,
    *mut u8,
    *const u8,
    u64,
    *const u8,
    *const u8,
    u64,
    *mut u8,
    u64,
);

/// AES-GCM of one key length.
pub struct IpsecMb {
    prepare: Prepare,
    seal: Seal,
    key_len: usize,
    /// The functions are in it.
    _library: Library,
}

impl IpsecMb {
    /// Loads the library; `None` for a suite that is not AES-128-GCM or AES-256-GCM with a whole ICV.
    ///
    /// # Errors
    /// When the library is not there, lacks a function, or encrypts other than aws-lc-rs does.
    pub fn load(suite: Suite) -> anyhow::Result<Option<Self>> {
        let key_len = match suite.to_string().as_str() {
            "aes128gcm16" => 16,
            "aes256gcm16" => 32,
            _ => return Ok(None),
        };
        let Some(tier) = tier() else { bail!("{NAME} has no AES-GCM for this CPU") };
        // SAFETY: the library's initialisers set up its own tables alone.
        let library = unsafe { Library::new(LIBRARY) }
            .with_context(|| format!("cannot load {LIBRARY}; on Debian: apt-get install libipsec-mb1"))?;
        let bits = 8 * key_len;
        let symbol = |what: &str| format!("aes_gcm_{what}_{bits}_{tier}");
        // SAFETY: these are the functions' types in intel-ipsec-mb.h of version 1.
        let (prepare, seal) = unsafe {
            let prepare = *library.get::<Prepare>(symbol("pre").as_bytes())?;
            (prepare, *library.get::<Seal>(symbol("enc").as_bytes())?)
        };
        let this = Self { prepare, seal, key_len, _library: library };
        this.prove()?;
        Ok(Some(this))
    }

    fn key(&self, number: usize) -> Box<KeyBlock> {
        let mut block = Box::new(KeyBlock([0; 1024]));
        let raw = raw_key(self.key_len, number);
        // SAFETY: `raw` has the key's length, and the block is at least as long as `struct gcm_key_data`.
        unsafe { (self.prepare)(raw.as_ptr().cast(), &mut *block) };
        block
    }

    #[inline]
    fn seal(&self, key: &KeyBlock, nonce: &[u8; 12], aad: &[u8; 12], payload: &mut [u8]) -> [u8; TAG] {
        let mut scratch = Scratch([0; 256]);
        let mut tag = [0; TAG];
        let data = payload.as_mut_ptr();
        // SAFETY: `data` is valid for its length, and it may be both in and out; the rest has the lengths that are said.
        unsafe {
            (self.seal)(
                key,
                &mut scratch,
                data,
                data,
                payload.len() as u64,
                nonce.as_ptr(),
                aad.as_ptr(),
                aad.len() as u64,
                tag.as_mut_ptr(),
                TAG as u64,
            );
        }
        tag
    }

    /// What is measured must be the same work.
    fn prove(&self) -> anyhow::Result<()> {
        let algorithm = if self.key_len == 16 { &AES_128_GCM } else { &AES_256_GCM };
        let judge = UnboundKey::new(algorithm, &raw_key(self.key_len, 5))
            .map(LessSafeKey::new)
            .ok()
            .context("aws-lc-rs refused a key")?;
        for len in [1, 68, 300, 1424] {
            let (mut mine, mut theirs) = (vec![9; len], vec![9; len]);
            let tag = self.seal(&self.key(5), &[3; 12], &[4; 12], &mut mine);
            let expected = judge
                .seal_in_place_separate_tag(
                    Nonce::assume_unique_for_key([3; 12]),
                    Aad::from([4; 12]),
                    &mut theirs,
                )
                .ok()
                .context("aws-lc-rs refused a packet")?;
            ensure!(mine == theirs && tag == expected.as_ref(), "{NAME} and aws-lc-rs differ at {len} bytes");
        }
        Ok(())
    }
}

/// The bare call, one a packet, as [`crate::engine_case::bare`] does it with aws-lc-rs. It uses its keys in the order in which the
/// path that it is compared with uses its SAs, and warms up as long. `None` for other suites.
///
/// # Errors
/// Those of [`IpsecMb::load`].
pub fn bare<'a>(work: &Work, order: Order) -> anyhow::Result<Option<Case<'a>>> {
    let Some(peer) = IpsecMb::load(work.suite)? else { return Ok(None) };
    let keys: Vec<_> = (0..work.keys).map(|number| peer.key(number)).collect();
    let mut packets: Vec<Vec<u8>> = work.bodies.iter().cycle().take(BURST).map(|body| frame(*body)).collect();
    let bursts = work.bursts;
    // Of a stream of packets only the tunnels count here.
    let mut stream = Stream::new(Size::Fixed(SMALLEST), work.keys, order);
    let warm = stream.lap().div_ceil(BURST);
    let mut seq = 0_u64;
    let run = move || {
        let mut time = Duration::ZERO;
        for burst in 0..warm + bursts {
            let picks = stream.by_ref().take(BURST);
            let chosen: Vec<&KeyBlock> =
                picks.filter_map(|pick| keys.get(pick.tunnel)).map(|key| &**key).collect();
            let start = Instant::now();
            for (packet, key) in packets.iter_mut().zip(&chosen) {
                seq += 1;
                let mut nonce = [1; 12];
                nonce[4..].copy_from_slice(&seq.to_be_bytes());
                std::hint::black_box(peer.seal(key, &nonce, &[2; 12], packet));
            }
            time += if burst < warm { Duration::ZERO } else { start.elapsed() };
        }
        Ok(Round { time, packets: (bursts * BURST) as u64 })
    };
    Ok(Some(Case { run: Box::new(run) }))
}

/// The suffix of the fastest functions that the CPU runs, as the library itself would choose.
fn tier() -> Option<&'static str> {
    macro_rules! has {
        ($($feature:tt),+) => { $(std::arch::is_x86_feature_detected!($feature))&&+ };
    }
    #[cfg(target_arch = "x86_64")]
    return if !has!("aes", "pclmulqdq", "sse4.2") {
        None
    } else if has!("avx512f", "avx512bw", "avx512vl", "avx512dq", "vaes", "vpclmulqdq") {
        Some("vaes_avx512")
    } else if has!("avx512f", "avx512bw", "avx512vl", "avx512dq") {
        Some("avx512")
    } else if has!("avx2") {
        Some("avx_gen4")
    } else if has!("avx") {
        Some("avx_gen2")
    } else {
        Some("sse")
    };
    #[cfg(not(target_arch = "x86_64"))]
    None
}

fn raw_key(len: usize, number: usize) -> Vec<u8> {
    let mut bytes = vec![7; len];
    bytes.iter_mut().zip((number as u64).to_be_bytes()).for_each(|(to, from)| *to ^= from);
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_peer_encrypts_as_we_do() {
        let suites = ["aes128gcm16", "aes256gcm16"].map(|suite| suite.parse::<Suite>().unwrap());
        match IpsecMb::load(suites[0]) {
            Err(error) if std::env::var_os("CI").is_none() => {
                return eprintln!("SKIPPED: the peer of the bench: {error:#}");
            }
            loaded => assert!(loaded.unwrap().is_some()),
        }
        for suite in suites {
            let work = Work { suite, bodies: vec![68, 1424], keys: 3, bursts: 2 };
            for order in [Order::Random, Order::RoundRobin] {
                assert_eq!((bare(&work, order).unwrap().unwrap().run)().unwrap().packets, 128);
            }
        }
        assert!(IpsecMb::load("chacha20poly1305".parse().unwrap()).unwrap().is_none());
    }
}
