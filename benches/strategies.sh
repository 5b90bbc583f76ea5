#!/usr/bin/env bash
# Lawton's strategies and DRO with the fixture models on the fixture corpus: searched learning rates, three seeds, shared stages.
# Stopped, the same command goes on.
#
#   bash benches/strategies.sh FOLDER
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
. tests/setup.sh
out="${1:?usage: bash benches/strategies.sh FOLDER}"
ragtune="${RAGTUNE:-${CARGO_TARGET_DIR:-target}/release/ragtune}"
mkdir -p "$out"
# One that was begun goes on, one that is there is left as it is.
"$ragtune" index build --corpus fixtures/nq/corpus.jsonl --encoder fixtures/models/encoder --out "$out/index"
sed "s|@OUT@|$out|" "${SETTINGS:-benches/strategies.toml}" >"$out/compare.toml"
"$ragtune" compare --config "$out/compare.toml" --html "$out/report.html" | tee "$out/comparison.txt"
"$ragtune" compare --config "$out/compare.toml" --markdown >"$out/comparison.md"
"$ragtune" compare --config "$out/compare.toml" --json >"$out/comparison.json"
