//! Looking, without starting anything, whether DPDK would start here. Each problem comes with what mends it.

use std::fs;
use std::path::{Path, PathBuf};

use capsule_ffi::numa::node_of;
use nix::net::if_::if_nametoindex;

use super::Config;
use super::device::Name;

/// Everything that keeps the ports from starting, each as a sentence that says what mends it.
pub fn probe(config: &Config) -> Vec<String> {
    probe_at(config, Path::new("/sys"), &plugins())
}

fn probe_at(config: &Config, sys: &Path, plugins: &Path) -> Vec<String> {
    let mut problems = Vec::new();
    let mut seen = Vec::new();
    for port in &config.ports {
        match Name::parse(&port.device) {
            Ok(device) => {
                let problem =
                    if device.is_pci() { pci(&device, sys) } else { virtual_device(&device, plugins) };
                problems.extend(problem);
                if seen.contains(&device.name) {
                    problems.push(format!("two ports have the device {}", device.name));
                }
                seen.push(device.name);
            }
            Err(error) => problems.push(error.to_string()),
        }
    }
    for (at, core) in config.cores.iter().enumerate() {
        // capsule has one thread a core.
        if config.cores.iter().take(at).any(|earlier| earlier == core) {
            problems.push(format!(
                "workers.cores names core {core} twice, and DPDK ports need a core for each worker"
            ));
        }
    }
    // capsule splits EAL's arguments at blanks.
    if let Some(argument) =
        config.eal.iter().find(|argument| argument.is_empty() || argument.contains(char::is_whitespace))
    {
        problems.push(format!("dpdk.eal: `{argument}` is not one word"));
    }
    let pools = config.pools(|core| node_of(core, sys));
    let needed = config.needed(pools);
    if needed > config.memory {
        let nodes = if pools > 1 { format!(" on each of {pools} NUMA nodes") } else { String::new() };
        problems.push(format!(
            "{} packet buffers of {} bytes{nodes} need {} MiB: set `dpdk: {{ memory: {}MiB }}`, or fewer `descriptors`",
            config.capacity(),
            super::data_room(config.largest_mtu()),
            needed.div_ceil(1 << 20),
            needed.div_ceil(1 << 20).next_multiple_of(64),
        ));
    }
    if config.huge_pages {
        problems.extend(huge_pages(config.memory, sys));
    }
    problems
}

/// Whether enough huge pages are free.
fn huge_pages(memory: u64, sys: &Path) -> Option<String> {
    let sizes = fs::read_dir(sys.join("kernel/mm/hugepages")).into_iter().flatten().flatten();
    let free: u64 = sizes
        .filter_map(|entry| {
            let name = entry.file_name().into_string().ok()?;
            let kilobytes: u64 = name.strip_prefix("hugepages-")?.strip_suffix("kB")?.parse().ok()?;
            let free: u64 =
                fs::read_to_string(entry.path().join("free_hugepages")).ok()?.trim().parse().ok()?;
            Some(kilobytes * 1024 * free)
        })
        .sum();
    (free < memory).then(|| {
        // The number that is written is that of all pages, and others have some of them.
        let total = fs::read_to_string(sys.join("kernel/mm/hugepages/hugepages-2048kB/nr_hugepages"));
        let total: u64 = total.ok().and_then(|text| text.trim().parse().ok()).unwrap_or(0);
        let pages = total + (memory - free).div_ceil(2 << 20);
        format!(
            "DPDK is to have {} MB in huge pages and {} MB are free: \
             `echo {pages} > /sys/kernel/mm/hugepages/hugepages-2048kB/nr_hugepages`, or go without, slower, with \
             `dpdk: {{ huge_pages: none }}`",
            memory >> 20,
            free >> 20
        )
    })
}

/// Drivers of the kernel that DPDK works through, or beside.
const DPDK_DRIVERS: [&str; 7] =
    ["vfio-pci", "uio_pci_generic", "igb_uio", "mlx5_core", "mlx4_core", "mana", "hv_netvsc"];

