#!/usr/bin/env bash
# How a whole index grows: creating it, building its graph, opening, searching and refreshing it, memory and disk, by the number of
# passages, with fitted exponents. Real passages of nq-qed and their MiniLM vectors, repeated with noise. Needs ../shared and the
# packages of benches/peers/requirements.txt.
#
#   bash benches/growth.sh FOLDER
#
# From the environment: SIZES ("10000 100000 1000000"; the last takes more than an hour and 7 GB of disk), EF_CONSTRUCTION (200), NOISE
# (0.5, length of what is added to a repeated vector), DRIFT (0.1, length by which a refresh moves every vector), VECTORS (a folder with
# passages.f32 and questions.f32; those of benches/search.sh when not given), CORPUS, DIM (384), PYTHON (python3), SHARED (../shared).
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
. tests/setup.sh
out="${1:?usage: bash benches/growth.sh FOLDER}"
shared="${SHARED:-../shared}"
python="${PYTHON:-python3}"
vectors="${VECTORS:-${CARGO_TARGET_DIR:-target}/search/vectors}"
corpus="${CORPUS:-$shared/data/nq-qed/corpus.jsonl}"
"$python" -c 'import numpy' 2>/dev/null ||
  stop "\`$python\` lacks numpy" "pip install -r benches/peers/requirements.txt in an environment and name its python with PYTHON"
if [ ! -f "$vectors/passages.f32" ] || [ ! -f "$vectors/questions.f32" ]; then
  "$python" benches/peers/ann_inputs.py --shared "$shared" --encoder "$shared/models/all-MiniLM-L6-v2" --out "$vectors"
fi
mkdir -p "$out"
cargo bench --profile release --bench growth --no-run
growth=$(cargo bench --profile release --bench growth --no-run --message-format=json | "$python" -c '
import json, sys
built = [json.loads(line) for line in sys.stdin if line.startswith("{")]
print([one["executable"] for one in built if one.get("executable") and one["target"]["name"] == "growth"][-1])')
"$python" benches/peers/environment.py >>"$out/environment.jsonl"
: >"$out/raw.jsonl"
for size in ${SIZES:-10000 100000 1000000}; do
  rm -rf "$out/index"
  for work in make open refresh; do
    printf 'growth: %s passages: %s\n' "$size" "$work" >&2
    "$growth" --work "$work" --vectors "$vectors" --corpus "$corpus" --dim "${DIM:-384}" --passages "$size" --ef-construction "${EF_CONSTRUCTION:-200}" --noise "${NOISE:-0.5}" \
      --drift "${DRIFT:-0.1}" --out "$out/index" >>"$out/raw.jsonl"
  done
done
rm -rf "$out/index"
"$python" benches/peers/growth_table.py "$out" | tee "$out/table.md"
