"""Gives every question of a file a teacher's scores, in place: BM25 (bm25s) of its gold passages and its best four others, scaled to
[0, 1] within the question. A cheap teacher, for trying strategies that want one.

    python teacher.py --corpus corpus.jsonl --questions train.jsonl
"""

import argparse
import json
import pathlib

import bm25s

parser = argparse.ArgumentParser()
parser.add_argument("--corpus", type=pathlib.Path, required=True)
parser.add_argument("--questions", type=pathlib.Path, required=True)
asked = parser.parse_args()


def read(path):
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]


passages, questions = read(asked.corpus), read(asked.questions)
ids = [passage["id"] for passage in passages]
at = {name: number for number, name in enumerate(ids)}
engine = bm25s.BM25()
engine.index(bm25s.tokenize([f"{one['title']} {one['text']}" for one in passages], show_progress=False), show_progress=False)
for question in questions:
    words = bm25s.tokenize(question["question"], show_progress=False, return_ids=False)[0]
    scores = engine.get_scores(words)
    gold = [one for one in question["gold_passages"] if one in at]
    best = [ids[number] for number in scores.argsort()[::-1][:10] if ids[number] not in gold][:4]
    raw = {name: float(scores[at[name]]) for name in gold + best}
    top = max(raw.values()) or 1.0
    question["teacher_scores"] = {name: round(score / top, 4) for name, score in raw.items()}
asked.questions.write_text("".join(json.dumps(one, ensure_ascii=False) + "\n" for one in questions), encoding="utf-8")
