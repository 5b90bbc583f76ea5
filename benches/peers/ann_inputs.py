"""Writes the vectors that benches/search.sh searches: nq-qed's passages and dev questions by a sentence-transformers folder, as
OUT/passages.f32 and OUT/questions.f32: rows of little-endian float32 of length one.

Run: python benches/peers/ann_inputs.py --shared ../shared --encoder ../shared/models/all-MiniLM-L6-v2 --out FOLDER
"""

import argparse
import json
from pathlib import Path

from sentence_transformers import SentenceTransformer


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--shared", type=Path, required=True, help="holds data/nq-qed")
    parser.add_argument("--encoder", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    data = args.shared / "data" / "nq-qed"
    model = SentenceTransformer(str(args.encoder), device="cpu")
    texts = {
        "passages": [f"{one['title']} {one['text']}" if one["title"] else one["text"] for one in lines(data / "corpus.jsonl")],
        "questions": [one["question"] for one in lines(data / "questions_dev.jsonl")],
    }
    args.out.mkdir(parents=True, exist_ok=True)
    for name, texts in texts.items():
        model.encode(texts, normalize_embeddings=True).astype("<f4").tofile(args.out / f"{name}.f32")


def lines(path):
    with path.open() as file:
        return [json.loads(line) for line in file]


if __name__ == "__main__":
    main()
