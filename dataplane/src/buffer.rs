//! Packet buffers: fixed frames in one region a worker, handed out and taken back without allocation.
//!
//! A [`Pool`] belongs to one worker thread and is neither `Send` nor `Sync`. Its region is never unmapped:
//! the kernel (AF_XDP) or a NIC may write into it for as long as the process lives, so a pool is a part of
//! the process, not of a scope. A [`Packet`] owns one frame and gives it back when dropped. A driver that
//! brings its own buffers (DPDK mbufs) lends them as packets through [`Lender`].
#![allow(unsafe_code)]

use std::cell::UnsafeCell;
use std::io;
use std::ptr::NonNull;

/// What a packet may grow by in front: an outer IPv6 header, AH with an ICV of 32 bytes, which is longer than UDP and ESP, and
/// an Ethernet header with two VLAN tags.
pub const GROWTH: usize = 40 + 48 + 22;

/// Bytes kept free in front of a received packet in frames that it is copied into. With them its IP header, behind an
/// untagged Ethernet header, stands at a multiple of 16: the first block of plaintext, so that fewer vectors of the
/// ciphers cross a cache line. (The kernel and NICs have headrooms of their own, of AF_XDP and DPDK.)
pub const HEADROOM: usize = 130;

const _: () = assert!(HEADROOM >= GROWTH && (HEADROOM + 14).is_multiple_of(16));

/// The most packets that a worker handles in one go.
pub const BURST: usize = 64;

/// Packets on their way through one worker, at most [`BURST`].
pub type Burst = arrayvec::ArrayVec<Packet, BURST>;

/// The frames of one worker.
#[derive(Clone, Copy)]
pub struct Pool {
    owner: &'static Owner,
}

/// Where a frame goes when its packet is dropped.
struct Owner {
    kind: Kind,
}

enum Kind {
    Frames(Frames),
    Lent(Box<dyn Lender>),
}

struct Frames {
    base: NonNull<u8>,
    frame_size: usize,
    count: usize,
    /// Indices of free frames, used as a stack so that warm frames are reused first.
    free: UnsafeCell<Vec<u32>>,
}

/// A driver that owns buffers outside of any [`Pool`].
pub trait Lender {
    /// Takes back the buffer that was lent with this token.
    fn release(&self, token: usize);
}

