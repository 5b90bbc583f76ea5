"""Draws training, selection and test questions that do not overlap from a set of shared/data; the same for every run.

    python splits.py --questions train.jsonl [--held-out dev.jsonl] --out FOLDER [--train 2000] [--selection 150] [--test 300]

Without --held-out all three are drawn from --questions. Questions whose shortest answer has more than 7 words are left out: exact
match says nothing about them.
"""

import argparse
import json
import pathlib
import random

parser = argparse.ArgumentParser()
parser.add_argument("--questions", type=pathlib.Path, required=True)
parser.add_argument("--held-out", type=pathlib.Path)
parser.add_argument("--out", type=pathlib.Path, required=True)
parser.add_argument("--train", type=int, default=2000)
parser.add_argument("--selection", type=int, default=150)
parser.add_argument("--test", type=int, default=300)
asked = parser.parse_args()


def read(path):
    lines = [line for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    short = [line for line in lines if min(len(one.split()) for one in json.loads(line)["answers"] or [" ".join("x" * 8)]) <= 7]
    random.Random(0).shuffle(short)
    return short


train = read(asked.questions)
held_out = read(asked.held_out) if asked.held_out else None
if held_out is None:
    held = asked.selection + asked.test
    held_out, train = train[:held], train[held:]
asked.out.mkdir(parents=True, exist_ok=True)
parts = {
    "train": train[: asked.train],
    "selection": held_out[: asked.selection],
    "test": held_out[asked.selection : asked.selection + asked.test],
}
for name, lines in parts.items():
    (asked.out / f"{name}.jsonl").write_text("".join(line + "\n" for line in lines), encoding="utf-8")
    print(name, len(lines))
