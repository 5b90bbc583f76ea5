#!/usr/bin/env bash
# Lawton's strategies and DRO on one of the real question sets: searched learning rates, three seeds, shared stages. Needs ../shared
# and python3. Stopped, the same command goes on.
#
#   bash benches/lawton.sh {nq-qed|hotpotqa|popqa} FOLDER
#
# From the environment: ENCODER (all-MiniLM-L6-v2), PRECISION (f32; bf16, int8) of passages, INDEX (FOLDER/index), TEST (300 questions reported), STEPS (40 of 8 questions),
# DRO_STEPS (12), EVERY (half of STEPS: refreshes where passages train), LR_ENCODER and LR_GENERATOR of settings that do not search, SETTINGS (benches/lawton.toml), SHARED (../shared), RAGTUNE.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
. tests/setup.sh
set_="${1:?usage: bash benches/lawton.sh nq-qed|hotpotqa|popqa FOLDER}"
out="${2:?usage: bash benches/lawton.sh $set_ FOLDER}"
shared="${SHARED:-../shared}"
encoder="${ENCODER:-$shared/models/all-MiniLM-L6-v2}"
index="${INDEX:-$out/index}"
ragtune="${RAGTUNE:-${CARGO_TARGET_DIR:-target}/release/ragtune}"
steps="${STEPS:-40}"
mkdir -p "$out"
data="$shared/data/$set_"
if [ -f "$data/questions_dev.jsonl" ]; then
  splits=(--questions "$data/questions_train.jsonl" --held-out "$data/questions_dev.jsonl")
else
  splits=(--questions "$data/questions.jsonl")
fi
[ -f "$out/test.jsonl" ] || python3 benches/peers/splits.py "${splits[@]}" --test "${TEST:-300}" --out "$out"
# An index of its own; one that was begun goes on, one that is there is left as it is.
[ -n "${INDEX:-}" ] || "$ragtune" index build --corpus "$data/corpus.jsonl" --encoder "$encoder" --precision "${PRECISION:-f32}" --out "$index"
sed -e "s|@OUT@|$out|" -e "s|@INDEX@|$index|" -e "s|@SHARED@|$shared|" -e "s|@STEPS@|$steps|" -e "s|@DRO_STEPS@|${DRO_STEPS:-12}|" -e "s|@EVERY@|${EVERY:-$((steps / 2))}|" \
  -e "s|@LR_ENCODER@|${LR_ENCODER:-3e-5}|" -e "s|@LR_GENERATOR@|${LR_GENERATOR:-3e-4}|" \
  "${SETTINGS:-benches/lawton.toml}" >"$out/compare.toml"
"$ragtune" compare --config "$out/compare.toml" --html "$out/report.html" | tee "$out/comparison.txt"
"$ragtune" compare --config "$out/compare.toml" --markdown >"$out/comparison.md"
"$ragtune" compare --config "$out/compare.toml" --json >"$out/comparison.json"
