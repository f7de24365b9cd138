#!/usr/bin/env bash
# Counts the checks on the packets' way that can end in a panic and that the optimiser left: calls of the functions that report an
# index or a slice out of bounds, a full ArrayVec, a copy of other length or a failed unwrap, in the functions of the release build
# that every packet passes. Compares with bench/bounds.txt and fails when a part has more than is recorded; RECORD=1 writes the
# file anew. -v says which function has which.
#
# What only runs while a panic unwinds and what allocates is no part of it.
set -euo pipefail
cd "$(dirname "$0")/.."

bench=target/release/spillway-bench
recorded=bench/bounds.txt
for tool in objdump nm readelf; do
    command -v "$tool" >/dev/null || { echo "needs $tool: apt-get install binutils" >&2; exit 1; }
done
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

nm -C "$bench" >"$work/names"
readelf -rW "$bench" >"$work/places"
objdump -d --no-show-raw-insn -C "$bench" >"$work/code"

# Lines of `count part what function`. std is called by way of a table of addresses, which relocations fill.
awk '
function wide(address) { address = sprintf("%16s", address); gsub(/ /, "0", address); return address }
# What a function is part of, or nothing.
function part_of(f) {
    if (f ~ /expand_key|starting_at|self_test|::new|drop_in_place/) return ""
    if (f ~ /vaes::avx512/) return "vaes-avx512"
    if (f ~ /vaes::narrow.*avx2::Avx2/) return "vaes-avx2"
    if (f ~ /vaes::narrow.*aes_ni::AesNi/) return "aes-ni"
    if (f ~ /crypto::cbc_hmac::/) return "cbc-hmac"
    if (f ~ /crypto::aws_lc::(AwsLc as .*Engine>::(seal|open)|aead)/) return "aws-lc"
    if (f ~ /dataplane::worker::Worker::poll|dataplane::crypto::Crypto::(seal|open)/) return "path"
    if (f ~ /dataplane::worker::(classify|inbound|opened|outbound|transit|transmit|usual|remembered|admission|next_hops)::/)
        return "path"
    if (f ~ /dataplane::(esp|sa::(replay|sequence|lifetime|spi_table|counters))::/) return "path"
    if (f ~ /lpm::tree::Tree<T>::longest|policy::(rules|spd)::.*find|RouteTable::lookup|dataplane::buffer::Packet/) return "path"
    return ""
}
# The kind of a panic, or nothing.
function kind_of(name) {
    if (name ~ /panic_bounds_check/) return "index"
    if (name ~ /slice_index_fail|slice_start_index|slice_end_index|slice_index_order/) return "slice"
    if (name ~ /copy_from_slice|len_mismatch_fail/) return "copy"
    if (name ~ /unwrap_failed|expect_failed|extend_panic/) return "unwrap"
    if (name ~ /panicking::panic(_fmt|_const.*)?$/) return "other"
    return ""
}
function saw(name,    kind) {
    kind = kind_of(name)
    if (part != "" && kind != "") count[part " " kind "\t" f]++
}
FILENAME == ARGV[1] { name[$1] = substr($0, 20); next }
FILENAME == ARGV[2] { if ($3 == "R_X86_64_RELATIVE") table[$1] = wide($4); next }
/^[0-9a-f]+ <.*>:$/ { f = $0; sub(/^[0-9a-f]+ </, "", f); sub(/>:$/, "", f); part = part_of(f); next }
part != "" && /\t(call|jmp) / {
    if (match($0, /# [0-9a-f]+ /)) saw(name[table[wide(substr($0, RSTART + 2, RLENGTH - 3))]])
    else if (match($0, /(call|jmp) +[0-9a-f]+ /)) { split(substr($0, RSTART), words, / +/); saw(name[wide(words[2])]) }
}
END { for (key in count) print count[key] " " key }
' "$work/names" "$work/places" "$work/code" | sort -k2,3 >"$work/found"
[ -s "$work/found" ] || { echo "found nothing: is $bench a release build with symbols?" >&2; exit 1; }
[ "${1:-}" != -v ] || cat "$work/found"

awk -F'[ \t]' '{ sum[$2 " " $3] += $1 } END { for (key in sum) print key, sum[key] }' "$work/found" | sort >"$work/now"
status=0
while read -r part kind now; do
    before=$(awk -v p="$part" -v k="$kind" '$1 == p && $2 == k { print $3 }' "$recorded" 2>/dev/null || true)
    verdict=""
    if [ "${RECORD:-0}" != 1 ] && ((now > ${before:-0})); then
        verdict="  MORE"
        status=1
    fi
    printf '%-12s %-7s %3d (recorded: %s)%s\n' "$part" "$kind" "$now" "${before:-none}" "$verdict"
done <"$work/now"
[ "${RECORD:-0}" != 1 ] || cp "$work/now" "$recorded"
exit $status