impl Pool {
    /// Maps `frames` frames of `frame_size` bytes (a multiple of 64), in huge pages where there are any.
    ///
    /// # Errors
    /// The error of `mmap`, or `InvalidInput` for a size of zero or one that is not a multiple of 64.
    pub fn new(frames: usize, frame_size: usize) -> io::Result<Self> {
        if frames == 0
            || frame_size < 2 * HEADROOM
            || !frame_size.is_multiple_of(64)
            || u32::try_from(frames).is_err()
        {
            return Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                format!("a pool of {frames} frames of {frame_size} bytes: the size must be a multiple of 64"),
            ));
        }
        let bytes = (frames * frame_size).next_multiple_of(HUGE_PAGE);
        let base = map_region(bytes)?;
        // Highest index first in the stack, so that frames are handed out from the start of the region.
        let free = (0..frames as u32).rev().collect();
        let frames = Frames { base, frame_size, count: frames, free: UnsafeCell::new(free) };
        Ok(Self { owner: Box::leak(Box::new(Owner { kind: Kind::Frames(frames) })) })
    }

    /// An empty packet with [`HEADROOM`] bytes in front, or `None` when every frame is in use.
    pub fn alloc(&self) -> Option<Packet> {
        let frames = self.frames();
        // SAFETY: the pool is not Sync and no reference into the cell outlives a call, so this is the only one.
        let index = unsafe { (*frames.free.get()).pop() }?;
        Some(Packet {
            // SAFETY: indices in the free list are below `count`, so the frame lies within the region.
            buf: unsafe { frames.base.add(index as usize * frames.frame_size) },
            token: index as usize,
            owner: self.owner,
            capacity: frames.frame_size as u32,
            rx_port: 0,
            inside: 0,
            window: Window::new(HEADROOM as u32, 0),
        })
    }

    /// An empty packet filled with `bytes`, or `None` when every frame is in use or `bytes` does not fit.
    pub fn alloc_from(&self, bytes: &[u8]) -> Option<Packet> {
        let mut packet = self.alloc()?;
        packet.append(bytes.len())?.copy_from_slice(bytes);
        Some(packet)
    }

    /// Frames that are free now.
    pub fn available(&self) -> usize {
        // SAFETY: as in `alloc`.
        unsafe { (*self.frames().free.get()).len() }
    }

    /// Frames in all.
    pub fn capacity(&self) -> usize {
        self.frames().count
    }

    /// Bytes in a frame, headroom included.
    pub fn frame_size(&self) -> usize {
        self.frames().frame_size
    }

    /// Start and length in bytes of the region, for a driver that registers it with the kernel or a NIC.
    pub fn region(&self) -> (NonNull<u8>, usize) {
        let frames = self.frames();
        (frames.base, frames.count * frames.frame_size)
    }

    /// Turns a packet of this pool into the offset of its data within the region, and its length. The frame
    /// stays taken until [`Pool::adopt`] makes it a packet again. A packet of another owner comes back.
    ///
    /// # Errors
    /// The packet itself when its frame is not of this pool.
    pub fn surrender(&self, packet: Packet) -> Result<(usize, usize), Packet> {
        if !std::ptr::eq(packet.owner, self.owner) {
            return Err(packet);
        }
        let packet = std::mem::ManuallyDrop::new(packet);
        let frames = self.frames();
        Ok((packet.token * frames.frame_size + packet.headroom(), packet.len()))
    }

    /// Makes a packet of a surrendered frame again, with the `len` bytes at `offset` of the region as data.
    ///
    /// Returns `None`, and leaves the frame taken, when the bytes do not lie within one frame.
    ///
    /// # Safety
    /// The frame that `offset` lies in was surrendered, has not been adopted since, and neither the kernel
    /// nor a device writes to it any more.
    pub unsafe fn adopt(&self, offset: usize, len: usize) -> Option<Packet> {
        let frames = self.frames();
        let index = offset / frames.frame_size;
        let start = offset % frames.frame_size;
        if index >= frames.count || start + len > frames.frame_size {
            return None;
        }
        Some(Packet {
            // SAFETY: `index` is below `count`, so the frame lies within the region.
            buf: unsafe { frames.base.add(index * frames.frame_size) },
            token: index,
            owner: self.owner,
            capacity: frames.frame_size as u32,
            rx_port: 0,
            inside: 0,
            window: Window::new(start as u32, len as u32),
        })
    }

    fn frames(&self) -> &Frames {
        match &self.owner.kind {
            Kind::Frames(frames) => frames,
            Kind::Lent(_) => unreachable!("a Pool is only ever made around frames"),
        }
    }
}

/// The owner of a driver's own buffers; makes packets of them. It lives as long as the process.
#[derive(Clone, Copy)]
pub struct Lending {
    owner: &'static Owner,
}

impl Lending {
    /// Registers a driver that lends buffers.
    pub fn new(lender: Box<dyn Lender>) -> Self {
        Self { owner: Box::leak(Box::new(Owner { kind: Kind::Lent(lender) })) }
    }

    /// Makes a packet of a lent buffer of `capacity` bytes whose data are the `len` bytes from `start`.
    ///
    /// # Safety
    /// `buf` is valid for reads and writes of `capacity` bytes, `start + len <= capacity`, and nothing else
    /// uses the buffer until it is released with `token`.
    pub unsafe fn lend(
        &self,
        buf: NonNull<u8>,
        token: usize,
        capacity: usize,
        start: usize,
        len: usize,
    ) -> Packet {
        Packet {
            buf,
            token,
            owner: self.owner,
            capacity: capacity as u32,
            rx_port: 0,
            inside: 0,
            window: Window::new(start as u32, len as u32),
        }
    }

