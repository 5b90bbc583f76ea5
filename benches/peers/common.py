"""What every peer shares: arguments, threads, repetitions, and the line that is printed (keys of benches/speed/measure.rs)."""

import argparse
import json
import os
import resource
import statistics
import time
from pathlib import Path

os.environ["CUDA_VISIBLE_DEVICES"] = ""
os.environ["TOKENIZERS_PARALLELISM"] = "true"
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TRANSFORMERS_VERBOSITY"] = "error"


def arguments(description, **defaults):
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--inputs", type=Path, required=True, help="the folder that inputs.py filled")
    parser.add_argument("--encoder", type=Path, help="a sentence-transformers folder")
    parser.add_argument("--generator", type=Path, help="the folder that random_llama.py made")
    parser.add_argument("--warm-up", type=int, default=1)
    parser.add_argument("--repetitions", type=int, default=defaults.pop("repetitions", 3))
    for name, value in defaults.items():
        parser.add_argument(f"--{name.replace('_', '-')}", **value)
    return parser.parse_args()


def threads():
    """As many as ragtune takes: RAYON_NUM_THREADS, or the cores this process may use."""
    return int(os.environ.get("RAYON_NUM_THREADS") or len(os.sched_getaffinity(0)))


def torch_on_cpu():
    """torch with its threads fixed; imported here so that a peer without it does not pay for it."""
    import torch

    torch.set_num_threads(threads())
    return torch


def read(args, file):
    return json.loads((args.inputs / file).read_text())


def status(key):
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(key):
            return int(line.split()[1]) * 1024
    return 0


def cpu_seconds():
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


class Line:
    """A line about one work; made before anything is loaded, printed last."""

    def __init__(self, work, side, unit):
        # Python and torch are loaded by now, as the program's own code is on the other side.
        self.values = {"work": work, "side": side, "unit": unit, "start_bytes": status("VmRSS:")}

    def measure(self, args, units, once, warm_up=None):
        """Runs once(repetition), repetitions counted from 0 with the warm-up; `units` of work are in each."""
        warm_up = args.warm_up if warm_up is None else warm_up
        wall, cpu = [], []
        for repetition in range(warm_up + args.repetitions):
            before, cpu_before = time.perf_counter(), cpu_seconds()
            once(repetition)
            if repetition >= warm_up:
                wall.append(time.perf_counter() - before)
                cpu.append(cpu_seconds() - cpu_before)
        median = statistics.median(wall)
        self.values |= {
            "units": units, "seconds": wall, "median": median, "min": min(wall), "max": max(wall),
            "cpu_seconds": statistics.median(cpu), "per_second": units / median, "threads": threads(),
        }

    def print(self, **found):
        print(json.dumps(self.values | {"peak_bytes": status("VmHWM:")} | found), flush=True)


def batch(batches, repetition):
    return batches[repetition % len(batches)]


def padded(torch, sequences, pad=0):
    """Ids padded on the right to the longest, and their mask, both (B, T) int64."""
    longest = max(map(len, sequences))
    ids = torch.tensor([row + [pad] * (longest - len(row)) for row in sequences])
    mask = torch.tensor([[1] * len(row) + [0] * (longest - len(row)) for row in sequences])
    return ids, mask


def adamw(torch, parameters, learning_rate):
    """The optimiser that transformers' Trainer takes by default with this torch: fused, here without weight decay."""
    trained = [parameter for parameter in parameters if parameter.requires_grad]
    return torch.optim.AdamW(trained, lr=learning_rate, weight_decay=0.0, fused=True)
