//! The few commands of bpf(2) that attach an XDP program: make a map, fill it, load, link.
//!
//! No BPF object file is involved, so neither clang nor libbpf is needed to build or to run.

use std::ffi::c_long;
use std::io;
use std::mem::size_of;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

/// One eBPF instruction (RFC 9669 s3).
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Instruction {
    /// Class, operation and operand kind.
    pub(super) code: u8,
    /// Destination register in the low, source register in the high four bits of a little-endian machine.
    pub(super) registers: u8,
    /// Offset of a jump or of memory.
    pub(super) offset: i16,
    /// Immediate operand.
    pub(super) immediate: i32,
}

/// Kinds of map, by their number in `enum bpf_map_type`.
#[derive(Clone, Copy)]
#[repr(u32)]
pub(super) enum MapType {
    /// Longest-prefix match.
    LpmTrie = 11,
    /// AF_XDP sockets by receive queue.
    XskMap = 17,
}

/// Makes a map.
pub(super) fn create_map(kind: MapType, key: usize, value: usize, entries: usize) -> io::Result<OwnedFd> {
    let flags = match kind {
        // BPF_F_NO_PREALLOC, without which the kernel makes no trie.
        MapType::LpmTrie => 1,
        MapType::XskMap => 0,
    };
    let mut command = MapCreate {
        map_type: kind as u32,
        key_size: key as u32,
        value_size: value as u32,
        max_entries: entries as u32,
        map_flags: flags,
        inner_map_fd: 0,
        numa_node: 0,
        map_name: name(),
    };
    // SAFETY: the command holds no pointers.
    unsafe { bpf_fd(BPF_MAP_CREATE, &mut command) }
}

/// Sets an element. `key` and `value` have the sizes that the map was made with.
pub(super) fn set<K: Copy, V: Copy>(map: &OwnedFd, key: &K, value: &V) -> io::Result<()> {
    let mut command = MapElement {
        map_fd: map.as_raw_fd() as u32,
        _pad: 0,
        key: std::ptr::from_ref(key) as u64,
        value: std::ptr::from_ref(value) as u64,
        flags: 0,
    };
    // SAFETY: key and value outlive the call; the kernel reads the map's key and value sizes from them.
    unsafe { bpf(BPF_MAP_UPDATE_ELEM, &mut command) }.map(|_| ())
}

/// Loads an XDP program; one with `fragments` sees packets in several buffers too.
///
/// # Errors
/// The kernel's, with what the verifier says of the program when that is the reason.
pub(super) fn load_xdp(program: &[Instruction], fragments: bool) -> io::Result<OwnedFd> {
    let mut log = vec![0u8; 64 << 10];
    let mut load = |log_level: u32| {
        let mut command = ProgramLoad {
            prog_type: BPF_PROG_TYPE_XDP,
            insn_cnt: program.len() as u32,
            insns: program.as_ptr() as u64,
            license: LICENSE.as_ptr() as u64,
            log_level,
            log_size: if log_level > 0 { log.len() as u32 } else { 0 },
            log_buf: if log_level > 0 { log.as_mut_ptr() as u64 } else { 0 },
            kern_version: 0,
            prog_flags: if fragments { BPF_F_XDP_HAS_FRAGS } else { 0 },
            prog_name: name(),
            prog_ifindex: 0,
            expected_attach_type: BPF_XDP,
        };
        // SAFETY: program, licence and log outlive the call, with the lengths given.
        unsafe { bpf_fd(BPF_PROG_LOAD, &mut command) }
    };
    match load(0) {
        Err(error) if matches!(error.raw_os_error(), Some(libc::EACCES | libc::EINVAL)) => {
            load(1).map_err(|_| {
                let end = log.iter().position(|&byte| byte == 0).unwrap_or(log.len());
                let text = String::from_utf8_lossy(log.get(..end).unwrap_or_default()).into_owned();
                io::Error::new(error.kind(), format!("{error}; the verifier says: {}", text.trim()))
            })
        }
        result => result,
    }
}

/// Where the kernel runs an XDP program.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Hook {
    /// In the device's driver, before a socket buffer is made.
    Native,
    /// In the network stack; works with every device.
    Generic,
}

/// Attaches an XDP program to an interface for as long as the returned link is open: when the process ends,
/// however it ends, the program is gone.
pub(super) fn attach_xdp(program: &OwnedFd, interface: i32, hook: Hook) -> io::Result<OwnedFd> {
    let mut command = LinkCreate {
        prog_fd: program.as_raw_fd() as u32,
        target_ifindex: interface as u32,
        attach_type: BPF_XDP,
        flags: match hook {
            Hook::Generic => XDP_FLAGS_SKB_MODE,
            Hook::Native => XDP_FLAGS_DRV_MODE,
        },
    };
    // SAFETY: the command holds no pointers.
    unsafe { bpf_fd(BPF_LINK_CREATE, &mut command) }
}

