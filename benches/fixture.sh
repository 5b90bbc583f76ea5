#!/usr/bin/env bash
# The four strategies with the fixture models on the fixture corpus, three seeds, joint with trained passages at
# --refresh-every 0, 50 and 200. Finished runs are kept, so that an interrupted series goes on.
#
#   bash benches/fixture.sh FOLDER
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
. tests/setup.sh
out="${1:?usage: bash benches/fixture.sh FOLDER}"
ragtune="${RAGTUNE:-${CARGO_TARGET_DIR:-target}/release/ragtune}"
mkdir -p "$out"
# One that was begun goes on, one that is there is left as it is.
"$ragtune" index build --corpus fixtures/nq/corpus.jsonl --encoder fixtures/models/encoder --out "$out/index"

train() {
  local name="$1"
  shift
  if [ -d "$out/$name/checkpoints" ]; then
    "$ragtune" train --resume "$out/$name"
  elif [ ! -f "$out/$name/scores-final.jsonl" ]; then
    "$ragtune" train --index "$out/index" --questions fixtures/nq/train.jsonl --eval-questions fixtures/nq/test.jsonl \
      --generator fixtures/models/qa-llama --steps "${STEPS:-210}" --batch-size "${BATCH:-2}" --top-k "${TOP_K:-3}" \
      --lr-generator "${LR_GENERATOR:-1e-4}" --lr-encoder "${LR_ENCODER:-5e-5}" --checkpoint-every 50 --out "$out/$name" "$@"
  fi
}

for seed in ${SEEDS:-0 1 2}; do
  train "frozen-$seed" --strategy frozen --seed "$seed"
  BATCH=16 train "embedder-$seed" --strategy embedder --train-passages true --seed "$seed"
  train "generator-$seed" --strategy generator --seed "$seed"
  for every in 0 50 200; do
    train "joint-$every-$seed" --strategy joint --train-passages true --refresh-every "$every" --seed "$seed"
  done
done
runs=("$out"/frozen-? "$out"/embedder-? "$out"/generator-? "$out"/joint-*-?)
"$ragtune" compare --group-seeds "${runs[@]}" --html "$out/report.html" | tee "$out/comparison.txt"
"$ragtune" compare --group-seeds "${runs[@]}" --markdown >"$out/comparison.md"
"$ragtune" compare --group-seeds "${runs[@]}" --json >"$out/comparison.json"
