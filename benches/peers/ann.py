"""search: the nearest passages through hnswlib, faiss HNSW and usearch, and exactly by a matrix product of numpy; one thread.

Reads passages.f32 and questions.f32 (rows of little-endian float32 of length one) from VECTORS and prints, for every engine and
every width of the beam, one line of JSON with the keys of `benches/search`. Recall is the share of the ten nearest by exact
search that are found.

Run: python benches/peers/ann.py --vectors FOLDER [--engines hnswlib,faiss,usearch,numpy]
"""

import argparse
import json
import os
import time
from pathlib import Path

for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
    os.environ[name] = "1"

import numpy as np  # noqa: E402: after the number of threads

K = 10


class Hnswlib:
    def build(self, passages, args):
        import hnswlib

        self.index = hnswlib.Index(space="ip", dim=passages.shape[1])
        self.index.init_index(max_elements=len(passages), ef_construction=args.ef_construction, M=args.links)
        self.index.add_items(passages, num_threads=1)
        return f"hnswlib {hnswlib.__version__ if hasattr(hnswlib, '__version__') else ''}".strip()

    def search(self, questions, ef):
        self.index.set_ef(ef)
        return self.index.knn_query(questions, k=K, num_threads=1)[0]


class Faiss:
    def build(self, passages, args):
        import faiss

        faiss.omp_set_num_threads(1)
        self.index = faiss.IndexHNSWFlat(passages.shape[1], args.links, faiss.METRIC_INNER_PRODUCT)
        self.index.hnsw.efConstruction = args.ef_construction
        self.index.add(passages)
        return f"faiss {faiss.__version__}"

    def search(self, questions, ef):
        self.index.hnsw.efSearch = ef
        return self.index.search(questions, K)[1]


class Usearch:
    def build(self, passages, args):
        import usearch
        from usearch.index import Index

        self.index = Index(ndim=passages.shape[1], metric="ip", dtype="f32", connectivity=args.links,
                           expansion_add=args.ef_construction)
        self.index.add(np.arange(len(passages)), passages, threads=1)
        return f"usearch {usearch.__version__}"

    def search(self, questions, ef):
        self.index.expansion_search = ef
        return self.index.search(questions, K, threads=1).keys


class Numpy:
    def build(self, passages, args):
        self.passages = np.ascontiguousarray(passages.T)
        return f"numpy {np.__version__} exact"

    def search(self, questions, ef):
        found = []
        for start in range(0, len(questions), 256):
            scores = questions[start : start + 256] @ self.passages
            best = np.argpartition(-scores, K, axis=1)[:, :K]
            order = np.argsort(-np.take_along_axis(scores, best, axis=1), axis=1)
            found.append(np.take_along_axis(best, order, axis=1))
        return np.concatenate(found)


ENGINES = {"hnswlib": Hnswlib, "faiss": Faiss, "usearch": Usearch, "numpy": Numpy}


def main():
    args = parse()
    passages, questions = (
        np.fromfile(args.vectors / name, "<f4").reshape(-1, args.dim) for name in ("passages.f32", "questions.f32")
    )
    truth = Numpy()
    truth.build(passages, args)
    truth = truth.search(questions, 0)
    for name in args.engines.split(","):
        engine = ENGINES[name]()
        started = time.perf_counter()
        label = engine.build(passages, args)
        built = time.perf_counter() - started
        efs = [0] if name == "numpy" else [int(ef) for ef in args.efs.split(",")]
        measured = {ef: {"seconds": [], "cpu_seconds": []} for ef in efs}
        # All widths in turn, pass after pass: what else the machine does then hits them all alike.
        for turn in range(args.passes + 1):
            for ef in efs:
                started, cpu = time.perf_counter(), time.thread_time()
                found = engine.search(questions, ef)
                took = time.perf_counter() - started, time.thread_time() - cpu
                if turn == 0:
                    right = sum(len(set(row) & set(asked)) for row, asked in zip(truth.tolist(), found.tolist()))
                    measured[ef]["recall_at_10"] = right / truth.size
                else:
                    measured[ef]["seconds"].append(took[0])
                    measured[ef]["cpu_seconds"].append(took[1])
        for ef, values in measured.items():
            print(json.dumps({
                "work": "search", "engine": label, "passages": len(passages), "dim": args.dim, "questions": len(questions),
                "threads": 1, "links": args.links, "ef_construction": args.ef_construction, "build_seconds": built, "ef": ef,
            } | values), flush=True)


def parse():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--vectors", type=Path, required=True, help="holds passages.f32 and questions.f32")
    parser.add_argument("--dim", type=int, default=384)
    parser.add_argument("--links", type=int, default=16)
    parser.add_argument("--ef-construction", type=int, default=200)
    parser.add_argument("--efs", default="10,12,14,16,20,24,28,32,40,48,64,80,96,128,160,192,256")
    parser.add_argument("--passes", type=int, default=5)
    parser.add_argument("--engines", default="hnswlib,faiss,usearch,numpy")
    return parser.parse_args()


if __name__ == "__main__":
    main()
