"""Prints what the measurements of benches/speed.sh and search.sh depend on, as one line of JSON: machine, versions, date, settings; no path."""

import datetime
import importlib.metadata
import json
import os
import subprocess

from common import threads

PACKAGES = ["torch", "transformers", "peft", "sentence-transformers", "tokenizers", "numpy", "onnx", "onnxruntime",
            "hnswlib", "faiss-cpu", "usearch"]
FLAGS = ["avx2", "avx512f", "avx512_vnni", "avx_vnni", "avx512_bf16", "amx_bf16", "amx_int8"]
SETTINGS = [
    "ROUNDS", "WORKS", "PASSAGES", "PRECISIONS", "REPETITIONS", "COMPILE", "LD_PRELOAD",
    "MALLOC_MMAP_THRESHOLD_", "MALLOC_TRIM_THRESHOLD_", "MALLOC_TOP_PAD_",
    "EFS", "LINKS", "EF_CONSTRUCTION", "SIZES", "NOISE", "CLOCK",
]


def field(file, key, separator):
    with open(file) as lines:
        found = [line.split(separator, 1)[1].strip() for line in lines if line.split(separator)[0].strip() == key]
    return found[0].strip('"') if found else "unknown"


def output(*command):
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def version(package):
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


flags = field("/proc/cpuinfo", "flags", ":").split()
print(json.dumps({
    "date": datetime.datetime.now(datetime.timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ"),
    "cpu": field("/proc/cpuinfo", "model name", ":"),
    "cpu_flags": [flag for flag in FLAGS if flag in flags],
    "cores": len(os.sched_getaffinity(0)),
    "threads": threads(),
    "memory": field("/proc/meminfo", "MemTotal", ":"),
    "os": field("/etc/os-release", "PRETTY_NAME", "="),
    "kernel": os.uname().release,
    "load_average": os.getloadavg(),
    "rustc": output("rustc", "--version"),
    "commit": output("git", "rev-parse", "HEAD"),
    "uncommitted_files": len(output("git", "status", "--short").splitlines()),
    "python": ".".join(map(str, __import__("sys").version_info[:3])),
    "packages": {package: version(package) for package in PACKAGES},
    "settings": {name: os.path.basename(os.environ[name]) for name in SETTINGS if name in os.environ},
}))
