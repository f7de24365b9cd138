//! The heap in huge pages.
//!
//! What belongs to an SA lies in the heap: the SA with its key, slots, policies, and the key contexts that AWS-LC makes. With
//! 100,000 of them in small pages nearly every packet walks the page tables, which costs as much as the data. glibc's
//! malloc asks the kernel for huge pages when it is told to, but only the environment can tell it, at the start of the
//! program. So the program starts itself again, once.

use std::env;
use std::ffi::OsString;
use std::os::unix::process::CommandExt;
use std::process::Command;

/// What glibc reads at the start (glibc manual, "Memory Allocation Tunables").
const VARIABLE: &str = "GLIBC_TUNABLES";
const TUNABLE: &str = "glibc.malloc.hugetlb";

/// Starts the program again with its heap in huge pages, unless the environment says something about them already: with
/// `GLIBC_TUNABLES=glibc.malloc.hugetlb=0` it stays as it is. To be called first of all, before there are threads. Comes
/// back when that is not possible, as it was before; the pages cost speed alone.
pub fn use_huge_pages() {
    let before = env::var_os(VARIABLE);
    let Some(tunables) = tunables(before) else { return };
    let Ok(program) = env::current_exe() else { return };
    let mut arguments = env::args_os();
    let mut command = Command::new(program);
    if let Some(name) = arguments.next() {
        command.arg0(name);
    }
    // Only an error comes back, and without huge pages everything works too.
    let _ = command.args(arguments).env(VARIABLE, tunables).exec();
}

/// Whether the environment asks for huge pages and the kernel gives them to programs that ask.
pub fn is_huge() -> bool {
    let asked = env::var(VARIABLE).is_ok_and(|value| value.contains("glibc.malloc.hugetlb=1"));
    let mode = std::fs::read_to_string("/sys/kernel/mm/transparent_hugepage/enabled").unwrap_or_default();
    cfg!(target_env = "gnu") && asked && !mode.contains("[never]")
}

/// The variable with huge pages added; `None` when it should stay as it is.
fn tunables(before: Option<OsString>) -> Option<OsString> {
    if !cfg!(target_env = "gnu") {
        return None;
    }
    let mut tunables = before.unwrap_or_default();
    if tunables.to_string_lossy().contains(TUNABLE) {
        return None;
    }
    if !tunables.is_empty() {
        tunables.push(":");
    }
    tunables.push(TUNABLE);
    tunables.push("=1");
    Some(tunables)
}

#[cfg(all(test, target_env = "gnu"))]
mod tests {
    use super::*;

    #[test]
    fn huge_pages_are_added_once_and_never_against_the_operator() {
        let with = |before: &str| tunables(Some(before.into())).map(|value| value.into_string().unwrap());
        assert_eq!(tunables(None).unwrap(), "glibc.malloc.hugetlb=1");
        assert_eq!(with("").unwrap(), "glibc.malloc.hugetlb=1");
        assert_eq!(with("glibc.malloc.check=3").unwrap(), "glibc.malloc.check=3:glibc.malloc.hugetlb=1");
        assert_eq!(with("glibc.malloc.hugetlb=0"), None);
        assert_eq!(with(&with("").unwrap()), None, "or the program would start itself for ever");
    }
}