/// Runs an XDP program once over a packet and returns its verdict.
#[cfg(test)]
pub(super) fn test_run(program: &OwnedFd, packet: &[u8]) -> io::Result<u32> {
    let mut command = TestRun {
        prog_fd: program.as_raw_fd() as u32,
        data_size_in: packet.len() as u32,
        data_in: packet.as_ptr() as u64,
        ..TestRun::default()
    };
    // SAFETY: the packet outlives the call, with the length given; no other pointer is set.
    unsafe { bpf(10, &mut command) }.map(|_| command.retval)
}

// linux/bpf.h and linux/if_link.h
const BPF_MAP_CREATE: c_long = 0;
const BPF_MAP_UPDATE_ELEM: c_long = 2;
const BPF_PROG_LOAD: c_long = 5;
const BPF_LINK_CREATE: c_long = 28;
const BPF_PROG_TYPE_XDP: u32 = 6;
const BPF_XDP: u32 = 37;
const BPF_F_XDP_HAS_FRAGS: u32 = 1 << 5;
const XDP_FLAGS_SKB_MODE: u32 = 1 << 1;
const XDP_FLAGS_DRV_MODE: u32 = 1 << 2;
const LICENSE: &std::ffi::CStr = c"Apache-2.0";

/// Arguments of a bpf(2) command: the beginning of `union bpf_attr`, as much of it as the command uses, and
/// without padding.
///
/// # Safety
/// The struct has the layout of the kernel's for the commands that it is used with.
unsafe trait Command {}

#[repr(C)]
struct MapCreate {
    map_type: u32,
    key_size: u32,
    value_size: u32,
    max_entries: u32,
    map_flags: u32,
    inner_map_fd: u32,
    numa_node: u32,
    map_name: [u8; 16],
}

#[repr(C)]
struct MapElement {
    map_fd: u32,
    _pad: u32,
    key: u64,
    value: u64,
    flags: u64,
}

#[repr(C)]
struct ProgramLoad {
    prog_type: u32,
    insn_cnt: u32,
    insns: u64,
    license: u64,
    log_level: u32,
    log_size: u32,
    log_buf: u64,
    kern_version: u32,
    prog_flags: u32,
    prog_name: [u8; 16],
    prog_ifindex: u32,
    expected_attach_type: u32,
}

#[repr(C)]
struct LinkCreate {
    prog_fd: u32,
    target_ifindex: u32,
    attach_type: u32,
    flags: u32,
}

#[cfg(test)]
#[repr(C)]
#[derive(Default)]
struct TestRun {
    prog_fd: u32,
    retval: u32,
    data_size_in: u32,
    data_size_out: u32,
    data_in: u64,
    data_out: u64,
    repeat: u32,
    duration: u32,
    ctx_size_in: u32,
    ctx_size_out: u32,
    ctx_in: u64,
    ctx_out: u64,
}

// SAFETY: as in linux/bpf.h.
unsafe impl Command for MapCreate {}
// SAFETY: as in linux/bpf.h.
unsafe impl Command for MapElement {}
// SAFETY: as in linux/bpf.h.
unsafe impl Command for ProgramLoad {}
// SAFETY: as in linux/bpf.h.
unsafe impl Command for LinkCreate {}
#[cfg(test)]
// SAFETY: as in linux/bpf.h.
unsafe impl Command for TestRun {}

const _: () = assert!(size_of::<MapCreate>() == 44 && size_of::<ProgramLoad>() == 72);

/// A command that returns a number.
///
/// # Safety
/// Pointers in the command are valid for what the command does with them.
unsafe fn bpf<C: Command>(number: c_long, command: &mut C) -> io::Result<c_long> {
    // SAFETY: the struct is as long as said, laid out as the kernel expects, and outlives the call; the
    // caller vouches for the pointers in it.
    let result = unsafe {
        libc::syscall(libc::SYS_bpf, number, std::ptr::from_mut(command), size_of::<C>() as c_long)
    };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

/// A command that returns a new descriptor.
///
/// # Safety
/// As for [`bpf`].
unsafe fn bpf_fd<C: Command>(number: c_long, command: &mut C) -> io::Result<OwnedFd> {
    // SAFETY: the caller vouches for the pointers.
    let fd = unsafe { bpf(number, command) }?;
    // SAFETY: a descriptor just returned by the kernel, which nobody else owns. It is closed on exec.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as i32) })
}

/// What `bpftool` shows our maps and programs as.
fn name() -> [u8; 16] {
    *b"spillway\0\0\0\0\0\0\0\0"
}
