//! EAL's arguments as capsule writes them, in the words of the DPDK that is installed.

/// Translates the arguments that capsule 0.1.5 makes:
///
/// - `--pci-whitelist A` and `--master-lcore N` have other names since DPDK 21.11.
/// - `--vdev A` with a PCI address: capsule takes only decimal digits for one, and `0000:3b:00.0` for a virtual device.
/// - `-l N`: the core may have a number beyond DPDK's largest lcore, so lcore 0 runs on it.
pub fn translate(arguments: impl IntoIterator<Item = String>) -> Vec<String> {
    let mut translated = Vec::new();
    let mut arguments = arguments.into_iter();
    while let Some(argument) = arguments.next() {
        let mut with = |name: &str, value: Option<String>| {
            translated.push(name.to_owned());
            translated.extend(value);
        };
        match argument.as_str() {
            "--pci-whitelist" => with("-a", arguments.next()),
            "--vdev" => match arguments.next() {
                Some(device) if is_pci_address(&device) => with("-a", Some(device)),
                device => with("--vdev", device),
            },
            "--master-lcore" => {
                arguments.next();
                with("--main-lcore", Some("0".to_owned()));
            }
            "-l" => with("--lcores", arguments.next().map(|core| format!("0@{core}"))),
            _ => translated.push(argument),
        }
    }
    translated
}

/// Whether a device is named by where it is on the PCI bus, `0000:3b:00.0`, perhaps with `,key=value` behind it.
pub fn is_pci_address(device: &str) -> bool {
    let address = device.split_once(',').map_or(device, |(address, _)| address);
    let is_hex =
        |text: &str, len: usize| text.len() == len && text.bytes().all(|byte| byte.is_ascii_hexdigit());
    let mut parts = address.split(':');
    let (Some(domain), Some(bus), Some(slot), None) =
        (parts.next(), parts.next(), parts.next(), parts.next())
    else {
        return false;
    };
    slot.split_once('.').is_some_and(|(slot, function)| {
        is_hex(domain, 4) && is_hex(bus, 2) && is_hex(slot, 2) && matches!(function.as_bytes(), [b'0'..=b'7'])
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn translated(line: &str) -> String {
        translate(line.split(' ').map(str::to_owned)).join(" ")
    }

    #[test]
    fn old_names_become_new_ones() {
        assert_eq!(
            translated("app --pci-whitelist 0000:02:00.0 --master-lcore 130 -l 130 --in-memory"),
            "app -a 0000:02:00.0 --main-lcore 0 --lcores 0@130 --in-memory"
        );
    }

    #[test]
    fn a_pci_address_with_letters_is_no_virtual_device() {
        assert_eq!(
            translated("app --vdev 0000:3b:00.0 --vdev net_null0,size=64"),
            "app -a 0000:3b:00.0 --vdev net_null0,size=64"
        );
        assert!(is_pci_address("0000:3B:00.1,representor=0"));
        for other in
            ["net_null0", "00:3b:00.0", "0000:3b:00", "0000:3b:00.8", "0000:3g:00.0", "0000:3b:00.0:1"]
        {
            assert!(!is_pci_address(other), "{other}");
        }
    }
}
