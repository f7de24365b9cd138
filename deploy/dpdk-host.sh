#!/usr/bin/env bash
# Looks at and prepares a host for ports that DPDK drives.
#
#   dpdk-host.sh status              NICs and their drivers, IOMMU, huge pages, isolated cores, and what is missing
#   dpdk-host.sh bind ADDRESS        gives a NIC (0000:65:00.0) to vfio-pci
#   dpdk-host.sh unbind ADDRESS      gives it back to the kernel's driver
#   dpdk-host.sh hugepages COUNT     reserves huge pages of 2 MiB
#
# Commands that change the host are printed. They are run only with --yes behind them. With driverctl, bindings last
# over a restart; without, they do not. The kernel's command line is never touched: what to add to it is said.
set -euo pipefail

sys=${SPILLWAY_SYS:-/sys}   # another root for tests
proc=${SPILLWAY_PROC:-/proc}
yes=false

main() {
    local arguments=()
    for argument in "$@"; do
        if [[ $argument == --yes ]]; then yes=true; else arguments+=("$argument"); fi
    done
    set -- "${arguments[@]}"
    case "${1:-} $#" in
        "status 1") status ;;
        "bind 2") bind "$2" ;;
        "unbind 2") unbind "$2" ;;
        "hugepages 2") hugepages "$2" ;;
        *) sed -n '2,/^set/s/^# \{0,1\}//p' "$0" >&2; exit 2 ;;
    esac
    $yes || [[ $1 == status ]] || echo "Nothing was changed. To do it: $0 $* --yes"
}

# Prints a command, and runs it with --yes.
run() {
    printf '    %s\n' "$*"
    if $yes; then "$@"; fi
}

# The same for a value that is written to a file.
put() {
    printf '    echo %s > %s\n' "$1" "$2"
    if $yes; then echo "$1" >"$2"; fi
}

die() {
    echo "$0: $*" >&2
    exit 1
}

status() {
    echo "NICs:"
    local device class driver name
    for device in "$sys"/bus/pci/devices/*; do
        [[ -e $device/class ]] || continue
        class=$(<"$device/class")
        [[ $class == 0x02* ]] || continue
        driver=$(driver_of "$device")
        name=$(cd "$device" && compgen -G 'net/*' || cd "$device" && compgen -G 'virtio*/net/*' || true)
        name=${name##*/}
        printf '  %s  driver %-12s node %-3s %s\n' "${device##*/}" "${driver:-none}" "$(cat "$device/numa_node" 2>/dev/null || echo ?)" "$name"
    done
    echo "IOMMU: $(iommu)"
    local free total
    total=$(cat "$sys/kernel/mm/hugepages/hugepages-2048kB/nr_hugepages" 2>/dev/null || echo 0)
    free=$(cat "$sys/kernel/mm/hugepages/hugepages-2048kB/free_hugepages" 2>/dev/null || echo 0)
    echo "Huge pages of 2 MiB: $free of $total are free"
    if ((free < 256)); then echo "  for \`dpdk: { memory: 512MiB }\`: $0 hugepages 256"; fi
    local isolated
    isolated=$(cat "$sys/devices/system/cpu/isolated" 2>/dev/null || true)
    if [[ -n $isolated ]]; then
        echo "Isolated cores: $isolated"
    else
        echo "Isolated cores: none. For the cores C of workers.cores add to the kernel's command line"
        echo "  isolcpus=C nohz_full=C rcu_nocbs=C   (GRUB_CMDLINE_LINUX in /etc/default/grub, then update-grub and restart)"
    fi
}

iommu() {
    if compgen -G "$sys/kernel/iommu_groups/*" >/dev/null; then
        echo "on"
    else
        echo "off: add intel_iommu=on or amd_iommu=on, and iommu=pt, to the kernel's command line. Without one, vfio-pci
  works only with its enable_unsafe_noiommu_mode, and the NIC can write anywhere."
    fi
}

driver_of() {
    [[ -e $1/driver ]] && basename "$(readlink -f "$1/driver")" || true
}

nic() {
    local device=$sys/bus/pci/devices/${1,,}
    [[ $1 =~ ^[0-9a-fA-F]{4}:[0-9a-fA-F]{2}:[0-9a-fA-F]{2}\.[0-7]$ ]] || die "$1 is no PCI address such as 0000:65:00.0"
    [[ -e $device ]] || die "there is no PCI device $1: see \`$0 status\`"
    echo "$device"
}

bind() {
    local device driver interface
    device=$(nic "$1")
    driver=$(driver_of "$device")
    [[ $driver == vfio-pci ]] && die "$1 is bound to vfio-pci already"
    case $driver in
        mlx4_core | mlx5_core | mana) die "$1 has $driver, which DPDK works beside: it needs no binding" ;;
    esac
    for interface in "$device"/net/* "$device"/virtio*/net/*; do
        interface=${interface##*/}
        # This host may be reached through it.
        if [[ $interface != '*' ]] && awk -v i="$interface" '$1 == i && $2 == "00000000" { found = 1 } END { exit !found }' "$proc/net/route" 2>/dev/null; then
            die "$1 is $interface, which the default route of this host leads through; it stays"
        fi
    done
    echo "IOMMU: $(iommu)"
    echo "To give $1 (now ${driver:-no driver}) to vfio-pci:"
    run modprobe vfio-pci
    if command -v driverctl >/dev/null; then
        run driverctl set-override "${1,,}" vfio-pci
    else
        command -v dpdk-devbind.py >/dev/null || die "neither driverctl nor dpdk-devbind.py is there: apt-get install driverctl"
        run dpdk-devbind.py --bind=vfio-pci "${1,,}"
    fi
}

unbind() {
    local device
    device=$(nic "$1")
    echo "To give $1 (now $(driver_of "$device")) back to the kernel:"
    if command -v driverctl >/dev/null; then
        run driverctl unset-override "${1,,}"
    else
        put "" "$device/driver_override"
        [[ -n $(driver_of "$device") ]] && put "${1,,}" "$device/driver/unbind"
        put "${1,,}" "$sys/bus/pci/drivers_probe"
    fi
}

hugepages() {
    [[ $1 =~ ^[0-9]+$ ]] || die "$1 is no number of pages"
    echo "To reserve $1 huge pages of 2 MiB ($(($1 * 2)) MiB) until the next restart:"
    put "$1" "$sys/kernel/mm/hugepages/hugepages-2048kB/nr_hugepages"
    echo "For good: vm.nr_hugepages = $1 in a file of /etc/sysctl.d"
}

main "$@"
