"""The table of benches/speed.sh out of its raw lines, after checking that both sides computed the same.

Reads RUN/raw.jsonl and the vectors under WORK/vectors, writes RUN/table.md and prints it. Exit code 1 when something differs.

Ratio: seconds of the peer over seconds of ragtune in the same round (above 1: ragtune is faster), the median of the rounds and
their range. Memory: peak of ragtune over peak of the peer.

Run: python benches/peers/table.py RUN --work WORK
"""

import argparse
import json
import statistics
from collections import defaultdict
from pathlib import Path

# Work, side of ragtune, peer, what it is, least ratio of speed, largest ratio of memory.
ROWS = [
    ("embed", "ragtune", "sentence-transformers", "embed {units} nq-qed passages, MiniLM, f32", 1.0, None),
    ("embed", "ragtune", "onnxruntime-int8", "the same, f32 beside int8", None, None),
    ("embed", "ragtune-bf16", "sentence-transformers", "the same, bf16 beside f32", 1.6, None),
    ("embed", "ragtune-bf16", "onnxruntime-int8", "the same, bf16 beside int8", 1.0, None),
    ("embed", "ragtune-int8", "sentence-transformers", "the same, int8 beside f32", 1.6, None),
    ("embed", "ragtune-int8", "onnxruntime-int8", "the same, int8 beside int8", 1.0, None),
    ("mnrl", "ragtune", "torch", "MNRL step, MiniLM in full, batch 32", 1.3, 0.7),
    ("mnrl", "ragtune", "torch-compiled", "the same, beside torch.compile", None, None),
    ("generator", "ragtune", "transformers-peft", "generator step, LoRA r=16, 4 x 5 prompts of 256 tokens", 1.3, 0.7),
    ("joint", "ragtune", "transformers-peft", "joint RAG-Token step, same models, live passages", 1.5, 0.7),
    ("decode", "ragtune", "transformers", "greedy decoding, 8 prompts of 256 tokens, 32 new", 1.5, None),
    ("matmul", "ragtune", "torch", "f32 matrix products in MiniLM's shapes", None, None),
]
# Largest differences: of a vector's component, and relative of a loss.
VECTORS, LOSSES = 1e-5, 1e-4
# Of the matrix products' limit, for embedding.
LIMIT = 0.9


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", type=Path)
    parser.add_argument("--work", type=Path, required=True, help="the folder with inputs and vectors")
    args = parser.parse_args()
    # (work, side) -> round -> line
    lines = defaultdict(dict)
    for text in (args.run / "raw.jsonl").read_text().splitlines():
        line = json.loads(text)
        lines[line["work"], line["side"]][line["round"]] = line
    checks = list(check(lines, args.work))
    text = "\n".join([*table(lines), "", *limit(lines), "", "Both sides computed the same:" , ""]
                     + [f"- {'ok' if ok else 'DIFFERENT'}: {what}" for ok, what in checks]) + "\n"
    (args.run / "table.md").write_text(text)
    print(text, end="")
    raise SystemExit(0 if all(ok for ok, _ in checks) else 1)


def table(lines):
    yield "| work | ragtune | peer | ratio (range) | peak memory | goal | met |"
    yield "|---|---|---|---|---|---|---|"
    for work, side, peer, what, least, most in ROWS:
        ours, theirs = lines.get((work, side)), lines.get((work, peer))
        if not ours or not theirs:
            continue
        rounds = sorted(ours.keys() & theirs.keys())
        if not rounds:
            continue
        speed = [theirs[r]["median"] / ours[r]["median"] for r in rounds]
        memory = statistics.median(ours[r]["peak_bytes"] / theirs[r]["peak_bytes"] for r in rounds)
        mib = [statistics.median(side[r]["peak_bytes"] for r in rounds) / 2**20 for side in (ours, theirs)]
        ratio = statistics.median(speed)
        goals, met = [], []
        if least:
            goals.append(f">= {least}x")
            met.append(ratio >= least)
        if most:
            goals.append(f"memory <= {most}x")
            met.append(memory <= most)
        verdict = " ".join("yes" if one else "no" for one in met)
        yield (
            f"| {what.format(units=ours[rounds[0]]['units']).replace('.0 ', ' ')} | {rate(ours, rounds)} "
            f"| {rate(theirs, rounds)} ({peer}) | {ratio:.2f} ({min(speed):.2f} to {max(speed):.2f}) "
            f"| {memory:.2f} ({mib[0]:.0f} / {mib[1]:.0f} MiB) | {', '.join(goals)} | {verdict} |"
        )


