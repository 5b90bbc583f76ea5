"""An encoder that ragtune exported, in sentence-transformers: the same vectors to 1e-5.

encoder.py FOLDER QUESTIONS.jsonl VECTORS.npy PASSAGES.jsonl VECTORS.npy
encoder.py --with-prompts FOLDER OUT    # the same encoder with prompts, saved by sentence-transformers
"""

import json
import sys

import numpy as np
from sentence_transformers import SentenceTransformer


def texts(path):
    with open(path, encoding="utf-8") as lines:
        for line in map(json.loads, lines):
            if "question" in line:
                yield line["question"]
            else:
                yield f"{line['title']} {line['text']}" if line.get("title") else line["text"]


def compare(what, ours, theirs):
    assert ours.shape == theirs.shape, f"{what}: {ours.shape}, expected {theirs.shape}"
    difference = np.abs(ours - theirs).max()
    norms = np.linalg.norm(theirs, axis=1)
    assert difference <= 1e-5, f"{what}: differ by {difference}"
    assert np.abs(norms - 1).max() < 1e-4 and np.std(theirs, axis=0).max() > 1e-3, f"{what}: no vectors of texts"
    print(f"  {what}: {len(ours)} vectors differ by at most {difference:.1e}")


def main(folder, questions, question_vectors, passages, passage_vectors):
    model = SentenceTransformer(folder, device="cpu").float()
    compare("questions", np.load(question_vectors), model.encode_query(list(texts(questions))))
    compare("passages", np.load(passage_vectors), model.encode_document(list(texts(passages))))


def with_prompts(folder, out):
    model = SentenceTransformer(folder, device="cpu")
    model.prompts = {"query": "ask: ", "document": "tell: "}
    model.save(out)


if sys.argv[1] == "--with-prompts":
    with_prompts(*sys.argv[2:])
else:
    main(*sys.argv[1:])
