#!/usr/bin/env bash
# Looks at and prepares a host for ports that DPDK drives.
#
#   dpdk-host.sh status              NICs and their drivers, IOMMU, huge pages, isolated cores, and what is missing
#   dpdk-host.sh bind ADDRESS        gives a NIC (0000:65:00.0) to vfio-pci
#   dpdk-host.sh unbind ADDRESS      gives it back to the kernel's driver
#   dpdk-host.sh hugepages COUNT     has this many huge pages of 2 MiB reserved in all
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
    # The number is that of all pages, and others have some of them.
    if ((free < 256)); then echo "  for \`dpdk: { memory: 512MiB }\`: $0 hugepages $((total + 256 - free))"; fi
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

interfaces_of() {
    local interface
    for interface in "$1"/net/* "$1"/virtio*/net/*; do
        [[ -e $interface ]] && echo "${interface##*/}"
    done
    return 0
}

# Whether a default route leads through an interface, or through one on top of it, whose name is printed then: a bond, a team
# or a bridge that it is in, a VLAN or a macvlan on it, a VRF, at any depth.
way_out() {
    local -A seen=()
    local -a open=("$1")
    local interface upper
    while ((${#open[@]})); do
        interface=${open[0]}
        open=("${open[@]:1}")
        [[ -n ${seen[$interface]:-} ]] && continue
        seen[$interface]=1
        if leads_out "$interface"; then
            [[ $interface == "$1" ]] || echo "$interface"
            return 0
        fi
        # The kernel has a link to each interface that is directly above.
        for upper in "$sys/class/net/$interface"/upper_*; do
            [[ -e $upper || -L $upper ]] && open+=("${upper##*/upper_}")
        done
    done
    return 1
}

# Whether a default route names the interface, in whatever words: 0.0.0.0/0 or its halves, ::/0 to 2000::/3. The kernel's files
# have the main table; where there is `ip`, all tables, and routes with several ways.
leads_out() {
    awk -v i="$1" '$1 == i && $2 == "00000000" { found = 1 } END { exit !found }' "$proc/net/route" 2>/dev/null ||
        awk -v i="$1" '$10 == i && $2 ~ /^0[0-3]$/ { found = 1 } END { exit !found }' "$proc/net/ipv6_route" 2>/dev/null ||
        { ip -o -4 route show table all || true; ip -o -6 route show table all || true; } 2>/dev/null |
        awk -v i="$1" '$1 ~ /^(default|0\.0\.0\.0\/1|::\/[0-3]|2000::\/3)$/ {
            for (at = 2; at < NF; at++) if ($at == "dev" && $(at + 1) == i) found = 1
        } END { exit !found }'
}

bind() {
    local device driver interface way
    device=$(nic "$1")
    driver=$(driver_of "$device")
    [[ $driver == vfio-pci ]] && die "$1 is bound to vfio-pci already"
    case $driver in
        mlx4_core | mlx5_core | mana) die "$1 has $driver, which DPDK works beside: it needs no binding" ;;
    esac
    for interface in $(interfaces_of "$device"); do
        # This host may be reached through it.
        if way=$(way_out "$interface"); then
            die "$1 is $interface, which the default route of this host leads through${way:+ by way of $way}; it stays"
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
