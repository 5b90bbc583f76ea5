"""The table of benches/search.sh out of its raw lines: questions a second at equal recall@10.

An engine's speed at a recall lies between its two nearest widths of the beam: on a straight line of the logarithm of the speed
over the logarithm of what is missed. Where its narrowest beam finds more than asked, that beam counts. A pass over all
questions is counted at the fastest of its repetitions; ratios are of the same round, their median and range are given.

Run: python benches/peers/ann_table.py RUN [--clock cpu_seconds]
"""

import argparse
import json
import math
import statistics
from collections import defaultdict
from pathlib import Path

RECALLS = [0.90, 0.93, 0.95, 0.97, 0.98, 0.99, 0.995, 0.999]
# What is expected of ragtune beside each.
GOALS = {"hnsw_rs": 3.0, "hnswlib": 1.0, "faiss": 1.0, "usearch": 1.0}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", type=Path)
    parser.add_argument("--clock", choices=["seconds", "cpu_seconds"], default="seconds",
                        help="wall time, or the processor's time for the searching thread: where others use the machine too")
    args = parser.parse_args()
    # engine -> round -> [(recall, questions a second)]
    found = defaultdict(lambda: defaultdict(list))
    about, labels = {}, {}
    for text in (args.run / "raw.jsonl").read_text().splitlines():
        line = json.loads(text)
        if line["work"] != "search":
            continue
        engine = line["engine"] if line["engine"].startswith("ragtune") else line["engine"].split()[0]
        labels[engine] = line["engine"]
        found[engine][line["round"]].append((line["recall_at_10"], line["questions"] / min(line[args.clock])))
        about.setdefault(engine, []).append(line)
    text = "\n".join([*speeds(found, labels), "", *ratios(found), "", *sizes(about, labels)]) + "\n"
    (args.run / "table.md").write_text(text)
    print(text, end="")


def speeds(found, labels):
    beams = [engine for engine in found if engine not in ("ragtune exact", "numpy")]
    yield "| recall@10 | " + " | ".join(labels[engine] for engine in beams) + " |"
    yield "|---|" + "---|" * len(beams)
    for recall in RECALLS:
        cells = [[at(points, recall) for points in found[engine].values()] for engine in beams]
        yield f"| {recall} | " + " | ".join(middle(cell) for cell in cells) + " |"
    for engine in ("ragtune exact", "numpy"):
        if engine in found:
            speeds = [max(speed for _, speed in points) for points in found[engine].values()]
            yield f"\n1.0, all questions at once: {labels[engine]} {middle(speeds)}"


def ratios(found):
    peers = [engine for engine in GOALS if engine in found]
    yield "Questions a second of ragtune's graph over those of the other at the same recall:"
    yield ""
    yield "| recall@10 | " + " | ".join(f"{engine} (goal {GOALS[engine]:g})" for engine in peers) + " |"
    yield "|---|" + "---|" * len(peers)
    for recall in RECALLS:
        cells = []
        for engine in peers:
            pairs = [(at(found["ragtune"][turn], recall), at(found[engine][turn], recall))
                     for turn in found["ragtune"].keys() & found[engine].keys()]
            values = [ours / theirs for ours, theirs in pairs if ours and theirs]
            cells.append(f"{statistics.median(values):.2f} ({min(values):.2f} to {max(values):.2f})" if values else "-")
        yield f"| {recall} | " + " | ".join(cells) + " |"


def sizes(about, labels):
    yield "| engine | build, s | bytes a passage beside the vector |"
    yield "|---|---|---|"
    for engine, lines in about.items():
        if engine in ("ragtune exact", "numpy"):
            continue
        size = lines[0].get("bytes_per_passage", 0)
        yield f"| {labels[engine]} | {min(line['build_seconds'] for line in lines):.2f} | {f'{size:.0f}' if size else '-'} |"


def at(points, recall):
    """Questions a second at a recall; None when no width of the beam reaches it."""
    points = sorted(points)
    reached = [point for point in points if point[0] >= recall]
    below = [point for point in points if point[0] < recall]
    if not reached:
        return None
    best = max(speed for _, speed in reached)
    if not below:
        return best
    (low, slow), (high, fast) = below[-1], reached[0]
    missed = [math.log(max(1 - value, 1e-6)) for value in (low, recall, high)]
    share = (missed[0] - missed[1]) / (missed[0] - missed[2])
    return max(best, math.exp(math.log(slow) + share * (math.log(fast) - math.log(slow))))


def middle(values):
    values = [value for value in values if value]
    return f"{statistics.median(values):,.0f}".replace(",", " ") if values else "-"


if __name__ == "__main__":
    main()