    /// Takes a packet back from the data plane: its token, start and length. Another owner's packet comes back.
    ///
    /// # Errors
    /// The packet itself when it was not lent by this driver.
    pub fn reclaim(&self, packet: Packet) -> Result<(usize, usize, usize), Packet> {
        if !std::ptr::eq(packet.owner, self.owner) {
            return Err(packet);
        }
        let packet = std::mem::ManuallyDrop::new(packet);
        Ok((packet.token, packet.headroom(), packet.len()))
    }
}

/// One packet in one frame: headroom, data, tailroom. Dropping it gives the frame back.
///
/// It moves between queues often. A move copies it in pieces of 16 bytes and one of 8, and a piece that was written in
/// smaller ones just before has to wait for the cache, some 20 cycles. So what changes most stands alone in the last
/// piece. The packet path moves first and changes in place.
#[repr(C)]
pub struct Packet {
    buf: NonNull<u8>,
    token: usize,
    owner: &'static Owner,
    capacity: u32,
    /// Index of the port that it came in by.
    pub rx_port: u16,
    /// Not 0 if it came out of an SA. A bool has values to spare, with which the compiler would mark an absent packet: in
    /// the middle of a piece, so that moves of `Option<Packet>` fell to smaller ones.
    inside: u16,
    window: Window,
}

/// Where the data are in the frame: start and length, written as one.
#[derive(Clone, Copy)]
struct Window(u64);

impl Window {
    #[inline]
    const fn new(start: u32, len: u32) -> Self {
        Self(start as u64 | (len as u64) << 32)
    }

    #[inline]
    const fn start(self) -> u32 {
        self.0 as u32
    }

    #[inline]
    const fn len(self) -> u32 {
        (self.0 >> 32) as u32
    }
}

impl Packet {
    /// Whether it came out of an SA, so that what the gateway says about it must not leave in the clear.
    #[inline]
    pub fn is_from_sa(&self) -> bool {
        self.inside != 0
    }

    /// See [`Packet::is_from_sa`].
    #[inline]
    pub fn set_from_sa(&mut self, from_sa: bool) {
        self.inside = from_sa.into();
    }

    /// Bytes of data.
    #[inline]
    pub fn len(&self) -> usize {
        self.window.len() as usize
    }

    /// Whether there is no data.
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Free bytes in front of the data.
    #[inline]
    pub fn headroom(&self) -> usize {
        self.window.start() as usize
    }

    /// Free bytes behind the data.
    #[inline]
    pub fn tailroom(&self) -> usize {
        self.capacity as usize - self.headroom() - self.len()
    }

    /// The data.
    #[inline]
    pub fn data(&self) -> &[u8] {
        // SAFETY: start + len <= capacity always holds, the frame is valid for capacity bytes and is ours alone.
        unsafe { std::slice::from_raw_parts(self.buf.as_ptr().add(self.headroom()), self.len()) }
    }

    /// Asks for the cache line that the data begin in.
    #[inline]
    pub fn prefetch(&self) {
        prefetch(self.data().as_ptr(), 1);
    }

    /// The data, to change in place.
    #[inline]
    pub fn data_mut(&mut self) -> &mut [u8] {
        // SAFETY: as in `data`; `&mut self` makes this the only reference.
        unsafe { std::slice::from_raw_parts_mut(self.buf.as_ptr().add(self.headroom()), self.len()) }
    }

    /// Grows the data by `n` bytes at the front and returns them, or `None` when the headroom is too small.
    /// The bytes hold whatever the frame held.
    #[inline]
    pub fn prepend(&mut self, n: usize) -> Option<&mut [u8]> {
        if n > self.headroom() {
            return None;
        }
        self.window = Window::new(self.window.start() - n as u32, self.window.len() + n as u32);
        self.data_mut().get_mut(..n)
    }

