#!/usr/bin/env bash
# Installs what the tests use: network tools, strongSwan, DPDK and a user-mode Linux from Debian, scapy and cryptography from
# PyPI for those with real peers; and valgrind, which follows secrets through the crypto engines.
# Does nothing when they are there. Without root it says what lacks; the tests that need it then say SKIPPED.
set -euo pipefail

declare -A packages=(
    [ip]=iproute2 [ping]=iputils-ping [iperf3]=iperf3 [tshark]=tshark [ethtool]=ethtool [tcpdump]=tcpdump
    [nft]=nftables [swanctl]=strongswan-swanctl [/usr/lib/ipsec/charon]=strongswan-charon
    [linux.uml]=user-mode-linux [unshare]=util-linux [valgrind]=valgrind [/usr/bin/python3]=python3
)
missing=()
for tool in "${!packages[@]}"; do
    command -v "$tool" >/dev/null || missing+=("${packages[$tool]}")
done
# Plugins of strongSwan: ESP in user space and EAP-TLS; EAP-MSCHAPv2; X25519 and ChaCha20.
plugins=/usr/lib/ipsec/plugins/libstrongswan
[[ -e $plugins-kernel-libipsec.so && -e $plugins-eap-tls.so ]] || missing+=(libcharon-extra-plugins)
[[ -e $plugins-eap-mschapv2.so ]] || missing+=(libcharon-extauth-plugins)
[[ -e $plugins-curve25519.so ]] || missing+=(libstrongswan-extra-plugins)
[[ -e $plugins-openssl.so ]] || missing+=(libstrongswan-standard-plugins)
# DPDK 22.11 or newer with its drivers, and libclang for its bindings.
pkg-config --atleast-version 22.11 libdpdk 2>/dev/null || missing+=(pkg-config libdpdk-dev dpdk)
command -v dpdk-testpmd >/dev/null || missing+=(dpdk-dev)
command -v clang >/dev/null || missing+=(clang)
# The bench's peer is a library.
ldconfig -p | grep -q libIPSec_MB.so.1 || missing+=(libipsec-mb1)
python3 -c 'import ensurepip' 2>/dev/null || missing+=(python3-venv)
if ((${#missing[@]})); then
    if ((EUID == 0)); then
        export DEBIAN_FRONTEND=noninteractive
        apt-get update -qq
        # The tests run charon themselves: none is to start with the system and take the ports of IKE.
        policy=/usr/sbin/policy-rc.d
        if [[ ! -e $policy ]]; then
            printf '#!/bin/sh\nexit 101\n' >"$policy"
            chmod +x "$policy"
            trap 'rm -f "$policy"' EXIT
        fi
        apt-get install -y -qq --no-install-recommends "${missing[@]}"
    else
        echo "missing, and not installed without root: ${missing[*]}" >&2
    fi
fi

# A directory of its own, so that Debian's Python stays as it is.
venv=target/python
if ! "$venv/bin/python" -c 'import scapy, cryptography' 2>/dev/null; then
    python3 -m venv "$venv"
    "$venv/bin/pip" install --quiet "$@"
fi
