"""The table of benches/growth.sh: what grows how, with the exponent b of `a N^b` fitted over all sizes.

    python growth_table.py FOLDER
"""

import collections
import json
import pathlib
import sys

import numpy

works = collections.defaultdict(dict)
for line in (pathlib.Path(sys.argv[1]) / "raw.jsonl").read_text().splitlines():
    one = json.loads(line)
    works[one["passages"]][one["work"]] = one
sizes = sorted(size for size, work in works.items() if len(work) == 3)


def cpu(work, *path):
    def read(size):
        found = works[size][work]
        for key in path:
            found = found.get(key, {})
        return found.get("cpu_seconds", 0.0)

    return read


def search(size, ef):
    work = works[size]["open"]
    found = next(one for one in work["searches"] if one["ef"] == ef)
    return found["recall_at_10"], found["time"]["cpu_seconds"] / work["questions"]


def seconds(value):
    return f"{value:.2f} s" if value < 100 else f"{value:.0f} s"


def mebi(value):
    return f"{value / 2**20:.0f} MiB"


rows = [
    ("create (texts), CPU", cpu("make", "create"), seconds),
    ("write vectors, CPU", cpu("make", "parts", "write"), seconds),
    ("build the graph, CPU", cpu("make", "parts", "graph"), seconds),
    ("probe its recall, CPU", cpu("make", "parts", "probe"), seconds),
    ("open, wall", lambda size: works[size]["open"]["open"]["seconds"], seconds),
    ("open, CPU", cpu("open", "open"), seconds),
    ("a question, ef 64, CPU", lambda size: search(size, 64)[1], lambda value: f"{1e6 * value:.0f} us"),
    ("a question, ef 256, CPU", lambda size: search(size, 256)[1], lambda value: f"{1e6 * value:.0f} us"),
    (
        "a question, exact in a batch, CPU",
        lambda size: works[size]["open"]["exact"]["cpu_seconds"] / works[size]["open"]["questions"],
        lambda value: f"{1e6 * value:.0f} us",
    ),
    ("refresh: write vectors, CPU", cpu("refresh", "parts", "write"), seconds),
    ("refresh: graph, CPU", cpu("refresh", "parts", "graph"), seconds),
    ("refresh: probe, CPU", cpu("refresh", "parts", "probe"), seconds),
    ("refresh: commit and publish, CPU", lambda size: cpu("refresh", "parts", "commit")(size) + cpu("refresh", "parts", "publish")(size), seconds),
    ("resident when open", lambda size: works[size]["open"]["resident_bytes"], mebi),
    ("peak of making it", lambda size: works[size]["make"]["peak_bytes"], mebi),
    ("disk: texts", lambda size: works[size]["make"]["disk"]["text_bytes"], mebi),
    ("disk: vectors of a generation", lambda size: works[size]["make"]["disk"]["vector_bytes"], mebi),
    ("disk: graph", lambda size: works[size]["make"]["disk"]["graph_bytes"], mebi),
]
print("| | " + " | ".join(f"{size:,} passages".replace(",", " ") for size in sizes) + " | exponent |")
print("|---|" + "---|" * (len(sizes) + 1))
for name, read, show in rows:
    values = [read(size) for size in sizes]
    exponent = "-"
    if len(sizes) > 1 and min(values) > 0:
        exponent = f"{numpy.polyfit(numpy.log(sizes), numpy.log(values), 1)[0]:.2f}"
    print(f"| {name} | " + " | ".join(show(value) for value in values) + f" | {exponent} |")
for ef in (64, 256):
    print(f"| recall@10 at ef {ef} | " + " | ".join(f"{search(size, ef)[0]:.3f}" for size in sizes) + " | |")
print("| graph after the refresh | " + " | ".join(works[size]["refresh"]["graph"]["origin"] for size in sizes) + " | |")
print(
    "| its recall@10 among stored vectors, built and kept | "
    + " | ".join(
        f"{works[size]['make']['graph']['recall_at_10']:.3f}, {works[size]['refresh']['graph']['recall_at_10']:.3f}" for size in sizes
    )
    + " | |"
)
