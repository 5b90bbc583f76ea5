"""The frontier of refresh policies as a picture: how true the index was while it trained, and the answers at the end, against what
the refreshes took, from the run folders of benches/refresh.sh.

    python refresh_plot.py OUT.svg TITLE=FOLDER [TITLE=FOLDER ...]

Needs matplotlib. Refreshes: share of the CPU seconds that training and refreshes took together, the last refresh before the
evaluation left out. Recall: as refresh.py has it, mean over the refreshes and the end, of the stale index against exact search
among live vectors, after live ranking where a policy ranks live. Bars: 95 % bootstrap intervals over questions.
"""

import json
import pathlib
import statistics
import sys

import matplotlib
import numpy

import refresh

matplotlib.use("svg")
matplotlib.rcParams.update({"svg.hashsalt": "ragtune", "svg.fonttype": "none", "font.size": 9})
import matplotlib.pyplot as plot  # noqa: E402


def bootstrap(scores):
    draws = numpy.random.default_rng(0).choice(scores, (2000, len(scores))).mean(axis=1)
    return numpy.percentile(draws, [2.5, 97.5])


def points(folder):
    for path in sorted((pathlib.Path(folder) / "runs").glob("*/record.json")):
        record = json.loads(path.read_text())
        if record["status"] != "finished":
            continue
        recalls = [
            one["recall_before"] if one.get("recall_reranked") is None else one["recall_reranked"] for one in record["refreshes"]
        ]
        recalls = [recall for recall in recalls if recall is not None]
        scores = [json.loads(line) for line in (path.parent / "scores-final.jsonl").read_text().splitlines()]
        yield {
            "name": record["label"],
            "share": 100 * refresh.spent(record)["cpu_seconds"][0] / refresh.spent(record)["cpu_seconds"][1],
            "recall": statistics.mean(recalls) if recalls else None,
            "f1": numpy.array([100 * one["f1"] for one in scores if one.get("f1") is not None]),
        }


def main():
    out, series = sys.argv[1], [one.split("=", 1) for one in sys.argv[2:]]
    figure, axes = plot.subplots(len(series), 2, figsize=(10, 3.6 * len(series)), squeeze=False)
    for (title, folder), (truth, answers) in zip(series, axes):
        for point in points(folder):
            if point["recall"] is not None:
                truth.plot(point["share"], point["recall"], "o", color="tab:blue")
                truth.annotate(point["name"], (point["share"], point["recall"]), xytext=(4, 4), textcoords="offset points")
            low, high = bootstrap(point["f1"])
            mean = point["f1"].mean()
            answers.errorbar(point["share"], mean, [[mean - low], [high - mean]], fmt="o", color="tab:orange", capsize=2)
            answers.annotate(point["name"], (point["share"], mean), xytext=(4, 4), textcoords="offset points")
        truth.set_ylabel("recall@10 of the index while it trained")
        answers.set_ylabel("F1 at the end")
        for axis in (truth, answers):
            axis.set_title(title)
            axis.set_xlabel("refreshes, % of the CPU time of training")
            axis.grid(alpha=0.3)
            axis.margins(x=0.15, y=0.12)
    figure.tight_layout()
    figure.savefig(out, metadata={"Date": None, "Creator": None})


if __name__ == "__main__":
    main()