fn pci(device: &Name, sys: &Path) -> Option<String> {
    let name = &device.name;
    let path = sys.join("bus/pci/devices").join(name.to_ascii_lowercase());
    if !path.exists() {
        return Some(format!("there is no PCI device {name}: `lspci -D` lists those that there are"));
    }
    let driver = fs::read_link(path.join("driver")).ok();
    let driver = driver.as_deref().and_then(Path::file_name).map(|name| name.to_string_lossy().into_owned());
    match driver {
        Some(driver) if DPDK_DRIVERS.contains(&driver.as_str()) => None,
        Some(driver) => Some(format!(
            "{name} belongs to the kernel's driver {driver}: `deploy/dpdk-host.sh bind {name}` gives it to vfio-pci"
        )),
        None => Some(format!("{name} has no driver: `deploy/dpdk-host.sh bind {name}` gives it to vfio-pci")),
    }
}

fn virtual_device(device: &Name, plugins: &Path) -> Option<String> {
    let kind = device.kind();
    let driver = match kind {
        "net_virtio_user" => "net_virtio",
        "net_tun" => "net_tap",
        "net_bonding" => "net_bond",
        "net_eth_vdev" => return None,
        other => other,
    };
    let plugin = format!("librte_{driver}.so");
    if plugins.is_dir() && !has_plugin(plugins, &plugin) {
        let package = driver.replace('_', "-");
        return Some(format!(
            "this DPDK has no driver {kind} ({} is not there): `apt-get install 'librte-{package}*'`, where it exists",
            plugins.join(plugin).display()
        ));
    }
    // net_tap makes the interface that it names.
    let needs_interface = matches!(kind, "net_af_packet" | "net_af_xdp" | "net_pcap");
    let interface = device.argument("iface").filter(|_| needs_interface)?;
    // In this network namespace, which /sys need not show.
    if_nametoindex(interface).is_err().then(|| {
        format!("{}: there is no interface {interface}: `ip link` lists those that there are", device.name)
    })
}

/// Whether there is a plug-in of this name, or of this name with a version behind it: the name alone is in packages for
/// developers, and EAL loads either.
fn has_plugin(plugins: &Path, plugin: &str) -> bool {
    let names = fs::read_dir(plugins).into_iter().flatten().flatten().map(|entry| entry.file_name());
    let is_it = |name: &str| {
        name.strip_prefix(plugin).is_some_and(|version| version.is_empty() || version.starts_with('.'))
    };
    names.into_iter().any(|name| name.to_str().is_some_and(is_it))
}

/// Where EAL looks for drivers.
fn plugins() -> PathBuf {
    PathBuf::from(capsule_ffi::eal::plugin_directory())
}

#[cfg(test)]
mod tests {
    use super::super::PortConfig;
    use super::*;

    struct Machine(tempfile::TempDir);

    impl Machine {
        fn new() -> Self {
            let machine = Self(tempfile::tempdir().unwrap());
            machine.write("kernel/mm/hugepages/hugepages-2048kB/free_hugepages", "0\n");
            machine.write("pmds/librte_net_af_packet.so", "");
            machine
        }

        fn write(&self, path: &str, text: &str) {
            let path = self.0.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }

        fn pci(&self, address: &str, driver: &str) {
            let path = self.0.path().join("bus/pci/devices").join(address);
            fs::create_dir_all(&path).unwrap();
            std::os::unix::fs::symlink(format!("../../drivers/{driver}"), path.join("driver")).unwrap();
        }

        fn probe(&self, config: &Config) -> String {
            probe_at(config, self.0.path(), &self.0.path().join("pmds")).join("\n")
        }
    }

    fn config(device: &str) -> Config {
        Config {
            ports: vec![PortConfig { device: device.into(), mtu: 1500, descriptors: 512 }],
            cores: vec![1],
            control_core: 0,
            huge_pages: false,
            memory: 512 << 20,
            buffers: 16_384,
            eal: Vec::new(),
        }
    }

