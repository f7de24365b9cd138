//! What a device is called: `0000:65:00.0`, or `net_af_packet0,iface=eth0,qpairs=2`.

use std::ffi::CString;
use std::io;

use capsule_ffi::arguments::is_pci_address;

/// A device as EAL wants it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Name {
    /// PCI address, or name of the virtual device.
    pub(super) name: String,
    /// Arguments of the virtual device.
    pub(super) arguments: Option<String>,
}

impl Name {
    /// Reads a device's text.
    pub(super) fn parse(text: &str) -> io::Result<Self> {
        let wrong =
            |why: &str| Err(io::Error::new(io::ErrorKind::InvalidInput, format!("device `{text}`: {why}")));
        let (name, arguments) = match text.split_once(',') {
            Some((name, arguments)) => (name, Some(arguments.to_owned())),
            None => (text, None),
        };
        if text.contains(char::is_whitespace) || text.contains('\0') {
            return wrong("has a blank in it");
        }
        if is_pci_address(name) {
            // capsule leaves them out.
            if arguments.is_some() {
                return wrong("a PCI device takes no arguments here");
            }
        } else if !name.starts_with("net_") || !name.ends_with(|last: char| last.is_ascii_digit()) {
            return wrong(
                "expected a PCI address such as 0000:65:00.0, or a virtual device with its number such as \
                 net_af_packet0,iface=eth0",
            );
        }
        Ok(Self { name: name.to_owned(), arguments })
    }

    /// Whether it is on the PCI bus.
    pub(super) fn is_pci(&self) -> bool {
        is_pci_address(&self.name)
    }

    /// The kind of a virtual device: its name without the number.
    pub(super) fn kind(&self) -> &str {
        self.name.trim_end_matches(|last: char| last.is_ascii_digit())
    }

    /// The value of an argument.
    pub(super) fn argument(&self, key: &str) -> Option<&str> {
        let all = self.arguments.as_deref()?.split(',');
        all.filter_map(|one| one.split_once('=')).find(|(name, _)| *name == key).map(|(_, value)| value)
    }

    /// For DPDK.
    pub(super) fn c_name(&self) -> CString {
        // `parse` takes no inner zero.
        CString::new(self.name.as_str()).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn devices_are_pci_addresses_or_virtual() {
        let device = Name::parse("net_af_packet0,iface=eth0,qpairs=2").unwrap();
        assert_eq!((device.name.as_str(), device.kind()), ("net_af_packet0", "net_af_packet"));
        assert_eq!(
            (device.argument("iface"), device.argument("qpairs"), device.argument("x")),
            (Some("eth0"), Some("2"), None)
        );
        assert!(!device.is_pci());
        assert!(Name::parse("0000:3b:00.0").unwrap().is_pci());
        for wrong in ["eth0", "net_null", "0000:3b:00.0,x=1", "net_null0 x", "3b:00.0", ""] {
            assert!(Name::parse(wrong).is_err(), "{wrong}");
        }
    }
}
