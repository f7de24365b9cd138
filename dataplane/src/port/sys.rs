//! Thin, typed wrappers of the socket calls that the drivers share.

use std::ffi::c_int;
use std::io;
use std::mem::{MaybeUninit, size_of};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::ptr::NonNull;
use std::time::Duration;

/// A value that the kernel may fill with any bytes.
///
/// # Safety
/// Every bit pattern is a valid value: integers, and structs of integers alone.
pub(super) unsafe trait Plain: Copy {
    /// The value whose bytes are all zero.
    fn zeroed() -> Self {
        // SAFETY: the trait promises that all-zero bytes are a valid value.
        unsafe { MaybeUninit::zeroed().assume_init() }
    }
}

// SAFETY: an integer.
unsafe impl Plain for c_int {}
// SAFETY: an integer.
unsafe impl Plain for u32 {}
// SAFETY: a struct of integers.
unsafe impl Plain for libc::tpacket_stats {}

/// Opens a socket that is closed on exec.
pub(super) fn socket(domain: c_int, kind: c_int, protocol: c_int) -> io::Result<OwnedFd> {
    // SAFETY: `socket` takes no pointers.
    let fd = unsafe { libc::socket(domain, kind | libc::SOCK_CLOEXEC, protocol) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: a descriptor just returned by the kernel, which nobody else owns.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// `setsockopt` with a value of any plain type.
pub(super) fn set_option<T: Copy>(fd: &impl AsRawFd, level: c_int, name: c_int, value: &T) -> io::Result<()> {
    // SAFETY: the pointer and length describe `value`, which the kernel only reads.
    let result = unsafe {
        libc::setsockopt(
            fd.as_raw_fd(),
            level,
            name,
            std::ptr::from_ref(value).cast(),
            size_of::<T>() as libc::socklen_t,
        )
    };
    check(result)
}

/// `getsockopt` of a plain value.
pub(super) fn get_option<T: Plain>(fd: &impl AsRawFd, level: c_int, name: c_int) -> io::Result<T> {
    let mut value = T::zeroed();
    let mut len = size_of::<T>() as libc::socklen_t;
    // SAFETY: the pointer and length describe `value`, and any bytes are a valid `T`.
    let result = unsafe {
        libc::getsockopt(fd.as_raw_fd(), level, name, std::ptr::from_mut(&mut value).cast(), &mut len)
    };
    check(result).map(|()| value)
}

/// Binds to an address given as the C struct of its family.
pub(super) fn bind<A: Copy>(fd: &impl AsRawFd, address: &A) -> io::Result<()> {
    // SAFETY: the pointer and length describe `address`, which the kernel only reads.
    let result = unsafe {
        libc::bind(fd.as_raw_fd(), std::ptr::from_ref(address).cast(), size_of::<A>() as libc::socklen_t)
    };
    check(result)
}

/// Turns the -1 of a C call into the error in `errno`.
pub(super) fn check(result: c_int) -> io::Result<()> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Tries again for up to a second while something is busy: the kernel releases what a process held a moment
/// after it has closed it. For start-up only.
pub(super) fn until_released<T>(mut attempt: impl FnMut() -> io::Result<T>) -> io::Result<T> {
    for _ in 0..20 {
        match attempt() {
            Err(error) if error.raw_os_error() == Some(libc::EBUSY) => {
                std::thread::sleep(Duration::from_millis(50));
            }
            result => return result,
        }
    }
    attempt()
}

/// An error of the same kind as `source`, with a sentence for the operator in front.
pub(super) fn context(source: &io::Error, text: impl std::fmt::Display) -> io::Error {
    io::Error::new(source.kind(), format!("{text}: {source}"))
}

/// Memory that is mapped, and unmapped on drop.
pub(super) struct Mapping {
    base: NonNull<u8>,
    len: usize,
}

// SAFETY: the mapping is owned; it has no tie to the thread that made it.
unsafe impl Send for Mapping {}

impl Mapping {
    /// Maps `len` bytes of a descriptor at `offset`, to read and write.
    pub(super) fn new(fd: &impl AsRawFd, len: usize, offset: libc::off_t) -> io::Result<Self> {
        Self::map(libc::MAP_SHARED, fd.as_raw_fd(), len, offset)
    }

    /// Maps `len` bytes of fresh memory.
    pub(super) fn anonymous(len: usize) -> io::Result<Self> {
        Self::map(libc::MAP_PRIVATE | libc::MAP_ANONYMOUS, -1, len, 0)
    }

    fn map(flags: c_int, fd: RawFd, len: usize, offset: libc::off_t) -> io::Result<Self> {
        let access = libc::PROT_READ | libc::PROT_WRITE;
        // SAFETY: a mapping at an address of the kernel's choice touches no memory of ours.
        let base =
            unsafe { libc::mmap(std::ptr::null_mut(), len, access, flags | libc::MAP_POPULATE, fd, offset) };
        if base == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let base = NonNull::new(base.cast()).ok_or_else(|| io::Error::other("mmap returned address zero"))?;
        Ok(Self { base, len })
    }

    /// Address of the first byte.
    pub(super) fn base(&self) -> NonNull<u8> {
        self.base
    }

    /// Bytes mapped.
    pub(super) fn len(&self) -> usize {
        self.len
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: exactly the range that `mmap` returned; nothing borrows from it, since `base` is only lent
        // through `&self`.
        unsafe { libc::munmap(self.base.as_ptr().cast(), self.len) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_are_set_and_read_back() {
        let fd = socket(libc::AF_INET, libc::SOCK_DGRAM, 0).unwrap();
        set_option(&fd, libc::SOL_SOCKET, libc::SO_BROADCAST, &1).unwrap();
        let value: c_int = get_option(&fd, libc::SOL_SOCKET, libc::SO_BROADCAST).unwrap();
        assert_eq!(value, 1);
    }

    #[test]
    fn what_is_busy_is_tried_again_and_other_errors_are_not() {
        let busy = || io::Error::from_raw_os_error(libc::EBUSY);
        let mut calls = 0;
        let result = until_released(|| {
            calls += 1;
            if calls < 3 { Err(busy()) } else { Ok(7) }
        });
        assert_eq!((result.unwrap(), calls), (7, 3));
        let mut calls = 0;
        let result: io::Result<()> = until_released(|| {
            calls += 1;
            Err(io::Error::from_raw_os_error(libc::EPERM))
        });
        assert_eq!((result.is_err(), calls), (true, 1));
    }

    #[test]
    fn a_refused_call_is_an_error() {
        let fd = socket(libc::AF_INET, libc::SOCK_DGRAM, 0).unwrap();
        assert!(set_option(&fd, 9999, 1, &1).is_err());
        assert!(get_option::<c_int>(&fd, 9999, 1).is_err());
        assert!(bind(&fd, &[0u8; 2]).is_err());
        assert!(Mapping::new(&fd, 4096, 0).is_err());
        assert!(socket(-1, 0, 0).is_err());
    }
}
