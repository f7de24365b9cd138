//! `deploy/dpdk-host.sh`: it says what it would do, and does nothing unless it is told to.

use std::fs;
use std::os::unix::fs::symlink;
use std::process::Command;

/// A machine with one NIC of the kernel's, which leads to the default route or does not.
fn machine(leads_out: bool) -> tempfile::TempDir {
    let machine = tempfile::tempdir().unwrap();
    let write = |path: &str, text: &str| {
        let path = machine.path().join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    };
    write("sys/bus/pci/devices/0000:3b:00.0/class", "0x020000\n");
    write("sys/bus/pci/devices/0000:3b:00.0/net/eth7/mtu", "1500\n");
    write("sys/kernel/mm/hugepages/hugepages-2048kB/nr_hugepages", "3\n");
    write("sys/kernel/mm/hugepages/hugepages-2048kB/free_hugepages", "2\n");
    let out = if leads_out { "eth7\t00000000\t0102A8C0\n" } else { "eth0\t00000000\t0102A8C0\n" };
    write("proc/net/route", &format!("Iface\tDestination\tGateway\n{out}"));
    symlink("../../drivers/ixgbe", machine.path().join("sys/bus/pci/devices/0000:3b:00.0/driver")).unwrap();
    fs::create_dir_all(machine.path().join("sys/bus/pci/drivers/ixgbe")).unwrap();
    machine
}

/// Both outputs and the exit code.
fn run(machine: &tempfile::TempDir, arguments: &str) -> (String, Option<i32>) {
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/../deploy/dpdk-host.sh");
    let output = Command::new(script)
        .args(arguments.split(' '))
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
fn the_nic_that_leads_out_is_never_taken() {
    let (said, code) = run(&machine(true), "bind 0000:3b:00.0 --yes");
    assert!(said.contains("the default route of this host leads through"), "{said}");
    assert_eq!(code, Some(1));
    for wrong in ["bind 0000:3c:00.0", "bind eth7", "bind", "reboot now"] {
        assert_ne!(run(&machine(false), wrong).1, Some(0), "{wrong}");
    }
}
