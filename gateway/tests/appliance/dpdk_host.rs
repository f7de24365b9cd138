//! `deploy/dpdk-host.sh`: it says what it would do, and does nothing unless it is told to.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;
use std::process::Command;

use tempfile::TempDir;

/// A machine with one NIC of the kernel's, which leads to the default route or does not.
fn machine(leads_out: bool) -> TempDir {
    let machine = tempfile::tempdir().unwrap();
    write(&machine, "sys/bus/pci/devices/0000:3b:00.0/class", "0x020000\n");
    write(&machine, "sys/bus/pci/devices/0000:3b:00.0/net/eth7/mtu", "1500\n");
    write(&machine, "sys/kernel/mm/hugepages/hugepages-2048kB/nr_hugepages", "3\n");
    write(&machine, "sys/kernel/mm/hugepages/hugepages-2048kB/free_hugepages", "2\n");
    let out = if leads_out { "eth7\t00000000\t0102A8C0\n" } else { "eth0\t00000000\t0102A8C0\n" };
    write(&machine, "proc/net/route", &format!("Iface\tDestination\tGateway\n{out}"));
    symlink("../../drivers/ixgbe", machine.path().join("sys/bus/pci/devices/0000:3b:00.0/driver")).unwrap();
    fs::create_dir_all(machine.path().join("sys/bus/pci/drivers/ixgbe")).unwrap();
    // What the script may call, and nothing else of this machine.
    fs::create_dir(machine.path().join("bin")).unwrap();
    for tool in ["bash", "env", "sed", "awk", "cat", "basename", "readlink"] {
        let path = std::env::var("PATH").unwrap();
        let found =
            path.split(':').map(|directory| Path::new(directory).join(tool)).find(|path| path.exists());
        symlink(found.unwrap(), machine.path().join("bin").join(tool)).unwrap();
    }
    machine
}

fn write(machine: &TempDir, path: &str, text: &str) {
    let path = machine.path().join(path);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, text).unwrap();
}

/// A program of the machine that is this script.
fn stub(machine: &TempDir, name: &str, script: &str) {
    let path = machine.path().join("bin").join(name);
    fs::write(&path, format!("#!/bin/sh\n{script}")).unwrap();
    fs::set_permissions(path, fs::Permissions::from_mode(0o755)).unwrap();
}

/// Programs that only note how they are called; what returns those notes.
fn stubs(machine: &TempDir, names: &[&str]) -> impl Fn() -> String + use<> {
    let notes = machine.path().join("called");
    for name in names {
        stub(machine, name, &format!("echo {name} \"$@\" >>{}\n", notes.display()));
    }
    move || fs::read_to_string(&notes).unwrap_or_default()
}

/// Both outputs and the exit code.
fn run(machine: &TempDir, arguments: &str) -> (String, Option<i32>) {
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/../deploy/dpdk-host.sh");
    let output = Command::new(script)
        .args(arguments.split(' '))
        .env("PATH", machine.path().join("bin"))
        .env("SPILLWAY_SYS", machine.path().join("sys"))
        .env("SPILLWAY_PROC", machine.path().join("proc"))
        .output()
        .unwrap();
    let text = [output.stdout, output.stderr].concat();
    (String::from_utf8(text).unwrap(), output.status.code())
}

#[test]
fn it_tells_what_is_there_and_what_lacks() {
    let (said, code) = run(&machine(false), "status");
    assert_eq!(code, Some(0), "{said}");
    for expected in ["0000:3b:00.0  driver ixgbe", "eth7", "2 of 3 are free", "isolcpus=C", "IOMMU: off"] {
        assert!(said.contains(expected), "{expected}: {said}");
    }
}

#[test]
fn nothing_changes_without_yes() {
    let machine = machine(false);
    let pages = machine.path().join("sys/kernel/mm/hugepages/hugepages-2048kB/nr_hugepages");
    let (said, code) = run(&machine, "hugepages 64");
    assert!(said.contains("echo 64 > ") && said.contains("Nothing was changed"), "{said}");
    assert_eq!((code, fs::read_to_string(&pages).unwrap().as_str()), (Some(0), "3\n"));
    let (said, code) = run(&machine, "hugepages 64 --yes");
    assert!(!said.contains("Nothing was changed"), "{said}");
    assert_eq!((code, fs::read_to_string(&pages).unwrap().as_str()), (Some(0), "64\n"));
}

#[test]
fn pages_are_counted_with_those_that_others_have() {
    // One of three is in use: 254 more are needed.
    let (said, _) = run(&machine(false), "status");
    assert!(said.contains("hugepages 257\n"), "{said}");
}

#[test]
fn the_nic_that_leads_out_is_never_taken() {
    let machine = machine(true);
    let called = stubs(&machine, &["driverctl", "modprobe"]);
    let (said, code) = run(&machine, "bind 0000:3b:00.0 --yes");
    assert!(said.contains("is eth7, which the default route of this host leads through; it stays"), "{said}");
    assert_eq!((code, called()), (Some(1), String::new()));
    for wrong in ["bind 0000:3c:00.0", "bind eth7", "bind", "reboot now"] {
        assert_ne!(run(&self::machine(false), wrong).1, Some(0), "{wrong}");
    }
}