    /// Grows the data by `n` bytes at the end and returns them, or `None` when the tailroom is too small.
    /// The bytes hold whatever the frame held.
    #[inline]
    pub fn append(&mut self, n: usize) -> Option<&mut [u8]> {
        if n > self.tailroom() {
            return None;
        }
        let old = self.len();
        self.window = Window::new(self.window.start(), self.window.len() + n as u32);
        self.data_mut().get_mut(old..)
    }

    /// Grows the data by `front` bytes at the front and `back` bytes at the end and returns all of it, or `None` when there is
    /// not as much room. The new bytes hold whatever the frame held.
    #[inline]
    pub fn extend(&mut self, front: usize, back: usize) -> Option<&mut [u8]> {
        if front > self.headroom() || back > self.tailroom() {
            return None;
        }
        self.window =
            Window::new(self.window.start() - front as u32, self.window.len() + (front + back) as u32);
        Some(self.data_mut())
    }

    /// Drops the first `n` bytes of the data (all of it when there are fewer).
    #[inline]
    pub fn trim_front(&mut self, n: usize) {
        let n = n.min(self.len()) as u32;
        self.window = Window::new(self.window.start() + n, self.window.len() - n);
    }

    /// Keeps only the `n` bytes of the data behind the first `front`, or fewer when there are not as many.
    #[inline]
    pub fn narrow(&mut self, front: usize, n: usize) {
        let front = front.min(self.len());
        let n = n.min(self.len() - front);
        self.window = Window::new(self.window.start() + front as u32, n as u32);
    }

    /// Keeps only the first `n` bytes of the data.
    #[inline]
    pub fn truncate(&mut self, n: usize) {
        // Seldom something to do, and then nothing is written.
        if n < self.len() {
            self.window = Window::new(self.window.start(), n as u32);
        }
    }
}

/// Asks the CPU to bring `bytes` bytes from `address` on into its caches. Any address will do: nothing is read that could
/// be seen, and what is not mapped is ignored.
#[inline]
pub fn prefetch<T>(address: *const T, bytes: usize) {
    for line in 0..bytes.div_ceil(LINE) {
        #[cfg(target_arch = "x86_64")]
        // SAFETY: a hint without effect on memory or registers, whatever the address (AMD64 manual volume 3, PREFETCH).
        unsafe {
            use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
            _mm_prefetch::<_MM_HINT_T0>(address.cast::<i8>().wrapping_add(line * LINE));
        }
        #[cfg(not(target_arch = "x86_64"))]
        let _ = (address, line);
    }
}

/// Bytes of a cache line.
pub const LINE: usize = 64;

impl Drop for Packet {
    #[inline]
    fn drop(&mut self) {
        match &self.owner.kind {
            // SAFETY: a Packet is !Send, as its pool is, so this is the pool's own thread; no other reference
            // into the cell is live (see `Pool::alloc`). The vector was made with room for every frame.
            Kind::Frames(frames) => unsafe { (*frames.free.get()).push(self.token as u32) },
            Kind::Lent(lender) => lender.release(self.token),
        }
    }
}

impl std::fmt::Debug for Packet {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Packet")
            .field("rx_port", &self.rx_port)
            .field("len", &self.len())
            .finish_non_exhaustive()
    }
}

const HUGE_PAGE: usize = 2 << 20;

