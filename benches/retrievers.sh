#!/usr/bin/env bash
# What finds passages best before anything is trained: the encoder, BM25, or both, on the questions of three sets over their own
# corpora. Retrieval only: no passage is read, and a token of an answer is decoded because an evaluation decodes. Needs ../shared
# and python3. Indexes and finished evaluations are kept, so that an interrupted series goes on.
#
#   bash benches/retrievers.sh FOLDER            # QUESTIONS=400 of each set, drawn with seed 0; ENCODER=.../all-MiniLM-L6-v2
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
. tests/setup.sh
out="${1:?usage: bash benches/retrievers.sh FOLDER}"
shared="${SHARED:-../shared}"
ragtune="${RAGTUNE:-${CARGO_TARGET_DIR:-target}/release/ragtune}"
encoder="${ENCODER:-$shared/models/all-MiniLM-L6-v2}"
mkdir -p "$out"

evaluate() {
  local set="$1" name="$2"
  shift 2
  [ -f "$out/$set-$name.json" ] && return
  "$ragtune" eval --index "$out/$set" --generator fixtures/models/qa-llama --questions "$out/$set.jsonl" --top-k 0 \
    --max-answer-tokens 1 --scores "$out/$set-$name.jsonl" --json "$@" >"$out/$set-$name.json.part"
  mv "$out/$set-$name.json.part" "$out/$set-$name.json"
}

for source in nq-qed:questions_dev hotpotqa:questions_dev popqa:questions; do
  set="${source%%:*}"
  [ -f "$out/$set.jsonl" ] || python3 - "$shared/data/$set/${source##*:}.jsonl" "${QUESTIONS:-400}" >"$out/$set.jsonl" <<'PYTHON'
import random
import sys

lines = open(sys.argv[1], encoding="utf-8").read().splitlines()
print("\n".join(random.Random(0).sample(lines, min(int(sys.argv[2]), len(lines)))))
PYTHON
  "$ragtune" index build --corpus "$shared/data/$set/corpus.jsonl" --encoder "$encoder" --out "$out/$set" --lexical
  evaluate "$set" dense --exact
  evaluate "$set" bm25 --retriever bm25
  evaluate "$set" rrf --exact --retriever hybrid
  for weight in 0.3 0.5 0.7; do
    evaluate "$set" "weighted-$weight" --exact --retriever hybrid --hybrid weighted --hybrid-weight "$weight"
  done
done

python3 - "$out" <<'PYTHON' | tee "$out/table.md"
import json
import random
import sys

METRICS = {"recall@1": ("recall", "1"), "recall@5": ("recall", "5"), "recall@20": ("recall", "20"), "MRR@10": "mrr10"}


def values(path, metric):
    rows = {}
    for line in open(path, encoding="utf-8"):
        score = json.loads(line)
        rows[score["id"]] = score[metric] if isinstance(metric, str) else score[metric[0]][metric[1]]
    return rows


def doubt(differences):
    """Half the width of the 95 % bootstrap interval of a mean, over questions."""
    draw, n = random.Random(0), len(differences)
    means = sorted(sum(draw.choices(differences, k=n)) / n for _ in range(2000))
    return (means[1949] - means[50]) / 2


folder = sys.argv[1]
print("| set | retriever | " + " | ".join(METRICS) + " | questions filled up |")
print("|---|---|" + "---|" * (len(METRICS) + 1))
for name in ["nq-qed", "hotpotqa", "popqa"]:
    for retriever in ["dense", "bm25", "rrf", "weighted-0.3", "weighted-0.5", "weighted-0.7"]:
        run = json.load(open(f"{folder}/{name}-{retriever}.json"))
        cells = []
        for metric in METRICS.values():
            mine, dense = (values(f"{folder}/{name}-{one}.jsonl", metric) for one in [retriever, "dense"])
            mean = 100 * sum(mine.values()) / len(mine)
            differences = [100 * (mine[question] - dense[question]) for question in dense]
            beside = sum(differences) / len(differences)
            cells.append(f"{mean:.1f}" if retriever == "dense" else f"{mean:.1f} ({beside:+.1f} ± {doubt(differences):.1f})")
        filled = run["summary"].get("filled_questions", 0)
        print(f"| {name} | {run['retriever']} | " + " | ".join(cells) + f" | {filled} |")
PYTHON