#[test]
fn the_nic_that_leads_out_by_another_family_or_table_is_never_taken() {
    let ipv6 = |plen: &str, device: &str| {
        let zeros = "0".repeat(32);
        format!("{zeros} {plen} {zeros} 00 {zeros} 00000400 00000001 00000000 00000003     {device}\n")
    };
    for (routes, leads_out) in [
        (ipv6("00", "eth7"), true),
        (ipv6("03", "eth7"), true),
        (ipv6("00", "eth0"), false),
        (ipv6("40", "eth7"), false),
    ] {
        let machine = machine(false);
        let called = stubs(&machine, &["driverctl", "modprobe", "ip"]);
        write(&machine, "proc/net/ipv6_route", &routes);
        let (said, code) = run(&machine, "bind 0000:3b:00.0 --yes");
        assert_eq!(
            (code, called().contains("set-override")),
            (Some(leads_out.into()), !leads_out),
            "{routes}: {said}"
        );
    }
    // A table of its own, and a route with two ways.
    for (route, leads_out) in [
        ("default via 192.0.2.1 dev eth7 table mgmt proto static", true),
        (
            "default \\\tnexthop via 192.0.2.1 dev eth0 weight 1 \\\tnexthop via 192.0.2.5 dev eth7 weight 1",
            true,
        ),
        ("192.0.2.0/24 dev eth7 proto kernel scope link", false),
        ("default via 192.0.2.1 dev eth77", false),
    ] {
        let machine = machine(false);
        let called = stubs(&machine, &["driverctl", "modprobe"]);
        stub(&machine, "ip", &format!("cat <<'END'\n{route}\nEND\n"));
        let (said, code) = run(&machine, "bind 0000:3b:00.0 --yes");
        assert_eq!(
            (code, called().contains("set-override")),
            (Some(leads_out.into()), !leads_out),
            "{route}: {said}"
        );
    }
}

/// The NIC is in a bond, on which is a VLAN, which is in a bridge.
#[test]
fn the_nic_below_what_leads_out_is_never_taken() {
    for (way, leads_out) in [("bond0", true), ("bond0.5", true), ("br0", true), ("eth0", false)] {
        let machine = machine(false);
        let called = stubs(&machine, &["driverctl", "modprobe"]);
        for (lower, upper) in [("eth7", "bond0"), ("bond0", "bond0.5"), ("bond0.5", "br0"), ("br0", "bond0")]
        {
            write(&machine, &format!("sys/class/net/{upper}/mtu"), "1500\n");
            let link = machine.path().join(format!("sys/class/net/{lower}/upper_{upper}"));
            fs::create_dir_all(link.parent().unwrap()).unwrap();
            symlink(format!("../{upper}"), link).unwrap();
        }
        write(
            &machine,
            "proc/net/route",
            &format!("Iface\tDestination\tGateway\n{way}\t00000000\t0102A8C0\n"),
        );
        let (said, code) = run(&machine, "bind 0000:3b:00.0 --yes");
        assert_eq!(said.contains(&format!("by way of {way}; it stays")), leads_out, "{said}");
        assert_eq!((code, called().contains("set-override")), (Some(leads_out.into()), !leads_out), "{said}");
    }
}

#[test]
fn bindings_go_through_driverctl() {
    let machine = machine(false);
    let called = stubs(&machine, &["driverctl", "modprobe"]);
    let (said, code) = run(&machine, "bind 0000:3B:00.0");
    assert!(
        said.contains("driverctl set-override 0000:3b:00.0 vfio-pci") && said.contains("Nothing was"),
        "{said}"
    );
    assert_eq!((code, called()), (Some(0), String::new()));
    let (said, code) = run(&machine, "bind 0000:3B:00.0 --yes");
    assert!(!said.contains("Nothing was"), "{said}");
    assert_eq!(code, Some(0), "{said}");
    assert_eq!(called(), "modprobe vfio-pci\ndriverctl set-override 0000:3b:00.0 vfio-pci\n");
    let (said, code) = run(&machine, "unbind 0000:3b:00.0 --yes");
    assert_eq!(code, Some(0), "{said}");
    assert!(called().ends_with("driverctl unset-override 0000:3b:00.0\n"), "{said}");
}

#[test]
fn bindings_go_through_dpdk_where_there_is_no_driverctl() {
    let machine = machine(false);
    let called = stubs(&machine, &["dpdk-devbind.py", "modprobe"]);
    let (said, code) = run(&machine, "bind 0000:3b:00.0 --yes");
    assert_eq!(code, Some(0), "{said}");
    assert_eq!(called(), "modprobe vfio-pci\ndpdk-devbind.py --bind=vfio-pci 0000:3b:00.0\n");
    // What the kernel's files are told, since nothing else gives it back to the driver that it had.
    write(&machine, "sys/bus/pci/drivers/ixgbe/unbind", "");
    write(&machine, "sys/bus/pci/drivers_probe", "");
    write(&machine, "sys/bus/pci/devices/0000:3b:00.0/driver_override", "vfio-pci\n");
    let (said, code) = run(&machine, "unbind 0000:3b:00.0 --yes");
    assert_eq!(code, Some(0), "{said}");
    let told = |path: &str| fs::read_to_string(machine.path().join("sys/bus/pci").join(path)).unwrap();
    assert_eq!(told("devices/0000:3b:00.0/driver_override"), "\n");
    assert_eq!(
        (told("drivers/ixgbe/unbind").as_str(), told("drivers_probe").as_str()),
        ("0000:3b:00.0\n", "0000:3b:00.0\n")
    );
}

#[test]
fn a_nic_that_no_tool_can_bind_stays() {
    let machine = machine(false);
    let _called = stubs(&machine, &["modprobe"]);
    let (said, code) = run(&machine, "bind 0000:3b:00.0 --yes");
    assert!(said.contains("apt-get install driverctl"), "{said}");
    assert_eq!(code, Some(1));
}
