//! What a program can ask valgrind and its memcheck for (valgrind.h, memcheck.h). Elsewhere a request does nothing.

/// Requests by their numbers in the headers.
const RUNNING: usize = 0x1001;
const COUNT_ERRORS: usize = 0x1201;
const MEMCHECK: usize = 0x4d43_0000;
const MAKE_UNDEFINED: usize = MEMCHECK + 1;
const MAKE_DEFINED: usize = MEMCHECK + 2;
const GET_VALIDITY: usize = MEMCHECK + 8;

/// Whether the program runs under valgrind.
pub fn runs() -> bool {
    request([RUNNING, 0, 0, 0]) != 0
}

/// How many errors there were.
pub fn errors() -> usize {
    request([COUNT_ERRORS, 0, 0, 0])
}

/// From now on a branch or an address that depends on these bytes is an error.
pub fn secret(bytes: &mut [u8]) {
    request([MAKE_UNDEFINED, bytes.as_mut_ptr().expose_provenance(), bytes.len(), 0]);
}

/// From now on it is none.
pub fn public(bytes: &mut [u8]) {
    request([MAKE_DEFINED, bytes.as_mut_ptr().expose_provenance(), bytes.len(), 0]);
}

/// Whether every byte depends on a secret.
pub fn is_secret(bytes: &[u8]) -> bool {
    let mut undefined = vec![0u8; bytes.len()];
    let [from, to] = [bytes.as_ptr(), undefined.as_mut_ptr()].map(<*const u8>::expose_provenance);
    request([GET_VALIDITY, from, to, bytes.len()]);
    std::hint::black_box(&mut undefined).iter().all(|&bits| bits != 0)
}

/// An outcome that everybody may know.
#[inline(always)]
pub fn outcome(ok: bool) -> bool {
    let mut byte = [u8::from(ok)];
    public(&mut byte);
    std::hint::black_box(byte) != [0]
}

#[inline(always)]
fn request([number, a, b, c]: [usize; 4]) -> usize {
    let block = [number, a, b, c, 0, 0];
    let mut result = 0;
    // SAFETY: outside of valgrind these are rotations by 128 bits in all and an exchange of a register with itself, so nothing
    // happens. Valgrind reads the block, and of what the block names it writes what the caller has borrowed for that.
    unsafe {
        std::arch::asm!(
            "rol rdi, 3",
            "rol rdi, 13",
            "rol rdi, 61",
            "rol rdi, 51",
            "xchg rbx, rbx",
            in("rax") block.as_ptr(),
            inout("rdx") result,
        );
    }
    result
}
