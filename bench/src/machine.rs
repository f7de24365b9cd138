//! What the figures were measured on.

use std::collections::BTreeSet;
use std::fs;

use dataplane::heap;
use serde::Serialize;

/// CPU features that make a difference to ESP.
const FLAGS: &[&str] = &[
    "aes",
    "pclmulqdq",
    "avx2",
    "vaes",
    "vpclmulqdq",
    "avx512f",
    "avx512bw",
    "avx512vl",
    "avx512dq",
    "sha_ni",
];

/// The machine and the build.
#[derive(Clone, Debug, Serialize)]
pub struct Machine {
    /// Model name of the CPU.
    pub cpu: String,
    /// CPUs that the kernel sees.
    pub cores: usize,
    /// Those of its features that matter here.
    pub flags: Vec<String>,
    /// Whether it runs under a hypervisor, where other guests disturb.
    pub virtualised: bool,
    /// Kernel release.
    pub kernel: String,
    /// Whether the heap is in huge pages, where the kernel has them.
    pub huge_pages: bool,
    /// Version of Spillway.
    pub version: &'static str,
    /// Whether the build is optimised.
    pub optimised: bool,
}

impl Machine {
    /// This machine. What cannot be read is "unknown".
    pub fn detect() -> Self {
        let cpuinfo = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
        let field = |name: &str| {
            cpuinfo
                .lines()
                .filter_map(|line| line.split_once(':'))
                .find(|(key, _)| key.trim() == name)
                .map(|(_, value)| value.trim().to_owned())
        };
        let all = field("flags").unwrap_or_default();
        let all: BTreeSet<&str> = all.split_whitespace().collect();
        let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
        Self {
            cpu: field("model name").unwrap_or_else(|| "unknown".into()),
            cores: cpuinfo.lines().filter(|line| line.starts_with("processor")).count(),
            flags: FLAGS.iter().filter(|flag| all.contains(*flag)).map(|flag| (*flag).to_owned()).collect(),
            virtualised: all.contains("hypervisor"),
            kernel: if kernel.is_empty() { "unknown".into() } else { kernel.trim().to_owned() },
            huge_pages: heap::is_huge(),
            version: env!("CARGO_PKG_VERSION"),
            optimised: !cfg!(debug_assertions),
        }
    }
}

impl std::fmt::Display for Machine {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let place = if self.virtualised { ", virtual" } else { "" };
        writeln!(f, "{} ({} cores{place}), Linux {}", self.cpu, self.cores, self.kernel)?;
        writeln!(f, "flags: {}", self.flags.join(" "))?;
        let pages = if self.huge_pages { "huge" } else { "small" };
        writeln!(f, "{} {}, heap in {pages} pages", env!("CARGO_PKG_NAME"), self.version)?;
        if !self.optimised {
            writeln!(f, "THIS BUILD IS NOT OPTIMISED: run with --release")?;
        }
        Ok(())
    }
}
