#!/usr/bin/env bash
# What ragtune writes, other programs load and give the same numbers for; what they write, ragtune loads. With the real program
# (RAGTUNE, or the release build) and a Python that has sentence-transformers, transformers and peft (RAGTUNE_PYTHON, or
# python3); without one it says so and is done. Nothing is downloaded. Needs about a minute on two cores.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
root=$(cd "$here/../.." && pwd)
ragtune=${RAGTUNE:-${CARGO_TARGET_DIR:-$root/target}/release/ragtune}
python=${RAGTUNE_PYTHON:-python3}

if ! "$python" -c "import sentence_transformers, transformers, peft, torch" 2>/dev/null; then
  echo "interop: skipped: $python has not all of sentence-transformers, transformers, peft; name one that has in RAGTUNE_PYTHON"
  exit 0
fi
if [ ! -x "$ragtune" ]; then
  echo "interop: there is no program $ragtune" >&2
  echo "hint: cargo build --release, or name it in RAGTUNE" >&2
  exit 2
fi
export HF_HUB_OFFLINE=1 TRANSFORMERS_OFFLINE=1 HF_DATASETS_OFFLINE=1 CUDA_VISIBLE_DEVICES="" TOKENIZERS_PARALLELISM=false
if [ -n "${RAGTUNE_INTEROP:-}" ]; then
  work=$RAGTUNE_INTEROP
else
  work=$(mktemp -d)
  trap 'rm -rf "$work"' EXIT
fi
export HF_HOME="$work/home" PYTHONPATH="$here" PYTHONDONTWRITEBYTECODE=1
tiny=$root/fixtures/tiny
base=$root/fixtures/models/qa-llama
questions=$tiny/dev.jsonl

step() { printf 'interop: %s\n' "$*"; }
train() { # OUT STRATEGY FLAGS...
  local out=$1 strategy=$2
  shift 2
  "$ragtune" train --strategy "$strategy" --index "$work/index" --questions "$tiny/train.jsonl" --eval-questions "$questions" \
    --generator "$base" --out "$out" --batch-size 2 --top-k 2 --steps 3 --eval-limit 2 --schedule constant "$@" >/dev/null
}
# One passage in one prompt, so that the other side needs nothing but greedy decoding.
answers() { # OUT FLAGS...
  local out=$1
  shift
  "$ragtune" eval --index "$work/index" --questions "$questions" --top-k 1 --reader concat --max-answer-tokens 16 \
    --scores "$out" "$@" >/dev/null
}

step "train an encoder, and a generator whole and by adapter"
"$ragtune" index build --corpus "$tiny/corpus.jsonl" --encoder "$root/fixtures/models/encoder" --out "$work/index" >/dev/null
train "$work/encoder-run" embedder --lr-encoder 1e-3
train "$work/lora-run" generator --lora-rank 4 --lora-alpha 6 --rslora --lora-dropout 0.05 --lora-targets q_proj,v_proj,down_proj --lr-generator 3e-3
train "$work/whole-run" generator --lr-generator 1e-4

step "(a) the encoder in sentence-transformers"
for dtype in f32 bf16; do
  "$ragtune" export --run "$work/encoder-run" --out "$work/encoder-$dtype" --part encoder --dtype "$dtype" >/dev/null
  "$ragtune" embed --encoder "$work/encoder-$dtype" --file "$questions" --role question --out "$work/questions-$dtype.npy" >/dev/null
  "$ragtune" embed --encoder "$work/encoder-$dtype" --file "$tiny/corpus.jsonl" --role passage --out "$work/passages-$dtype.npy" >/dev/null
  "$python" "$here/encoder.py" "$work/encoder-$dtype" "$questions" "$work/questions-$dtype.npy" \
    "$tiny/corpus.jsonl" "$work/passages-$dtype.npy"
done
# As the run itself saved it, and with prompts that sentence-transformers knows by other names than ours.
"$python" "$here/encoder.py" --with-prompts "$work/encoder-f32" "$work/encoder-prompts"
"$ragtune" embed --encoder "$work/encoder-prompts" --file "$questions" --role question --out "$work/questions-prompts.npy" >/dev/null
"$ragtune" embed --encoder "$work/encoder-prompts" --file "$tiny/corpus.jsonl" --role passage --out "$work/passages-prompts.npy" >/dev/null
"$python" "$here/encoder.py" "$work/encoder-prompts" "$questions" "$work/questions-prompts.npy" \
  "$tiny/corpus.jsonl" "$work/passages-prompts.npy"

step "(b) the adapter in peft, (d) the merged and the whole generator in transformers"
"$ragtune" export --run "$work/lora-run" --out "$work/adapter" --part generator >/dev/null
"$ragtune" export --run "$work/lora-run" --out "$work/merged" --part generator --merge >/dev/null
"$ragtune" export --run "$work/whole-run" --out "$work/whole" --part generator >/dev/null
answers "$work/adapter.jsonl" --generator "$base" --adapter "$work/adapter"
answers "$work/merged.jsonl" --generator "$work/merged"
answers "$work/whole.jsonl" --generator "$work/whole"
answers "$work/base.jsonl" --generator "$base"
data=("$tiny/corpus.jsonl" "$questions")
"$python" "$here/generator.py" "${data[@]}" --model "$base" --adapter "$work/adapter" --scores "$work/adapter.jsonl" --same-as "$work/merged"
"$python" "$here/generator.py" "${data[@]}" --model "$work/merged" --scores "$work/merged.jsonl"
"$python" "$here/generator.py" "${data[@]}" --model "$work/whole" --scores "$work/whole.jsonl"
"$python" "$here/generator.py" "${data[@]}" --model "$base" --scores "$work/base.jsonl"
"$ragtune" export --run "$work/lora-run" --out "$work/merged-bf16" --part generator --merge --dtype bf16 >/dev/null
answers "$work/merged-bf16.jsonl" --generator "$work/merged-bf16"
"$python" "$here/generator.py" "${data[@]}" --model "$work/merged-bf16" --scores "$work/merged-bf16.jsonl"

step "(c) an adapter that peft made, in ragtune"
"$python" "$here/peft_adapter.py" "$base" "$work/from-peft"
answers "$work/from-peft.jsonl" --generator "$base" --adapter "$work/from-peft"
"$python" "$here/generator.py" "${data[@]}" --model "$base" --adapter "$work/from-peft" --scores "$work/from-peft.jsonl" \
  --unlike "$work/base.jsonl"

step "the command that converts pickled weights, as ragtune prints it"
cp -r "$root/fixtures/models/encoder" "$work/pickled"
"$python" -c 'import sys, torch, safetensors.torch as st; torch.save(st.load_file(sys.argv[1]), sys.argv[2])' \
  "$work/pickled/model.safetensors" "$work/pickled/pytorch_model.bin"
rm "$work/pickled/model.safetensors"
embed() { "$ragtune" embed --encoder "$1" --file "$questions" --role question; }
if embed "$work/pickled" >/dev/null 2>"$work/refusal"; then
  echo "interop: pickled weights were loaded" >&2
  exit 1
fi
command=$(sed -n 's/^hint: .*: python3 -c /-c /p' "$work/refusal")
eval "$python $command"
cmp <(embed "$work/pickled") <(embed "$root/fixtures/models/encoder")

step "all equal"
