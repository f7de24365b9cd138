//! The rate of the time stamp counter, which counts at one speed whatever the clock of the core does.
#![allow(unsafe_code)]

use std::sync::OnceLock;
use std::time::{Duration, Instant};

/// How long it is compared with the clock. Both are read in some 50 ns, so the error is far below a thousandth.
const COMPARED: Duration = Duration::from_millis(20);

/// Counts a nanosecond; `None` on a CPU without one.
pub fn cycles_per_ns() -> Option<f64> {
    static RATE: OnceLock<Option<f64>> = OnceLock::new();
    *RATE.get_or_init(measure)
}

fn measure() -> Option<f64> {
    let (start, counted) = (Instant::now(), count()?);
    std::thread::sleep(COMPARED);
    let (cycles, time) = (count()?.wrapping_sub(counted), start.elapsed());
    Some(cycles as f64 / time.as_nanos() as f64)
}

#[cfg(target_arch = "x86_64")]
fn count() -> Option<u64> {
    // SAFETY: every x86-64 CPU has the instruction, and Linux lets programs use it.
    Some(unsafe { std::arch::x86_64::_rdtsc() })
}

#[cfg(not(target_arch = "x86_64"))]
fn count() -> Option<u64> {
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[cfg(target_arch = "x86_64")]
    fn the_rate_is_that_of_a_cpu_and_stays() {
        let (one, other) = (measure().unwrap(), measure().unwrap());
        // From 0.5 to 10 GHz.
        assert!((0.5..10.0).contains(&one) && (one / other - 1.0).abs() < 0.05, "{one} and {other}");
        assert_eq!(cycles_per_ns(), cycles_per_ns());
    }
}
