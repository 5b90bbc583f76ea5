#!/usr/bin/env bash
# Every strategy once on real questions, briefly: does its loss fall, does what should train, what does a step cost? It reads the same
# TRAIN questions three times, so that losses of the first and the last time are of the same questions. Needs ../shared and a python3
# with bm25s (whose scores are the teacher of those strategies that want one). Stopped, the same command goes on.
#
#   bash benches/every.sh FOLDER
#
# From the environment: SET (nq-qed), TRAIN (32 questions), STEPS (24 of 4 questions), EVAL_LIMIT (60), INDEX (FOLDER/index), ENCODER (all-MiniLM-L6-v2), PYTHON
# (python3), SHARED (../shared), RAGTUNE.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
. tests/setup.sh
out="${1:?usage: bash benches/every.sh FOLDER}"
shared="${SHARED:-../shared}"
python="${PYTHON:-python3}"
encoder="${ENCODER:-$shared/models/all-MiniLM-L6-v2}"
index="${INDEX:-$out/index}"
ragtune="${RAGTUNE:-${CARGO_TARGET_DIR:-target}/release/ragtune}"
data="$shared/data/${SET:-nq-qed}"
mkdir -p "$out"
if [ ! -f "$out/test.jsonl" ]; then
  "$python" benches/peers/splits.py --questions "$data/questions_train.jsonl" --held-out "$data/questions_dev.jsonl" --train "${TRAIN:-32}" --out "$out"
  "$python" benches/peers/teacher.py --corpus "$data/corpus.jsonl" --questions "$out/train.jsonl"
fi
# An index of its own; one that was begun goes on, one that is there is left as it is.
[ -n "${INDEX:-}" ] || "$ragtune" index build --corpus "$data/corpus.jsonl" --encoder "$encoder" --out "$index"
sed -e "s|@OUT@|$out|; s|@INDEX@|$index|; s|@SHARED@|$shared|; s|@STEPS@|${STEPS:-24}|; s|@EVAL_LIMIT@|${EVAL_LIMIT:-60}|" \
  benches/every.toml >"$out/compare.toml"
"$ragtune" compare --config "$out/compare.toml" | tee "$out/comparison.txt"
"$python" benches/every.py "$out" | tee "$out/every.md"
