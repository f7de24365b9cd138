//! Starting EAL, and hearing what DPDK says.

use std::collections::VecDeque;
use std::ffi::{CStr, CString, c_char, c_int};
use std::io;
use std::sync::{Mutex, OnceLock, PoisonError};

use crate::arguments::translate;
use crate::bindings;

/// Lines that are kept to explain an error.
const KEPT: usize = 6;

/// Takes each line that DPDK logs.
type Listener = fn(&str);

static LISTENER: OnceLock<Listener> = OnceLock::new();
static LAST: Mutex<VecDeque<String>> = Mutex::new(VecDeque::new());

/// Has DPDK log through `listener` and not to standard error. Before EAL starts, once.
///
/// # Errors
/// When there is no memory for a stream.
pub fn log_to(listener: Listener) -> io::Result<()> {
    if LISTENER.set(listener).is_err() {
        return Ok(());
    }
    // SAFETY: `take` is a function and lives for ever.
    match unsafe { bindings::capsule_ffi_log_to(Some(take)) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// The last lines that DPDK logged, as one text: what it had to say about an error.
pub fn last_words() -> String {
    let lines = LAST.lock().unwrap_or_else(PoisonError::into_inner);
    lines.iter().map(String::as_str).collect::<Vec<_>>().join("; ")
}

unsafe extern "C" fn take(text: *const c_char, len: usize) {
    // SAFETY: the C library hands `len` bytes at `text` to the stream's writer.
    let bytes = unsafe { std::slice::from_raw_parts(text.cast::<u8>(), len) };
    for line in String::from_utf8_lossy(bytes).lines().map(str::trim).filter(|line| !line.is_empty()) {
        let mut last = LAST.lock().unwrap_or_else(PoisonError::into_inner);
        if last.len() == KEPT {
            last.pop_front();
        }
        last.push_back(line.to_owned());
        drop(last);
        if let Some(listener) = LISTENER.get() {
            listener(line);
        }
    }
}

/// Where EAL looks for drivers, which are plug-ins.
pub fn plugin_directory() -> String {
    bindings::RTE_EAL_PMD_PATH.to_string_lossy().into_owned()
}

/// The text of an error number of DPDK, negative or not.
pub fn strerror(errno: c_int) -> String {
    // SAFETY: the function takes any number and returns a C string that stays as it is until this thread's next call.
    unsafe { CStr::from_ptr(bindings::rte_strerror(errno.abs())) }.to_string_lossy().into_owned()
}

/// EAL's start under capsule's name for it, with capsule's arguments translated.
///
/// # Safety
/// `argv` holds `argc` pointers to C strings.
pub unsafe fn rte_eal_init(argc: c_int, argv: *mut *mut c_char) -> c_int {
    // SAFETY: the caller's promise.
    let arguments = unsafe { std::slice::from_raw_parts(argv, argc.max(0) as usize) };
    // SAFETY: as above.
    let arguments =
        arguments.iter().map(|&text| unsafe { CStr::from_ptr(text) }.to_string_lossy().into_owned());
    // They had no inner zero, and translating adds none. EAL keeps the pointers, so they live for ever.
    let arguments = translate(arguments).into_iter().filter_map(|text| CString::new(text).ok());
    let pointers = Box::leak(arguments.map(CString::into_raw).collect::<Box<[_]>>());
    // SAFETY: so many pointers to C strings that are never freed.
    unsafe { bindings::rte_eal_init(pointers.len() as c_int, pointers.as_mut_ptr()) }
}
