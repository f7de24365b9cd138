#!/usr/bin/env bash
# Counts the instructions that a packet costs in the worker, by callgrind: the same on a quiet and on a noisy machine, so
# a change of one in a hundred shows. Compares with bench/instructions.txt and fails when a case got more than 3 in a
# hundred dearer; RECORD=1 writes the file anew. Two runs of different length, so that start-up is no part of it.
#
# The AEAD call is in it: that of aws-lc-rs on the CPU that valgrind shows, and our own engine for the plainest CPU, which is the
# one of ours that valgrind can run.
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
    local engine=$1 direction=$2 size=$3 sas=$4 packets=$5 out="$work/$1-$2-$3-$4-$5"
    valgrind --tool=callgrind --toggle-collect='dataplane::worker::Worker::poll' --callgrind-out-file="$out" \
        "$bench" fixed --engine "$engine" --direction "$direction" --size "$size" --sas "$sas" --packets "$packets" >/dev/null 2>"$out.log" ||
        { cat "$out.log" >&2; exit 1; }
    awk '/^(summary|totals):/ { n = $2 } END { print n + 0 }' "$out"
}

status=0
: >"$work/now"
for case in {aws-lc,aes-ni}" "{"outbound 64 1","inbound 64 1","outbound 1420 1","inbound 1420 1","outbound 64 1000","inbound 64 1000"}; do
    read -r engine direction size sas <<<"$case"
    a=$(count "$engine" "$direction" "$size" "$sas" "$short")
    b=$(count "$engine" "$direction" "$size" "$sas" "$long")
    now=$(((b - a) / (long - short)))
    echo "$case $now" >>"$work/now"
    before=$(awk -v c="$case" '$1 " " $2 " " $3 " " $4 == c { print $5 }' "$recorded" 2>/dev/null || true)
    verdict=""
    if [ -n "$before" ] && [ "${RECORD:-0}" != 1 ] && ((now * 100 > before * 103)); then
        verdict="  MORE THAN 3 % DEARER"
        status=1
    fi
    printf '%-7s %-9s %5s B, %5s SAs: %5d instructions a packet (recorded: %s)%s\n' \
        "$engine" "$direction" "$size" "$sas" "$now" "${before:-none}" "$verdict"
done
[ "${RECORD:-0}" != 1 ] || cp "$work/now" "$recorded"
exit $status