fn map_region(bytes: usize) -> io::Result<NonNull<u8>> {
    let map = |flags: libc::c_int| {
        // SAFETY: an anonymous mapping at an address of the kernel's choice touches no memory of ours.
        unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                bytes,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | flags,
                -1,
                0,
            )
        }
    };
    let mut region = map(libc::MAP_HUGETLB | libc::MAP_POPULATE);
    if region == libc::MAP_FAILED {
        region = map(0);
        if region == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: the range is the mapping just made. A refusal only costs speed.
        unsafe { libc::madvise(region, bytes, libc::MADV_HUGEPAGE) };
    }
    NonNull::new(region.cast()).ok_or_else(|| io::Error::other("mmap returned address zero"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_come_back_when_dropped() {
        let pool = Pool::new(2, 2048).unwrap();
        let first = pool.alloc().unwrap();
        let second = pool.alloc().unwrap();
        assert!(pool.alloc().is_none());
        drop(first);
        drop(second);
        assert_eq!(pool.available(), 2);
    }

    #[test]
    fn data_grows_and_shrinks_at_both_ends_and_never_past_the_frame() {
        let pool = Pool::new(1, 2048).unwrap();
        let mut packet = pool.alloc_from(b"abcdef").unwrap();
        packet.prepend(2).unwrap().copy_from_slice(b"xy");
        packet.append(1).unwrap().copy_from_slice(b"z");
        assert_eq!(packet.data(), b"xyabcdefz");
        packet.trim_front(3);
        packet.truncate(4);
        assert_eq!(packet.data(), b"bcde");
        assert!(packet.prepend(HEADROOM + 2).is_none());
        assert!(packet.append(2048).is_none());
        assert_eq!(packet.data(), b"bcde");
        assert!(packet.extend(HEADROOM + 2, 0).is_none() && packet.extend(0, 2048).is_none());
        assert_eq!(packet.extend(1, 2).unwrap().len(), 7);
        assert_eq!(packet.data()[1..5], *b"bcde");
        packet.narrow(1, 4);
        packet.narrow(1, 2);
        assert_eq!(packet.data(), b"cd");
        packet.narrow(1, 9);
        assert_eq!(packet.data(), b"d");
        packet.narrow(9, 9);
        assert!(packet.is_empty());
        let mut packet = pool.alloc_from(b"abcdef").unwrap_or(packet);
        packet.trim_front(99);
        assert!(packet.is_empty());
    }

    #[test]
    fn a_surrendered_frame_is_taken_until_it_is_adopted() {
        let pool = Pool::new(1, 2048).unwrap();
        let (offset, len) = pool.surrender(pool.alloc_from(b"hello").unwrap()).unwrap();
        assert_eq!(pool.available(), 0);
        // SAFETY: just surrendered, and nobody writes to it.
        let packet = unsafe { pool.adopt(offset, len) }.unwrap();
        assert_eq!(packet.data(), b"hello");
        drop(packet);
        assert_eq!(pool.available(), 1);
    }

    #[test]
    fn a_frame_of_another_pool_is_not_surrendered() {
        let (ours, theirs) = (Pool::new(1, 2048).unwrap(), Pool::new(1, 2048).unwrap());
        let packet = ours.surrender(theirs.alloc().unwrap()).unwrap_err();
        drop(packet);
        assert_eq!(theirs.available(), 1);
    }

    #[test]
    fn any_address_can_be_prefetched() {
        let value = [7u8; 200];
        prefetch(&value, size_of_val(&value));
        prefetch(std::ptr::null::<u8>(), 4096);
        prefetch(usize::MAX as *const u8, 4096);
        assert_eq!(value, [7; 200]);
    }

    #[test]
    fn what_changes_most_is_the_last_piece_of_a_move() {
        assert_eq!((size_of::<Packet>(), std::mem::offset_of!(Packet, window)), (40, 32));
        assert_eq!(size_of::<Option<Packet>>(), 40);
    }

    #[test]
    fn lent_buffers_are_released_to_their_driver() {
        use std::{cell::RefCell, rc::Rc};
        struct Log(Rc<RefCell<Vec<usize>>>);
        impl Lender for Log {
            fn release(&self, token: usize) {
                self.0.borrow_mut().push(token);
            }
        }
        let log = Rc::new(RefCell::new(Vec::new()));
        let lending = Lending::new(Box::new(Log(Rc::clone(&log))));
        let memory: &'static mut [u8] = Box::leak(vec![7u8; 512].into_boxed_slice());
        // SAFETY: the memory is leaked, 512 bytes long, and lent once.
        let packet = unsafe { lending.lend(NonNull::from(memory).cast(), 42, 512, 100, 10) };
        assert_eq!(packet.data(), &[7u8; 10]);
        drop(packet);
        assert_eq!(*log.borrow(), [42]);
    }
}
