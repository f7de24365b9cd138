#!/usr/bin/env bash
# Counts the instructions that a packet costs in the worker, by callgrind: the same on a quiet and on a noisy machine, so
# a change of one in a hundred shows. Compares with bench/instructions.txt and fails when a case got more than 3 in a
# hundred dearer; RECORD=1 writes the file anew. Two runs of different length, so that start-up is no part of it.
#
# The AEAD call is in it: that of aws-lc-rs on the CPU that valgrind shows.
set -euo pipefail
cd "$(dirname "$0")/.."

bench=target/release/spillway-bench
recorded=bench/instructions.txt
short=640
long=6400
# Else the program starts itself again, which valgrind does not follow.
export GLIBC_TUNABLES=glibc.malloc.hugetlb=0

command -v valgrind >/dev/null || { echo "needs valgrind: apt-get install valgrind" >&2; exit 1; }
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

# Instructions within Worker::poll for so many packets.
count() {
    local direction=$1 size=$2 sas=$3 packets=$4 out="$work/$1-$2-$3-$4"
    valgrind --tool=callgrind --toggle-collect='dataplane::worker::Worker::poll' --callgrind-out-file="$out" \
        "$bench" fixed --direction "$direction" --size "$size" --sas "$sas" --packets "$packets" >/dev/null 2>"$out.log" ||
        { cat "$out.log" >&2; exit 1; }
    awk '/^(summary|totals):/ { n = $2 } END { print n + 0 }' "$out"
}

status=0
: >"$work/now"
for case in "outbound 64 1" "inbound 64 1" "outbound 1420 1" "inbound 1420 1" "outbound 64 1000" "inbound 64 1000"; do
    read -r direction size sas <<<"$case"
    a=$(count "$direction" "$size" "$sas" "$short")
    b=$(count "$direction" "$size" "$sas" "$long")
    now=$(((b - a) / (long - short)))
    echo "$direction $size $sas $now" >>"$work/now"
    before=$(awk -v d="$direction" -v z="$size" -v n="$sas" '$1 == d && $2 == z && $3 == n { print $4 }' "$recorded" 2>/dev/null || true)
    verdict=""
    if [ -n "$before" ] && [ "${RECORD:-0}" != 1 ] && ((now * 100 > before * 103)); then
        verdict="  MORE THAN 3 % DEARER"
        status=1
    fi
    printf '%-9s %5s B, %5s SAs: %5d instructions a packet (recorded: %s)%s\n' \
        "$direction" "$size" "$sas" "$now" "${before:-none}" "$verdict"
done
[ "${RECORD:-0}" != 1 ] || cp "$work/now" "$recorded"
exit $status
