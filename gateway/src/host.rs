//! What the configuration needs to know of the machine.

use std::fs;
use std::io;

/// The machine that the gateway runs on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Host {
    /// Numbers of its cores; empty when they are not known.
    pub cores: Vec<usize>,
}

impl Host {
    /// Asks the kernel. Cores that are isolated (`isolcpus`) count: workers belong on them.
    pub fn detect() -> Self {
        let online = fs::read_to_string("/sys/devices/system/cpu/online");
        Self { cores: online.and_then(|text| parse_list(&text)).unwrap_or_default() }
    }
}

/// The kernel's list format: `0-3,8`.
fn parse_list(text: &str) -> io::Result<Vec<usize>> {
    let invalid = || io::Error::new(io::ErrorKind::InvalidData, "not a list of cores");
    let mut cores = Vec::new();
    for part in text.trim().split(',') {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let number = |text: &str| text.parse::<usize>().map_err(|_| invalid());
        cores.extend(number(first)?..=number(last)?);
    }
    Ok(cores)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_of_cores_are_ranges_and_numbers() {
        assert_eq!(parse_list("0-3,8\n").unwrap(), [0, 1, 2, 3, 8]);
        assert_eq!(parse_list("0").unwrap(), [0]);
        assert!(parse_list("").is_err());
        assert!(parse_list("0-x").is_err());
    }

    #[test]
    fn this_machine_has_cores() {
        assert!(!Host::detect().cores.is_empty());
    }
}
