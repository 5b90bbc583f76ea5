#!/usr/bin/env bash
# ragtune beside PyTorch on one GPU: first the golden numbers of the tests on the device, then the same work on both sides, one
# process each, in turn: embedding, an MNRL step of a random encoder, LoRA and joint RAG-Token steps of a random Llama. Needs
# nothing but the packages of benches/peers/requirements.txt, a CUDA toolkit to build with, and a GPU on which nothing else runs.
#
#   bash benches/gpu.sh FOLDER
#
# From the environment: DEVICE (cuda; cuda:N; metal measures ragtune alone; cpu, with PORTABLE=1 for the layers that a device gets),
# ENCODER (100m; tiny), GENERATOR (1b; 3b, 8b, tiny), GENERATOR_DTYPE (bf16; f32), SEQUENCE (512), PASSAGES (4096), QUESTIONS of a
# step (4), PAIRS (32), TF32=1 (f32 products of both sides rounded to TF32), WORKS ("embed mnrl generator joint"), ROUNDS (3),
# REPETITIONS (5), PYTHON (python3).
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
. tests/setup.sh
out="${1:?usage: bash benches/gpu.sh FOLDER}"
python="${PYTHON:-python3}"
device="${DEVICE:-cuda}"
encoder="${ENCODER:-100m}"
generator="${GENERATOR:-1b}"
dtype="${GENERATOR_DTYPE:-bf16}"
sequence="${SEQUENCE:-512}"
rounds="${ROUNDS:-3}"
work="${CARGO_TARGET_DIR:-target}/gpu/$encoder-$generator-$sequence"
peers=benches/peers

"$python" -c 'import torch, transformers, peft, sentence_transformers' 2>/dev/null ||
  stop "\`$python\` lacks a package of the peers" "pip install -r $peers/requirements.txt in an environment and name its python with PYTHON"
features=()
gpu=""
case "$device" in
  cuda*)
    features=(--features cuda)
    gpu="${device#cuda}"
    gpu="${gpu#:}"
    gpu="${gpu:-0}"
    command -v nvcc >/dev/null 2>&1 || [ -x "${CUDA_PATH:-/usr/local/cuda}/bin/nvcc" ] ||
      stop "no nvcc is there to build the feature \`cuda\` with" "install the CUDA toolkit, and name it with CUDA_PATH"
    command -v nvidia-smi >/dev/null 2>&1 || stop "nvidia-smi is missing, so memory cannot be read" "install the driver of the GPU"
    ;;
  metal) features=(--features metal) ;;
  cpu) ;;
  *) stop "unknown DEVICE \`$device\`" "expected cpu, cuda, cuda:N or metal" ;;
esac
ours=(--device "$device")
theirs=(--device "$device")
[ -z "${TF32:-}" ] || { ours+=(--tf32) && theirs+=(--tf32); }
[ -z "${PORTABLE:-}" ] || ours+=(--portable)

mkdir -p "$out" "$work"
cargo bench --profile release --bench speed --no-run "${features[@]}"
speed=$(cargo bench --profile release --bench speed --no-run "${features[@]}" --message-format=json | "$python" -c '
import json, sys
built = [json.loads(line) for line in sys.stdin if line.startswith("{")]
print([one["executable"] for one in built if one.get("executable") and one["target"]["name"] == "speed"][-1])')

"$python" "$peers/gpu_inputs.py" --out "$work" --encoder "$encoder" --generator "$generator" --sequence "$sequence" \
  --passages "${PASSAGES:-4096}" --questions "${QUESTIONS:-4}" --pairs "${PAIRS:-32}" >&2
"$python" "$peers/environment.py" >>"$out/environment.jsonl"
name=$device
[ -z "$gpu" ] || name=$(nvidia-smi --id="$gpu" --query-gpu=name,driver_version,memory.total --format=csv,noheader)
# What the table says of the run.
"$python" - "$out/settings.json" "$device" "$name" "$encoder" "$generator" "$dtype" "$sequence" "${TF32:-}" <<'PYTHON'
import json, sys

keys = ["device", "device_name", "encoder", "generator", "generator_dtype", "sequence", "tf32"]
settings = dict(zip(keys, sys.argv[2:]))
json.dump(settings | {"tf32": bool(settings["tf32"])}, open(sys.argv[1], "w"))
PYTHON

printf 'gpu: parity with the golden numbers of the tests\n' >&2
"$speed" parity "${ours[@]}" --json | tail -n 1 | tee "$out/parity.json" >&2

used() { nvidia-smi --id="$gpu" --query-gpu=memory.used --format=csv,noheader,nounits; }

# once WHAT ROUND COMMAND...: one process, one line, with the memory of the device where there is one.
once() {
  local what="$1" round="$2" line before=0 polled extra="" poller
  shift 2
  printf 'gpu: round %s of %s: %s\n' "$round" "$rounds" "$what" >&2
  if [ -n "$gpu" ]; then
    before=$(used)
    polled=$(mktemp)
    nvidia-smi --id="$gpu" --query-gpu=memory.used --format=csv,noheader,nounits -lms 100 >"$polled" &
    poller=$!
  fi
  line=$("$@" | tail -n 1)
  if [ -n "$gpu" ]; then
    kill "$poller"
    wait "$poller" 2>/dev/null || true
    extra="\"device_bytes\": $((($(sort -n "$polled" | tail -n 1) - before) * 1048576)), "
    rm -f "$polled"
  fi
  printf '%s\n' "$line" | sed "s/^{/{\"round\": $round, $extra/" >>"$out/raw.jsonl"
}

common=(--inputs "$work/inputs" --encoder "$work/encoder" --generator "$work/generator" --generator-dtype "$dtype"
  --repetitions "${REPETITIONS:-5}")
: >"$out/raw.jsonl"
for name in ${WORKS:-embed mnrl generator joint}; do
  for round in $(seq "$rounds"); do
    once "ragtune $name" "$round" "$speed" "$name" "${common[@]}" "${ours[@]}" --json
    [ "$device" = metal ] || once "$peers/gpu.py $name" "$round" "$python" "$peers/gpu.py" "$name" "${common[@]}" "${theirs[@]}"
  done
done
"$python" "$peers/gpu_table.py" "$out"
