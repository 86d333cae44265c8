#!/usr/bin/env bash
# How long a cluster takes to come back to its full replica count after a leaf was killed, with no grace period, and how
# fast replicas are copied compared with `cp` of the same files on the same disk.
# Usage: bench/recovery.sh BINARY DOCUMENTS.ndjson.gz [MEGABYTES=1000] [ROUNDS=5]
#   The documents need an "id"; they are loaded again and again under ids of their own until the index has about so many
#   megabytes (one copy of it). Example, after cargo build --release:
#   bench/recovery.sh target/release/trawl data/samples/catches.ndjson.gz 20
# DIRECTORY=... puts the cluster there; it is removed at the end. RATE=... is --recovery-rate (0: no limit). SHARDS=... is
# 4: each needs more than 10,000 documents, else replicas are made from the log and nothing is copied.
set -euo pipefail
trawl=$(realpath "$1") documents=$(realpath "$2") megabytes=${3:-1000} rounds=${4:-5} shards=${SHARDS:-4}
directory=$(mktemp -d "${DIRECTORY:-${TMPDIR:-/tmp}}/recovery.XXXXXX")
export TRAWL_REPLACE_AFTER=0s TRAWL_RECOVERY_RATE=${RATE:-0}
"$trawl" --log warn up --data-dir "$directory" --http 127.0.0.1:0 --roots 1 --leaves 4 --no-sidecars >"$directory/up.log" 2>&1 &
up=$!
searching=
finish() {
    [ -z "$searching" ] || kill "$searching" 2>/dev/null || true
    kill -CONT $up 2>/dev/null || true
    kill -TERM $up 2>/dev/null || true
    wait $up 2>/dev/null || true
    rm -rf "$directory"
}
trap finish EXIT
for _ in $(seq 300); do grep -q '^ready' "$directory/up.log" && break; sleep 0.1; done
endpoint=$(sed -n 's/^ready: \([^ ]*\).*/\1/p' "$directory/up.log")
now() { date +%s.%N; }
since() { awk -v a="$1" -v b="$(now)" 'BEGIN {printf "%.2f", b - a}'; }
get() { curl -fsS "$endpoint$1"; }
# Rows: shard, leaf, state, bytes.
replicas() { get "/_cat/shards/set?h=shard,node,state,store&bytes=b"; }
bytes() { replicas | awk '{if ($4 > size[$1]) size[$1] = $4} END {for (s in size) sum += size[s]; printf "%.0f", sum}'; }
quiet() { until [ -z "$(get '/_cat/recovery?active_only=true&h=shard')" ]; do sleep 0.2; done; }

curl -fsS -XPUT "$endpoint/set" -H 'content-type: application/json' -d '{
  "settings": {"number_of_shards": '"$shards"', "number_of_replicas": 1},
  "mappings": {"properties": {"title": {"type": "text"}, "body": {"type": "text"}}}}' >/dev/null
started=$(now)
for ((copy = 1; ; copy++)); do
    zcat "$documents" | sed "s/\"id\": *\"/&$copy-/" |
        "$trawl" load --endpoint "$endpoint" --index set --format ndjson --id id --refresh - >/dev/null 2>&1
    size=$(bytes)
    [ "$size" -lt $((megabytes * 1000000)) ] || break
done
# Merges end, and leaves agree on what they hold.
before=0
until [ "$size" = "$before" ]; do before=$size; sleep 5; size=$(bytes); done
quiet
# So that what the leader trims is trimmed.
sleep 6
echo "set:               $copy times the documents, $(get '/set/_count' | sed 's/.*"count":\([0-9]*\).*/\1/') of them, $shards shards of" \
    "2 replicas, $((size / 1000000)) MB each copy, loaded in $(since "$started") s"

echo "copy speed:        round  cp MB/s  trawl MB/s  ratio  (trawl: from asking for a copy until it serves)"
for ((round = 1; round <= rounds; round++)); do
    from=$(replicas | awk '$1 == 0 && $3 == "STARTED" {print $2; exit}')
    to=$(for n in 0 1 2 3; do echo "leaf-$n"; done | grep -vxF "$(replicas | awk '$1 == 0 {print $2}')" | head -1)
    replica=$(echo "$directory/$from"/shards/*/0)
    index="$replica/$(cat "$replica/CURRENT")"
    copied=$(du -sb "$index" | cut -f1)
    began=$(now)
    cp -r "$index" "$directory/plain" && find "$directory/plain" -type f -exec sync {} +
    plain=$(since "$began")
    rm -rf "$directory/plain"
    "$trawl" cluster move --endpoint "$endpoint" set 0 "$from" "$to" >/dev/null
    row=
    until [ -n "$row" ]; do
        row=$(get '/_cat/recovery/set?h=shard,target_node,type,stage,bytes,time&bytes=b' |
            awk -v to="$to" '$1 == 0 && $2 == to && $4 == "done" {print $5, $6}')
        sleep 0.05
    done
    echo "$row $copied $plain $round" | awk '{
        time = $2; unit = 1
        if (sub(/ms$/, "", time)) unit = 0.001; else if (sub(/m$/, "", time)) unit = 60; else sub(/s$/, "", time)
        if ($1 == 0) { print "                   made from the log, which is not trimmed: use more documents"; exit }
        trawl = $1 / 1e6 / (time * unit); plain = $3 / 1e6 / $4
        printf "                   %5d  %7.0f  %10.0f  %5.2f\n", $5, plain, trawl, trawl / plain}'
    # Evening out moves something back, and a leaf keeps for 10 s what was taken from it.
    sleep 12; quiet
done

lost=$(replicas | awk '{print $2}' | sort | uniq -c | sort -rn | awk 'NR == 1 {print $2}')
held=$(replicas | awk -v leaf="$lost" '$2 == leaf {sum += $4; n++} END {printf "%d replicas, %.0f MB", n, sum / 1e6}')
(
    while :; do
        curl -s "$endpoint/set/_search?q=body:the&size=3" | grep -o '"timed_out":[a-z]*\|"failed":[0-9]*' | head -2 | tr '\n' ' '
        echo
    done >"$directory/searches"
) &
searching=$!
sleep 1
pid=$(tr -d '\n' <"$directory/cluster.json" | grep -o "{[^{}]*\"$lost\"[^{}]*}" | sed 's/.*"pid": *\([0-9]*\).*/\1/')
# The supervisor stands still, so that it does not start the leaf again.
kill -STOP $up
began=$(now)
kill -KILL "$pid"
full() {
    replicas | awk -v lost="$lost" -v shards="$shards" '$2 != lost && $3 == "STARTED" {n[$1]++} END {for (s = 0; s < shards; s++) if (n[s] < 2) exit 1}'
}
until full; do sleep 0.05; done
echo "leaf lost:         $lost with $held; full replica count again after $(since "$began") s" \
    "(of which up to 3 s until the leaf counts as lost)"
kill $searching 2>/dev/null || true
searching=
all=$(grep -c . "$directory/searches" || true)
bad=$(grep -vc '"timed_out":false "failed":0' "$directory/searches" || true)
echo "searches meanwhile: $all, of them failed or partial: $bad"
