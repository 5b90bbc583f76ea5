"""The table of benches/gpu.sh out of its raw lines. Exit code 1 where losses of the two sides are further apart than stated.

Ratio: seconds of the peer over seconds of ragtune in the same round (above 1: ragtune is faster), the median of the rounds and
their range. Memory on a device: the driver's used memory at its highest minus what was used before, polled ten times a second, so
that both sides are read by the same measure; what torch says it allocated stands beside it. On the CPU: the largest resident memory.

Run: python benches/peers/gpu_table.py RUN
"""

import argparse
import json
import statistics
from collections import defaultdict
from pathlib import Path

PEERS = {"embed": "sentence-transformers", "mnrl": "torch", "generator": "transformers-peft", "joint": "transformers-peft"}
# Largest relative difference of losses: all f32; products of f32 rounded to TF32; a base in bf16, which the peer's activations
# are in, too, while ragtune's stay f32 between products.
F32, TF32, BF16 = 1e-3, 2e-2, 5e-2
SPEED, MEMORY = 0.9, 1.0


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", type=Path)
    args = parser.parse_args()
    settings = json.loads((args.run / "settings.json").read_text())
    lines = defaultdict(dict)
    for text in (args.run / "raw.jsonl").read_text().splitlines():
        line = json.loads(text)
        lines[line["work"], line["side"]][line["round"]] = line
    rows, apart = [], []
    for work, peer in PEERS.items():
        ours, theirs = lines.get((work, "ragtune")), lines.get((work, peer))
        if ours and theirs:
            rows.append(row(work, peer, ours, theirs))
            apart += check(work, settings, ours, theirs)
    text = "\n".join([
        "Device `{device}` ({device_name}), encoder {encoder} f32, generator {generator} {generator_dtype} with LoRA, sequence "
        "{sequence}, TF32 {rounding} on both sides.".format(rounding="on" if settings["tf32"] else "off", **settings),
        "", f"| work | ragtune | peer | ratio (range), goal >= {SPEED} | memory, goal <= {MEMORY} | torch allocated |",
        "|---|---|---|---|---|---|", *rows, "", *(f"- {'ok' if ok else 'DIFFERENT'}: {what}" for ok, what in apart), ""])
    (args.run / "table.md").write_text(text)
    print(text, end="")
    raise SystemExit(0 if all(ok for ok, _ in apart) else 1)


def row(work, peer, ours, theirs):
    rounds = sorted(ours.keys() & theirs.keys())
    speed = [theirs[r]["median"] / ours[r]["median"] for r in rounds]

    def peak(side):
        known = [side[r].get("device_bytes") or side[r]["peak_bytes"] for r in rounds]
        return statistics.median(known) / 2**20

    def rate(side):
        unit = side[rounds[0]]["unit"]
        if unit == "steps":
            return f"{statistics.median(side[r]['median'] for r in rounds):.3f} s"
        return f"{statistics.median(side[r]['per_second'] for r in rounds):.1f} {unit}/s"

    allocated = [theirs[r]["device_bytes_allocated"] for r in rounds if theirs[r].get("device_bytes_allocated")]
    beside = f"{statistics.median(allocated) / 2**20:.0f} MiB" if allocated else "none"
    ratio = f"{statistics.median(speed):.2f} ({min(speed):.2f} to {max(speed):.2f})"
    return (f"| {work} | {rate(ours)} | {rate(theirs)} ({peer}) | {ratio} "
            f"| {peak(ours) / peak(theirs):.2f} ({peak(ours):.0f} / {peak(theirs):.0f} MiB) | {beside} |")


def check(work, settings, ours, theirs):
    most = TF32 if settings["tf32"] else F32
    if work in ("generator", "joint") and settings["generator_dtype"] != "f32":
        most = max(most, BF16)
    for r in sorted(ours.keys() & theirs.keys()):
        if "losses" not in ours[r]:
            continue
        off = max(abs(a - b) / max(abs(b), 1e-12) for a, b in zip(ours[r]["losses"], theirs[r]["losses"], strict=True))
        yield off <= most, f"{work}, round {r}: losses differ by {off:.1e} relative (at most {most:.0e})"


if __name__ == "__main__":
    main()
