"""What each strategy of benches/every.sh did: its losses at the beginning and the end of each stage, quality, cost. The questions are
read three times, so the first and the last third of the steps have the same ones.

    python every.py FOLDER
"""

import json
import pathlib
import statistics
import sys

folder = pathlib.Path(sys.argv[1])
records = [(path.parent, json.loads(path.read_text())) for path in (folder / "runs").glob("*/record.json")]
records = [(run, record) for run, record in records if record["status"] == "finished"]
records.sort(key=lambda one: one[1]["started"])
print("| strategy | loss of each stage, mean of its first and of its last third, the same questions | EM | recall@5 | CPU s of training | finite, gradients |")
print("|---|---|---|---|---|---|")
for run, record in records:
    falls, sound = [], True
    for stage in record["stages"]:
        # A stage that another run trained has its steps in the shared folder.
        own = folder / "stages" / stage["id"] / "metrics.jsonl"
        lines = [json.loads(line) for line in own.read_text().splitlines()] if own.exists() else []
        losses = [line["loss"] for line in lines if "loss" in line]
        third = max(1, len(losses) // 3)
        falls.append(f"{stage['name']} {statistics.mean(losses[:third]):.3f} -> {statistics.mean(losses[-third:]):.3f}" if losses else stage["name"])
        norms = [norm for line in lines for norm in line.get("gradient_norms", {}).values()]
        sound &= all(norm == norm and norm not in (float("inf"),) for norm in norms) and (any(norm > 0 for norm in norms) or not lines)
    final = next(one for one in record["evaluations"] if one["name"] == "final")
    ledgers = [record["ledger"]] + [stage["ledger"] for stage in record["stages"] if stage["reused"]]
    cpu = sum(entry["cpu_seconds"] for ledger in ledgers for entry in ledger["entries"] if entry["activity"] in ("train", "refresh"))
    print(
        f"| {record['label'] or record['strategy']} | {'; '.join(falls) or '-'} | {100 * final['em']:.1f} | "
        f"{100 * final['recall']['5']:.1f} | {cpu:.0f} | {'yes' if sound else 'NO'} |"
    )
