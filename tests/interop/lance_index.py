"""The dataset of an index in pylance: the same passages in the same order, unit vectors, one generation.

lance_index.py INDEX EXPECTED.json    # {"generation": n, "passages": [{"id", "title", "text"}, ..], "vectors": {"id": [..]}}
"""

import json
import os
import sys

import lance
import numpy as np

index, expected = sys.argv[1:]
with open(expected, encoding="utf-8") as file:
    expected = json.load(file)
dataset = lance.dataset(os.path.join(index, "corpus.lance"))
dataset.validate()

wanted = expected["passages"]
assert dataset.count_rows() == len(wanted), f"{dataset.count_rows()} rows, expected {len(wanted)}"
table = dataset.to_table(columns=["id", "title", "text", "embedding", "generation"])
found = table.select(["id", "title", "text"]).to_pylist()
assert found == wanted, "the passages differ"
assert set(table["generation"].to_pylist()) == {expected["generation"]}, set(table["generation"].to_pylist())

assert table["embedding"].null_count == 0
vectors = np.stack(table["embedding"].combine_chunks().to_numpy(zero_copy_only=False)).astype(np.float64)
assert np.isfinite(vectors).all() and np.abs(np.linalg.norm(vectors, axis=1) - 1).max() < 1e-4
ours = np.array([expected["vectors"][passage["id"]] for passage in wanted])
difference = np.abs(vectors - ours).max()
assert difference < 1e-5, f"vectors differ by {difference}"

# Single rows and a condition, as others would ask for them.
last = len(wanted) - 1
assert dataset.take([last, 0], columns=["id"])["id"].to_pylist() == [wanted[last]["id"], wanted[0]["id"]]
chosen = dataset.to_table(columns=["id"], filter=f"id = '{wanted[1]['id']}'")["id"].to_pylist()
assert chosen == [wanted[1]["id"]]
print(f"version {dataset.version}: {len(wanted)} passages, {vectors.shape[1]} dimensions, generation {expected['generation']}")
