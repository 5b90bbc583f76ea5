#!/usr/bin/env bash
# Search through ragtune's graph beside hnsw_rs's own search, hnswlib, faiss, usearch and exact search, on one thread, in turn,
# over the same vectors (MiniLM's of nq-qed); prints questions a second at equal recall@10. Needs ../shared, or VECTORS, and the
# packages of benches/peers/requirements.txt.
#
#   bash benches/search.sh FOLDER
#   SIZES="10000 100000 1000000" bash benches/search.sh FOLDER     growth instead: build, open, search and memory by size
#   OPENING="10000 100000 1000000" bash benches/search.sh FOLDER   seconds to open the graph, mapped vectors and codes by size
#
# From the environment: ROUNDS (3), PASSES over all questions a round (5), EFS (widths of the beam, with commas), LINKS (16),
# EF_CONSTRUCTION (200), VECTORS (a folder with passages.f32 and questions.f32; made from nq-qed when not given), DIM (384),
# THREADS of opening (all), NOISE of repeated passages (0.5, the length of what is added), CLOCK (seconds; cpu_seconds where
# others use the machine), PYTHON (python3), SHARED (../shared).
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
. tests/setup.sh
out="${1:?usage: bash benches/search.sh FOLDER}"
shared="${SHARED:-../shared}"
python="${PYTHON:-python3}"
vectors="${VECTORS:-${CARGO_TARGET_DIR:-target}/search/vectors}"
dim="${DIM:-384}"
peers=benches/peers

"$python" -c 'import numpy, hnswlib, faiss, usearch' 2>/dev/null ||
  stop "\`$python\` lacks a package of the peers" "pip install -r $peers/requirements.txt in an environment and name its python with PYTHON"
if [ ! -f "$vectors/passages.f32" ] || [ ! -f "$vectors/questions.f32" ]; then
  [ -f "$shared/data/nq-qed/corpus.jsonl" ] && [ -f "$shared/models/all-MiniLM-L6-v2/model.safetensors" ] ||
    stop "there are no vectors in \`$vectors\` and no nq-qed in \`$shared\` to make them from" \
      "put nq-qed (data/nq-qed) and all-MiniLM-L6-v2 (models/all-MiniLM-L6-v2) into one folder and name it with SHARED"
  printf 'search: embedding nq-qed, which takes minutes once\n' >&2
  "$python" "$peers/ann_inputs.py" --shared "$shared" --encoder "$shared/models/all-MiniLM-L6-v2" --out "$vectors"
fi
mkdir -p "$out"
cargo bench --profile release --bench search --no-run
# The path of the program: cargo itself must not run between measurements.
search=$(cargo bench --profile release --bench search --no-run --message-format=json | "$python" -c '
import json, sys
built = [json.loads(line) for line in sys.stdin if line.startswith("{")]
print([one["executable"] for one in built if one.get("executable") and one["target"]["name"] == "search"][-1])')

common=(--vectors "$vectors" --dim "$dim" --links "${LINKS:-16}" --ef-construction "${EF_CONSTRUCTION:-200}")
[ -z "${EFS:-}" ] || common+=(--efs "$EFS")
export OMP_NUM_THREADS=1
"$python" "$peers/environment.py" >>"$out/environment.jsonl"

# once ROUND COMMAND...: one process, its lines.
once() {
  local round="$1" load at
  shift
  load=$(cut -d' ' -f1 /proc/loadavg)
  at=$(date -u +%FT%TZ)
  printf 'search: round %s: %s\n' "$round" "$*" >&2
  "$@" | sed "s/^{/{\"round\": $round, \"load\": $load, \"at\": \"$at\", /" >>"$out/raw.jsonl"
}

: >"$out/raw.jsonl"
if [ -n "${OPENING:-}" ]; then
  for size in $OPENING; do
    once 1 "$search" "${common[@]}" --opening --passages "$size" --noise "${NOISE:-0.5}" --passes "${PASSES:-5}" \
      --threads "${THREADS:-$(nproc)}" --graph "$out/opening-$size"
  done
  cat "$out/raw.jsonl"
  exit 0
fi
if [ -n "${SIZES:-}" ]; then
  for size in $SIZES; do
    once 1 "$search" "${common[@]}" --growth --passages "$size" --noise "${NOISE:-0.5}" --passes "${PASSES:-3}" \
      --efs "${EFS:-32,64,128,256}" --graph "$out/growth-$size.graph"
    rm -f "$out/growth-$size.graph"
  done
  cat "$out/raw.jsonl"
  exit 0
fi
for round in $(seq "${ROUNDS:-3}"); do
  once "$round" "$search" "${common[@]}" --passes "${PASSES:-5}"
  once "$round" "$python" "$peers/ann.py" "${common[@]}" --passes "${PASSES:-5}"
done
"$python" "$peers/ann_table.py" "$out" --clock "${CLOCK:-seconds}"
