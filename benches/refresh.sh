#!/usr/bin/env bash
# What it costs to keep the index true, and what it is worth: one strategy with trained passages on a real question set, once for
# every refresh policy, and a table of quality, cost and recall. Needs ../shared and python3. Stopped, the same command goes on.
#
#   bash benches/refresh.sh FOLDER
#
# From the environment: SET (nq-qed; hotpotqa), CORPUS (that of the set; ../shared/data/wiki50k/corpus.jsonl.gz has the passages of
# all sets and more), POLICIES ("full full-reuse background drift rows lazy lazy-deep lazy+full adapter never question"), STRATEGY (joint;
# embedder), STEPS (120), EVERY (40), BATCH (4), TOP_K (4), SEEDS (0), EVAL_LIMIT (200 of 300 questions), LR_ENCODER (2e-5),
# LR_GENERATOR (2e-4), GENERATOR (qa-llama), DEPTH (20; DEEP, 100, of `lazy-deep`) and AGE (10) of live ranking, SAMPLE (512) and TARGET (0.95) of drift, FIT (2048) of the adapter,
# PRECISION (f32; bf16, int8) of passages, MAX_LENGTH (the encoder's own, 256; tokens that it reads of a text), SHARED (../shared).
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
. tests/setup.sh
out="${1:?usage: bash benches/refresh.sh FOLDER}"
shared="${SHARED:-../shared}"
ragtune="${RAGTUNE:-${CARGO_TARGET_DIR:-target}/release/ragtune}"
policies="${POLICIES:-full full-reuse background drift rows lazy lazy-deep lazy+full adapter never question}"
encoder="$shared/models/all-MiniLM-L6-v2"
mkdir -p "$out"
if [ -n "${MAX_LENGTH:-}" ]; then
  reads="$(printf '{"max_seq_length": %s, "do_lower_case": false}' "$MAX_LENGTH")"
  if [ ! -d "$out/encoder" ]; then
    rm -rf "$out/encoder.part"
    cp -rL "$encoder" "$out/encoder.part"
    chmod -R u+w "$out/encoder.part"
    printf '%s\n' "$reads" >"$out/encoder.part/sentence_bert_config.json"
    mv "$out/encoder.part" "$out/encoder"
  elif [ "$(cat "$out/encoder/sentence_bert_config.json")" != "$reads" ]; then
    printf 'refresh.sh: %s was made with another MAX_LENGTH: %s\n' "$out" "$(cat "$out/encoder/sentence_bert_config.json")" >&2
    exit 2
  fi
  encoder="$out/encoder"
elif [ -d "$out/encoder" ]; then
  printf 'refresh.sh: %s was made with a MAX_LENGTH, and none is given now\n' "$out" >&2
  exit 2
fi
for policy in $policies; do
  if ! grep -q "^label = \"$policy\"$" benches/refresh.toml; then
    printf 'refresh.sh: no policy `%s` in benches/refresh.toml; there are: %s\n' "$policy" "$(sed -n 's/^label = "\(.*\)"$/\1/p' benches/refresh.toml | tr '\n' ' ')" >&2
    exit 2
  fi
done
data="$shared/data/${SET:-nq-qed}"
corpus="${CORPUS:-$data/corpus.jsonl}"
[ -f "$out/test.jsonl" ] ||
  python3 benches/peers/splits.py --questions "$data/questions_train.jsonl" --held-out "$data/questions_dev.jsonl" --out "$out"
if [[ "$corpus" == *.gz ]]; then
  if [ ! -f "$out/corpus.jsonl" ]; then
    gzip -dc "$corpus" >"$out/corpus.part"
    mv "$out/corpus.part" "$out/corpus.jsonl"
  fi
  corpus="$out/corpus.jsonl"
fi
# One that was begun goes on, one that is there is left as it is.
"$ragtune" index build --corpus "$corpus" --encoder "$encoder" --precision "${PRECISION:-f32}" --out "$out/index"
# Rows are paragraphs; those of policies that were not asked for are left out.
awk -v wanted=" $policies " 'BEGIN { RS = ""; ORS = "\n\n" }
  !/^\[\[strategies\]\]/ { print; next }
  { match($0, /label = "[^"]*"/); name = substr($0, RSTART + 9, RLENGTH - 10); if (index(wanted, " " name " ")) print }' \
  benches/refresh.toml |
  sed -e "s|@OUT@|$out|g; s|@SHARED@|$shared|g; s|@SEEDS@|${SEEDS:-0}|g; s|@STRATEGY@|${STRATEGY:-joint}|g" \
    -e "s|@GENERATOR@|${GENERATOR:-$shared/models/qa-llama}|g" \
    -e "s|@STEPS@|${STEPS:-120}|g; s|@EVERY@|${EVERY:-40}|g; s|@BATCH@|${BATCH:-4}|g; s|@TOP_K@|${TOP_K:-4}|g" \
    -e "s|@EVAL_LIMIT@|${EVAL_LIMIT:-200}|g; s|@LR_ENCODER@|${LR_ENCODER:-2e-5}|g; s|@LR_GENERATOR@|${LR_GENERATOR:-2e-4}|g" \
    -e "s|@DEPTH@|${DEPTH:-20}|g; s|@DEEP@|${DEEP:-100}|g; s|@AGE@|${AGE:-10}|g; s|@SAMPLE@|${SAMPLE:-512}|g; s|@TARGET@|${TARGET:-0.95}|g; s|@FIT@|${FIT:-2048}|g" \
    >"$out/compare.toml"
"$ragtune" compare --config "$out/compare.toml" --html "$out/report.html" | tee "$out/comparison.txt"
"$ragtune" compare --config "$out/compare.toml" --json >"$out/comparison.json"
python3 benches/refresh.py "$out" | tee "$out/refresh.md"
