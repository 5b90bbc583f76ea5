"""The comparisons of benches/lawton.sh as one table for README: quality over the seeds, difference to generator alone, cost with and
without the search of learning rates.

    python lawton_table.py NAME=FOLDER [NAME=FOLDER ...]

CPU s: what a run costs by itself, evaluation included, mean over the seeds, stages that were shared charged in full; refreshes: index
refreshes, the last one before the evaluation included; search: what all points of its learning rates cost in CPU seconds, once for
all seeds: every stage that they trained or took from others, once, and their evaluations. The chosen points are among them, whose
training is in the CPU seconds of a run too; `ragtune compare` leaves out of its `learning-rate search` what the runs are charged for
already, so that there the two add up.
"""

import gzip
import json
import pathlib
import statistics
import sys


def records(folder):
    for path in sorted((folder / "runs").glob("*/record.json")):
        yield json.loads(path.read_text())
    for path in sorted((folder / "records").glob("*.json.gz")):
        yield json.loads(gzip.decompress(path.read_bytes()))


def cpu(ledgers, activity=None):
    return sum(
        entry["cpu_seconds"] for ledger in ledgers for entry in ledger["entries"] if activity in (None, entry["activity"])
    )


def bill(record):
    return [record["ledger"]] + [stage["ledger"] for stage in record["stages"] if stage["reused"]]


def searched(points):
    """The ledgers of a search: what its points spent, and each stage once that they took over and none of them trained."""
    ledgers = [point["ledger"] for point in points]
    stages = [stage for point in points for stage in point.get("stages", [])]
    trained = {stage["id"] for stage in stages if not stage["reused"]}
    ledgers += {stage["id"]: stage["ledger"] for stage in stages if stage["id"] not in trained}.values()
    # Records of earlier versions tell of the searched stage alone.
    return ledgers + [point["training"] for point in points if "training" in point]


def main():
    for name, folder in (one.split("=", 1) for one in sys.argv[1:]):
        runs = {}
        for record in records(pathlib.Path(folder)):
            if record["status"] == "finished":
                runs.setdefault(record["label"] or record["strategy"], []).append(record)
        order = sorted(runs, key=lambda label: min(record["started"] for record in runs[label]))
        print(f"**{name}**\n")
        print("| strategy | EM (each seed) | F1 | recall@1 | recall@5 | CPU s of a run | of it refreshes | of its search | rates |")
        print("|---|---|---|---|---|---|---|---|---|")
        for label in order:
            of = sorted(runs[label], key=lambda record: record["seed"])
            finals = [next(e for e in reversed(record["evaluations"]) if e["name"] == "final") for record in of]
            mean = lambda read: 100 * statistics.mean(read(final) for final in finals)
            seeds = ", ".join(f"{100 * final['em']:.1f}" for final in finals)
            runs_cpu = statistics.mean(cpu(bill(record)) for record in of)
            refreshes = statistics.mean(cpu(bill(record), "refresh") for record in of)
            points = of[0].get("search", [])
            search = cpu(searched(points))
            rates = sorted({(record["config"]["lr-encoder"], record["config"]["lr-generator"]) for record in of})
            print(
                f"| {label} | {mean(lambda f: f['em']):.1f} ({seeds}) | {mean(lambda f: f['f1']):.1f} | "
                f"{mean(lambda f: f['recall']['1']):.1f} | {mean(lambda f: f['recall']['5']):.1f} | {runs_cpu:.0f} | {refreshes:.0f} | {search:.0f} | "
                f"{'; '.join(f'{e:g}, {g:g}' for e, g in rates)} |"
            )
        print()


if __name__ == "__main__":
    main()