    #[test]
    fn huge_pages_that_lack_are_told_with_the_command() {
        let machine = Machine::new();
        let mut config = config("net_af_packet0,iface=lo");
        assert_eq!(machine.probe(&config), "");
        config.huge_pages = true;
        let told = machine.probe(&config);
        assert!(told.contains("512 MB in huge pages and 0 MB are free: `echo 256 > "), "{told}");
        // Pages that others have stay theirs.
        machine.write("kernel/mm/hugepages/hugepages-2048kB/nr_hugepages", "300\n");
        machine.write("kernel/mm/hugepages/hugepages-2048kB/free_hugepages", "100\n");
        let told = machine.probe(&config);
        assert!(told.contains("512 MB in huge pages and 200 MB are free: `echo 456 > "), "{told}");
        machine.write("kernel/mm/hugepages/hugepages-2048kB/free_hugepages", "256\n");
        assert_eq!(machine.probe(&config), "");
    }

    #[test]
    fn each_numa_node_has_a_pool_of_its_own() {
        let machine = Machine::new();
        let mut config = config("net_af_packet0,iface=lo");
        config.cores = vec![1, 2];
        config.memory = config.needed(1);
        assert_eq!(machine.probe(&config), "");
        for (core, node) in [(0, 0), (1, 0), (2, 1)] {
            machine.write(&format!("devices/system/cpu/cpu{core}/node{node}/x"), "");
        }
        let told = machine.probe(&config);
        assert!(told.contains("on each of 2 NUMA nodes") && told.contains("set `dpdk: { memory: "), "{told}");
        config.memory = config.needed(2);
        assert_eq!(machine.probe(&config), "");
        // The control core's node has one too.
        config.cores = vec![2];
        config.memory = config.needed(2) - 1;
        assert!(machine.probe(&config).contains("on each of 2 NUMA nodes"));
    }

    #[test]
    fn a_driver_without_what_developers_need_is_there() {
        let machine = Machine::new();
        machine.write("pmds/librte_net_null.so.23.0", "");
        machine.write("pmds/librte_net_ringo.so.23", "");
        assert_eq!(machine.probe(&config("net_null0")), "");
        let told = machine.probe(&config("net_ring0"));
        assert!(told.contains("no driver net_ring ("), "{told}");
    }

    #[test]
    fn a_nic_that_the_kernel_drives_is_told_with_the_command() {
        let machine = Machine::new();
        let told = machine.probe(&config("0000:3b:00.0"));
        assert!(told.contains("no PCI device 0000:3b:00.0"), "{told}");
        machine.pci("0000:3b:00.0", "ixgbe");
        let told = machine.probe(&config("0000:3B:00.0"));
        assert!(told.contains("driver ixgbe: `deploy/dpdk-host.sh bind 0000:3B:00.0`"), "{told}");
        machine.pci("0000:3b:00.1", "vfio-pci");
        assert_eq!(machine.probe(&config("0000:3b:00.1")), "");
    }

    #[test]
    fn drivers_and_interfaces_that_are_not_there_are_told() {
        let machine = Machine::new();
        let told = machine.probe(&config("net_memif0"));
        assert!(told.contains("no driver net_memif") && told.contains("'librte-net-memif*'"), "{told}");
        let told = machine.probe(&config("net_af_packet0,iface=eth9"));
        assert!(told.contains("no interface eth9"), "{told}");
    }

    #[test]
    fn what_capsule_would_get_wrong_is_refused() {
        let machine = Machine::new();
        let good = config("net_af_packet0,iface=lo");
        let told = machine.probe(&Config { cores: vec![2, 1, 2], ..good.clone() });
        assert!(told.contains("core 2 twice"), "{told}");
        let told = machine.probe(&Config { eal: vec!["--log-level 8".into()], ..good.clone() });
        assert!(told.contains("`--log-level 8` is not one word"), "{told}");
        let twice = [good.ports.clone(), good.ports.clone()].concat();
        let told = machine.probe(&Config { ports: twice, ..good.clone() });
        assert!(told.contains("two ports have the device net_af_packet0"), "{told}");
        let told = machine.probe(&Config { memory: 16 << 20, ..good });
        assert!(told.contains("set `dpdk: { memory: "), "{told}");
    }
}
