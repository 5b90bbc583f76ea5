"""What hnswlib finds among vectors with many near copies each, which an insertion's beam sees nothing else of; to be held against
benches/growth.sh with VECTORS of few passages.

    python near_copies.py VECTORS [--vectors 100000] [--ef-construction 64] [--noise 0.5]

VECTORS: a folder with passages.f32 and questions.f32 (rows of 384). Copies are made as benches/growth makes them: noise of that length
is added to all but the first of each.
"""

import argparse
import pathlib
import time

import hnswlib
import numpy

parser = argparse.ArgumentParser()
parser.add_argument("folder", type=pathlib.Path)
parser.add_argument("--vectors", type=int, default=100_000)
parser.add_argument("--ef-construction", type=int, default=64)
parser.add_argument("--noise", type=float, default=0.5)
asked = parser.parse_args()

passages, questions = (numpy.fromfile(asked.folder / f"{name}.f32", numpy.float32).reshape(-1, 384) for name in ("passages", "questions"))
noise = numpy.random.default_rng(0).standard_normal((asked.vectors, 384)).astype(numpy.float32)
noise *= asked.noise / numpy.linalg.norm(noise, axis=1, keepdims=True)
noise[: len(passages)] = 0
vectors = passages[numpy.arange(asked.vectors) % len(passages)] + noise
vectors /= numpy.linalg.norm(vectors, axis=1, keepdims=True)
truth = numpy.argsort(-(questions @ vectors.T), axis=1)[:, :10]
index = hnswlib.Index("ip", 384)
index.init_index(asked.vectors, M=16, ef_construction=asked.ef_construction)
began = time.process_time()
index.add_items(vectors, num_threads=1)
print(f"hnswlib: {asked.vectors} vectors, {len(passages)} kinds, built in {time.process_time() - began:.1f} CPU s")
for ef in (64, 256):
    index.set_ef(ef)
    found, _ = index.knn_query(questions, k=10, num_threads=1)
    recall = numpy.mean([len(set(one) & set(other)) / 10 for one, other in zip(found, truth)])
    print(f"beam {ef}: recall@10 {recall:.3f}")
