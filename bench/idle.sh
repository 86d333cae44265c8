#!/usr/bin/env bash
# Resident memory and CPU of an idle cluster of 2 roots and 4 leaves: fresh, after the sample load, and at rest after it.
# Usage: cargo build --release && bench/idle.sh [--sidecars]
set -euo pipefail
cd "$(dirname "$0")/.."
trawl=$PWD/target/release/trawl
directory=$(mktemp -d)
sidecars=--no-sidecars
[ "${1:-}" = --sidecars ] && sidecars=
"$trawl" --log warn up --data-dir "$directory" --http 127.0.0.1:0 $sidecars >"$directory/up.log" 2>&1 &
up=$!
trap 'kill -TERM $up 2>/dev/null; wait $up 2>/dev/null || true; rm -rf "$directory"' EXIT
for _ in $(seq 200); do grep -q '^ready' "$directory/up.log" && break; sleep 0.1; done
endpoint=$(sed -n 's/^ready: \([^ ]*\).*/\1/p' "$directory/up.log")
processes() { echo $up; sed -n 's/.*"pid": \([0-9]*\).*/\1/p' "$directory/cluster.json"; }
resident() { for p in $(processes); do awk '/^VmRSS/{print $2}' "/proc/$p/status"; done | awk '{s += $1} END {printf "%.0f MB", s / 1024}'; }
proportional() { for p in $(processes); do awk '/^Pss:/{print $2}' "/proc/$p/smaps_rollup"; done | awk '{s += $1} END {printf "%.0f MB", s / 1024}'; }
memory() { echo "$(resident), $(proportional) with pages shared between processes counted once"; }
ticks() { for p in $(processes); do awk '{print $14 + $15}' "/proc/$p/stat"; done | awk '{s += $1} END {print s}'; }

sleep 5
echo "fresh:            $(memory)"
"$trawl" load --endpoint "$endpoint" --index catches --id id --mapping data/samples/mapping.json --refresh data/samples/catches.ndjson.gz
echo "after the load:   $(memory)"
sleep 30
echo "30 s later:       $(memory)"
before=$(ticks)
sleep 30
echo "CPU while idle:   $(awk -v t=$(($(ticks) - before)) -v hz="$(getconf CLK_TCK)" 'BEGIN {printf "%.2f", 100 * t / hz / 30}') % of a core"
