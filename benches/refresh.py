"""A table of what refresh policies cost and what they are worth, from the run folders of benches/refresh.sh.

    python3 benches/refresh.py FOLDER

Share and CPU share: seconds, and processor seconds, charged to refreshes during training, the last one before the final
evaluation left out (every policy that moves passages pays it), of all that training and these refreshes took. Recall: of the
index by its own ranking, before each refresh, against exact search among live vectors (`~`: estimated on a pool of passages, an
upper bound; behind `>`: of the same index with its candidates ranked by live vectors, which is what `rows` and `lazy` read); the
last is just before the final refresh.
"""

import json
import pathlib
import sys


def entries(ledger, activity):
    return [entry for entry in ledger["entries"] if entry["activity"] == activity]


def total(ledger, activity, key):
    return sum(entry[key] for entry in entries(ledger, activity))


def share(part, whole):
    return f"{100 * part / whole:.1f} %" if whole else "-"


def percent(value):
    return "-" if value is None else f"{100 * value:.1f}"


def recall(refresh):
    if refresh["recall_before"] is None:
        return "-"
    mark = "~" if "estimated" in refresh["measured"] else ""
    ranked = refresh.get("recall_reranked")
    return f"{mark}{refresh['recall_before']:.3f}" + (f">{ranked:.3f}" if ranked is not None else "")


def spent(record):
    """Of seconds and CPU seconds: those of refreshes during training, and those of training and these refreshes."""
    # A stage that another run trained is charged here all the same.
    ledgers = [record["ledger"]] + [stage["ledger"] for stage in record["stages"] if stage["reused"]]
    last = record["refreshes"][-1] if record["refreshes"] else None
    spent = {}
    for key in ("seconds", "cpu_seconds"):
        ending = (sum(last["seconds"].values()) if key == "seconds" else last["cpu_seconds"]) if last else 0
        of_refresh = max(0.0, sum(total(ledger, "refresh", key) for ledger in ledgers) - ending)
        spent[key] = (of_refresh, of_refresh + sum(total(ledger, "train", key) for ledger in ledgers))
    return spent


def row(run):
    record = json.loads((run / "record.json").read_text())
    seconds, cpu_seconds = spent(record)["seconds"], spent(record)["cpu_seconds"]
    final = next(e for e in reversed(record["evaluations"]) if e["name"] == "final")
    refreshes = record["refreshes"]
    last = refreshes[-1] if refreshes else None
    embedded = sum(r["passages"] + r["between"] for r in refreshes)
    ending = last["passages"] if last else 0
    graph = [r["seconds"].get("graph", 0.0) for r in refreshes]
    cells = [
        record["label"] or record["strategy"],
        percent(final["recall"].get("5")),
        percent(final["em"]),
        percent(final["f1"]),
        f"{cpu_seconds[1]:.0f} s",
        share(*seconds),
        share(*cpu_seconds),
        f"{embedded - ending} + {ending}",
        " ".join(recall(r) for r in refreshes) or "-",
        " ".join(f"{seconds:.2f}" for seconds in graph) or "-",
        " ".join(r["graph"] for r in refreshes) or "-",
    ]
    return record["seed"], cells


def main():
    folder = pathlib.Path(sys.argv[1])
    runs = [path.parent for path in (folder / "runs").glob("*/record.json")]
    done = [run for run in runs if json.loads((run / "record.json").read_text())["status"] == "finished"]
    # In the order in which they were trained.
    done.sort(key=lambda run: json.loads((run / "record.json").read_text())["started"])
    head = [
        "policy", "recall@5", "EM", "F1", "CPU time of training and refreshes", "refresh share", "CPU share",
        "passages embedded + at the end", "recall@10 before each refresh", "graph seconds", "graph",
    ]
    print("| " + " | ".join(head) + " |")
    print("|" + "---|" * len(head))
    for run in done:
        seed, cells = row(run)
        cells[0] += f" (seed {seed})" if len({row(other)[0] for other in done}) > 1 else ""
        print("| " + " | ".join(cells) + " |")


if __name__ == "__main__":
    main()
