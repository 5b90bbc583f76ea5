#!/usr/bin/env bash
# The four strategies on real data: all-MiniLM-L6-v2 and qa-llama on nq-qed (8100 passages), train -> dev, one seed, joint
# with trained passages and two refreshes. Needs ../shared. Finished runs are kept, so that an interrupted series goes on.
#
#   bash benches/nq.sh FOLDER
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
. tests/setup.sh
out="${1:?usage: bash benches/nq.sh FOLDER}"
shared="${SHARED:-../shared}"
ragtune="${RAGTUNE:-${CARGO_TARGET_DIR:-target}/release/ragtune}"
mkdir -p "$out"
# One that was begun goes on, one that is there is left as it is.
"$ragtune" index build --corpus "$shared/data/nq-qed/corpus.jsonl" \
  --encoder "$shared/models/all-MiniLM-L6-v2" --out "$out/index"

train() {
  local name="$1"
  shift
  if [ -d "$out/$name/checkpoints" ]; then
    "$ragtune" train --resume "$out/$name"
  elif [ ! -f "$out/$name/scores-final.jsonl" ]; then
    "$ragtune" train --index "$out/index" --questions "$shared/data/nq-qed/questions_train.jsonl" \
      --eval-questions "$shared/data/nq-qed/questions_dev.jsonl" --generator "$shared/models/qa-llama" \
      --steps "${STEPS:-150}" --batch-size "${BATCH:-4}" --top-k 4 --lr-generator "${LR_GENERATOR:-2e-4}" \
      --lr-encoder "${LR_ENCODER:-2e-5}" --eval-limit "${EVAL_LIMIT:-0}" --checkpoint-every 25 --out "$out/$name" "$@"
  fi
}

train frozen --strategy frozen
train generator --strategy generator
train joint --strategy joint --train-passages true --refresh-every "${REFRESH_EVERY:-60}"
BATCH=16 train embedder --strategy embedder --train-passages true
runs=("$out/frozen" "$out/embedder" "$out/generator" "$out/joint")
"$ragtune" compare "${runs[@]}" --html "$out/report.html" | tee "$out/comparison.txt"
"$ragtune" compare "${runs[@]}" --markdown >"$out/comparison.md"
"$ragtune" compare "${runs[@]}" --json >"$out/comparison.json"