def rate(lines, rounds):
    """The median of the rounds: seconds of a step, else units a second."""
    unit = lines[rounds[0]]["unit"]
    if unit == "steps":
        return f"{statistics.median(lines[r]['median'] for r in rounds):.3f} s"
    return f"{statistics.median(lines[r]['per_second'] for r in rounds):.1f} {unit}/s"


def limit(lines):
    """How near embedding comes to what the matrix products alone would take."""
    products = lines.get(("matmul", "ragtune"))
    if not products:
        return
    gflops = statistics.median(line["per_second"] for line in products.values())
    linear = statistics.median(line["linear_gflops_per_second"] for line in products.values())
    yield f"Matrix products alone: {gflops:.1f} GFLOP/s through candle, {linear:.1f} through ragtune's layer."
    embedded = lines.get(("embed", "ragtune"), {}).values()
    if embedded:
        giga = max(line["flops"] for line in embedded) * 1e-9
        seconds = statistics.median(line["median"] for line in embedded)
        share = giga / gflops / seconds
        yield (f"At candle's speed the products of the embedded passages take {giga / gflops:.1f} s; embedding them in f32 takes "
               f"{seconds:.1f} s, tokenizer included: {share * 100:.0f} %; goal >= {LIMIT * 100:.0f} %: "
               f"{'yes' if share >= LIMIT else 'no'}.")


def check(lines, work):
    """(whether, what) for everything that must be equal."""
    for name, ours, peer, *_ in ROWS:
        pair = lines.get((name, ours)), lines.get((name, peer))
        if not all(pair):
            continue
        for key in ("losses", "written"):
            rounds = [r for r in sorted(pair[0].keys() & pair[1].keys()) if key in pair[0][r]]
            if not rounds:
                continue
            if key == "written":
                same = all(pair[0][r][key] == pair[1][r][key] for r in rounds)
                yield same, f"{name}: every token of {ours} and {peer}"
                continue
            off = 0.0
            for r in rounds:
                a, b = pair[0][r][key], pair[1][r][key]
                off = max([off, *(abs(x - y) / max(abs(y), 1e-12) for x, y in zip(a, b, strict=True))])
            yield off <= LOSSES, (f"{name}: losses of {ours} and {peer}, step by step, differ by {off:.1e} relative "
                                  f"(at most {LOSSES:.0e})")
    yield from vectors(work, [side for name, side in lines if name == "embed"])


def vectors(work, sides):
    if not sides:
        return
    import numpy

    inputs = json.loads((work / "inputs" / "embed.json").read_text())
    found = {}
    for side in sides:
        folder = work / "vectors" / side
        if not folder.is_dir():
            continue
        # All vectors here are of the encoder's width: questions tell it.
        questions = numpy.fromfile(folder / "questions.f32", "<f4").reshape(len(inputs["questions"]), -1)
        passages = numpy.fromfile(folder / "passages.f32", "<f4").reshape(-1, questions.shape[1])
        found[side] = passages, questions
    peer = "sentence-transformers"
    if peer not in found:
        return
    reference = recall(numpy, *found[peer], inputs["gold"])
    for side, (passages, questions) in sorted(found.items()):
        if side == peer:
            continue
        if passages.shape != found[peer][0].shape:
            yield False, f"embed: {side} has {passages.shape[0]} vectors, {peer} {found[peer][0].shape[0]}"
            continue
        off = max(abs(a - b).max() for a, b in zip((passages, questions), found[peer]))
        points = recall(numpy, passages, questions, inputs["gold"]) - reference
        what = (f"embed: vectors of {side} and {peer} differ by {off:.1e}, recall@10 by {points:+.2f} points "
                f"(from {reference:.2f})")
        if side == "ragtune":
            yield bool(off <= VECTORS), f"{what}; at most {VECTORS:.0e}"
        elif side.startswith("ragtune"):
            yield bool(abs(points) <= 0.2), f"{what}; at most 0.2 points"
        else:
            yield True, f"{what}; for information"


def recall(numpy, passages, questions, gold):
    """Share of questions, in per cent, with one of their gold passages among the ten nearest of those embedded."""
    asked = [row for row, ids in enumerate(gold) if any(id < len(passages) for id in ids)]
    hits = 0
    for first in range(0, len(asked), 256):
        rows = asked[first : first + 256]
        nearest = numpy.argsort(-(questions[rows] @ passages.T), axis=1, kind="stable")[:, :10]
        hits += sum(bool(set(gold[row]) & set(ten.tolist())) for row, ten in zip(rows, nearest))
    return 100.0 * hits / max(len(asked), 1)


if __name__ == "__main__":
    main()
