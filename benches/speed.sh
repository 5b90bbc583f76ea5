#!/usr/bin/env bash
# ragtune beside the Python a user has: the same work on both sides, one process each, in turn; checks that both computed the
# same and prints a table of ratios. Needs ../shared and the packages of benches/peers/requirements.txt.
#
#   bash benches/speed.sh FOLDER
#
# From the environment: ROUNDS (3), WORKS ("matmul embed mnrl generator joint decode"), PASSAGES (0: all), PRECISIONS of embed
# ("f32 bf16 int8"), REPETITIONS of steps and decoding, COMPILE=1 (torch.compile beside eager in mnrl), PYTHON (python3), SHARED
# (../shared), RAYON_NUM_THREADS (all cores). A work that is measured again replaces its lines in FOLDER.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
. tests/setup.sh
out="${1:?usage: bash benches/speed.sh FOLDER}"
shared="${SHARED:-../shared}"
python="${PYTHON:-python3}"
works="${WORKS:-matmul embed mnrl generator joint decode}"
rounds="${ROUNDS:-3}"
passages="${PASSAGES:-0}"
precisions="${PRECISIONS:-f32 bf16 int8}"
work="${CARGO_TARGET_DIR:-target}/speed"
encoder="$shared/models/all-MiniLM-L6-v2"
peers=benches/peers

for needed in "$shared/data/nq-qed/corpus.jsonl" "$shared/data/nq-qed/questions_train.jsonl" \
  "$shared/data/nq-qed/questions_dev.jsonl" "$encoder/model.safetensors"; do
  [ -f "$needed" ] || stop "\`$needed\` is missing" \
    "put nq-qed (data/nq-qed) and all-MiniLM-L6-v2 (models/all-MiniLM-L6-v2) into one folder and name it with SHARED"
done
"$python" -c 'import torch, transformers, peft, sentence_transformers' 2>/dev/null ||
  stop "\`$python\` lacks a package of the peers" "pip install -r $peers/requirements.txt in an environment and name its python with PYTHON"
int8=""
if "$python" -c 'import onnx, onnxruntime' 2>/dev/null; then
  int8="$work/onnx/int8.onnx"
else
  printf 'speed: no onnx or onnxruntime, so embed is not measured beside int8\n' >&2
fi

threads="${RAYON_NUM_THREADS:-$(nproc)}"
export RAYON_NUM_THREADS="$threads" OMP_NUM_THREADS="$threads" MKL_NUM_THREADS="$threads"
mkdir -p "$out" "$work"
cargo bench --profile release --bench speed --no-run
# The path of the program: cargo itself must not run between measurements.
speed=$(cargo bench --profile release --bench speed --no-run --message-format=json | "$python" -c '
import json, sys
built = [json.loads(line) for line in sys.stdin if line.startswith("{")]
print([one["executable"] for one in built if one.get("executable") and one["target"]["name"] == "speed"][-1])')

[ -f "$work/generator/adapter/adapter_config.json" ] ||
  "$python" "$peers/random_llama.py" --corpus "$shared/data/nq-qed/corpus.jsonl" --out "$work/generator"
"$python" "$peers/inputs.py" --shared "$shared" --encoder "$encoder" --generator "$work/generator" --out "$work/inputs" \
  --passages "$passages"
[ -z "$int8" ] || [ -f "$int8" ] || "$python" "$peers/onnx_int8.py" --encoder "$encoder" --out "$work/onnx" >&2
"$python" "$peers/environment.py" >>"$out/environment.jsonl"
cp "$work/inputs/settings.json" "$out/settings.json"

common=(--inputs "$work/inputs" --encoder "$encoder" --generator "$work/generator")

# once WHAT ROUND COMMAND...: one process, one line.
once() {
  local what="$1" round="$2" load line at
  shift 2
  load=$(cut -d' ' -f1 /proc/loadavg)
  at=$(date -u +%FT%TZ)
  printf 'speed: round %s of %s: %s\n' "$round" "$rounds" "$what" >&2
  line=$("$@" | tail -n 1)
  printf '%s\n' "$line" | sed "s/^{/{\"round\": $round, \"load\": $load, \"at\": \"$at\", /" >>"$out/raw.jsonl"
}

ours() {
  local name="$1" round="$2"
  shift 2
  once "${who:-ragtune $name}" "$round" "$speed" "$name" "${common[@]}" --json "$@"
}

peer() {
  local script="$1" round="$2"
  shift 2
  once "$peers/$script.py" "$round" "$python" "$peers/$script.py" "${common[@]}" "$@"
}

repetitions() {
  case "$1" in embed) echo 1 ;; matmul) echo 20 ;; mnrl) echo "${REPETITIONS:-6}" ;; *) echo "${REPETITIONS:-3}" ;; esac
}

touch "$out/raw.jsonl"
for name in $works; do
  [ "$name" != embed ] || rm -rf "$work/vectors"
  grep -v "\"work\": *\"$name\"" "$out/raw.jsonl" >"$out/raw.kept" || true
  mv "$out/raw.kept" "$out/raw.jsonl"
  repeat=(--repetitions "$(repetitions "$name")")
  for round in $(seq "$rounds"); do
    if [ "$name" = embed ]; then
      # Written after the clock has stopped; of the last round when all are done.
      for precision in $precisions; do
        side="ragtune-$precision"
        who="ragtune embed $precision" ours embed "$round" "${repeat[@]}" --precision "$precision" \
          --vectors "$work/vectors/${side%-f32}"
      done
      peer embed "$round" "${repeat[@]}" --vectors "$work/vectors/sentence-transformers"
      [ -z "$int8" ] || peer embed_int8 "$round" "${repeat[@]}" --vectors "$work/vectors/onnxruntime-int8" --model "$int8"
    else
      ours "$name" "$round" "${repeat[@]}"
      peer "$name" "$round" "${repeat[@]}"
      [ "$name" != mnrl ] || [ -z "${COMPILE:-}" ] || peer mnrl "$round" "${repeat[@]}" --compile
    fi
  done
done
"$python" "$peers/table.py" "$out" --work "$work"
