#!/usr/bin/env bash
# Runs the tests of the engines with AVX-512 on an emulated CPU, for machines that have no such CPU.
#
#   dataplane/avx512/run.sh [FILTER]      FILTER is one of libtest's, or several; default: avx512 cbc_hmac
#
# Tests of constant time are left out: time says nothing there.
#
# Bochs emulates a Tiger Lake, which has AVX-512F/BW/VL, VAES and VPCLMULQDQ. On it boots a small Linux with the test
# program as all that it runs. Emulation says what an instruction computes and nothing of its speed: this is for
# correctness alone, and takes some fifteen minutes. Kernel and image are kept in target/avx512. Installs what it needs
# when it is root.
set -euo pipefail
filter=${1:-avx512 cbc_hmac}
here=$(cd "$(dirname "$0")" && pwd)
root=$(cd "$here/../.." && pwd)
out=${CARGO_TARGET_DIR:-$root/target}/avx512
mkdir -p "$out"

packages=(bochs bochsbios vgabios linux-source-6.1 flex bison bc libelf-dev xz-utils cpio xorriso isolinux syslinux-common busybox-static python3)
missing=()
for package in "${packages[@]}"; do
    dpkg-query -W -f '${Status}' "$package" 2>/dev/null | grep -q 'ok installed' || missing+=("$package")
done
if [ ${#missing[@]} -gt 0 ]; then
    [ "$(id -u)" = 0 ] || { echo "missing: ${missing[*]}; as root: apt-get install ${missing[*]}" >&2; exit 1; }
    apt-get update -q && apt-get install -y -q --no-install-recommends "${missing[@]}"
fi

# Without SMP: Bochs does not get through Linux's start of more than one CPU.
kernel=$out/bzImage
if [ ! -e "$kernel" ]; then
    rm -rf "$out/linux" && mkdir "$out/linux"
    tar xf /usr/src/linux-source-6.1.tar.xz -C "$out/linux" --strip-components 1
    (cd "$out/linux" && make -s tinyconfig && xargs ./scripts/config < "$here/kernel.config" &&
        make -s olddefconfig && make -s -j"$(nproc)" bzImage)
    cp "$out/linux/arch/x86/boot/bzImage" "$kernel"
    rm -rf "$out/linux"
fi

program=$(cd "$root" && cargo test --workspace --lib --locked --no-run --message-format=json |
    python3 -c '
import json, sys
for line in sys.stdin:
    message = json.loads(line)
    if message.get("executable") and message["target"]["name"] == "dataplane":
        print(message["executable"])')

image=$out/image
rm -rf "$image" "$out/iso" && mkdir -p "$image"/{bin,proc,dev,lib64,lib/x86_64-linux-gnu} "$out/iso/isolinux"
cp /bin/busybox "$image/bin/"
strip --strip-debug -o "$image/bin/tests" "$program"
ldd "$program" | grep -o '/[^ ]*' | while read -r library; do cp -L "$library" "$image/lib/x86_64-linux-gnu/"; done
cp -L /lib64/ld-linux-x86-64.so.2 "$image/lib64/"
cat > "$image/init" <<INIT
#!/bin/busybox sh
/bin/busybox mount -t proc none /proc
/bin/busybox mount -t devtmpfs none /dev
exec > /dev/ttyS0 2>&1
/bin/busybox grep -q 'avx512f .*vaes vpclmulqdq' /proc/cpuinfo || echo "this CPU has no AVX-512"
CI=true RUST_BACKTRACE=0 /bin/tests $filter --skip constant_time --test-threads=1
echo "exit code \$?"
/bin/busybox sleep 1000000
INIT
chmod +x "$image/init"
(cd "$image" && find . | cpio -o -H newc --quiet | gzip -1) > "$out/iso/initrd.gz"
cp "$kernel" "$out/iso/vmlinuz"
cp /usr/lib/ISOLINUX/isolinux.bin /usr/lib/syslinux/modules/bios/ldlinux.c32 "$out/iso/isolinux/"
# Features that Bochs announces and does not have: it knows neither the MSR of APERF (124) nor the one that says that fast
# strings are on, without which Linux trips over FSRM (580). The timer is the old one: Bochs's APIC is not Linux's.
cat > "$out/iso/isolinux/isolinux.cfg" <<CONF
default linux
prompt 0
timeout 0
label linux
 kernel /vmlinuz
 append initrd=/initrd.gz console=ttyS0 quiet mitigations=off tsc=reliable lpj=4000000 panic=1 acpi=off nolapic noapic idle=poll noxsaves clearcpuid=124,321,515,580
CONF
xorriso -as mkisofs -quiet -o "$out/linux.iso" -b isolinux/isolinux.bin -c isolinux/boot.cat -no-emul-boot \
    -boot-load-size 4 -boot-info-table "$out/iso" 2>/dev/null

said=$out/said.txt
rm -f "$said"
sed "s#@OUT@#$out#g" "$here/bochsrc" > "$out/bochsrc"
echo c > "$out/start"
bochs -q -f "$out/bochsrc" -unlock -rc "$out/start" > "$out/bochs.out" 2>&1 < /dev/null &
bochs=$!
# Its screen is VNC, and it waits for somebody who looks.
python3 "$here/look.py" &
looker=$!
trap 'kill $bochs $looker 2>/dev/null || true' EXIT
while kill -0 $bochs 2>/dev/null && ! grep -qa '^exit code' "$said" 2>/dev/null; do sleep 2; done
sed -n '/^running /,$p' "$said"
if grep -qa 'has no AVX-512' "$said" || ! grep -qa '^exit code 0' "$said"; then
    echo "failed; all that it said is in $said" >&2
    exit 1
fi
