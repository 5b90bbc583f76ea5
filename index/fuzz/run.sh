#!/usr/bin/env bash
# Fuzzes every reader of files, led by coverage: RAGTUNE_FUZZ_SECONDS (60) in all, shared by the targets.
#   index/fuzz/run.sh              what CI does: from the seeds, in the same order every time
#   index/fuzz/run.sh graph FILE   feeds one input to one target, for instance one that was found
#   index/fuzz/run.sh lint         format and lints of this directory
#
# Sets the flags of `cargo fuzz --sanitizer none` by itself: so a clean checkout on a machine that reaches crates.io alone needs
# no further program and no other compiler than stable Rust. `cargo fuzz run graph --sanitizer none` in index/ does the same
# with a corpus that stays, for those who have it. What is found lies in the target directory; nothing is written beside the
# sources.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"

stop() {
  printf 'fuzz: %s\n' "$1" >&2
  printf 'hint: %s\n' "$2" >&2
  exit 2
}

targets=(graph vectors lexical sealed journal)
seconds="${RAGTUNE_FUZZ_SECONDS:-60}"
# libFuzzer takes no seconds for all of them.
[[ "$seconds" =~ ^[0-9]{1,7}$ ]] && [ "$((10#$seconds))" -ge ${#targets[@]} ] ||
  stop "\`$seconds\` is no value for RAGTUNE_FUZZ_SECONDS" "a number of seconds, at least ${#targets[@]}"
seconds=$((10#$seconds))
command -v cargo >/dev/null 2>&1 || stop "cargo is not installed" "install Rust 1.95 or later (rustup.rs), then run this again"
command -v "${CXX:-c++}" >/dev/null 2>&1 ||
  stop "no C++ compiler (${CXX:-c++}) is installed, which libFuzzer is built with" "apt-get install g++, or set CXX to one"

host=$(rustc -vV | sed -n 's/^host: //p')
out="${CARGO_TARGET_DIR:-$PWD/target}"
export CARGO_TARGET_DIR="$out"
# `--target`, so that build scripts and macros are compiled without them.
RUSTFLAGS="-Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4 -Cllvm-args=-sanitizer-coverage-inline-8bit-counters"
RUSTFLAGS+=" -Cllvm-args=-sanitizer-coverage-pc-table -Cllvm-args=-sanitizer-coverage-trace-compares"
RUSTFLAGS+=" -Cllvm-args=-simplifycfg-branch-fold-threshold=0"
export RUSTFLAGS
if [ "${1:-}" = lint ]; then
  cargo fmt --check
  exec cargo clippy --locked --release --target "$host" -- -D warnings
fi
cargo build --locked --release --target "$host" --bins
programs="$out/$host/release"

if [ $# -gt 0 ]; then
  [[ " ${targets[*]} " == *" $1 "* ]] || stop "there is no target \`$1\`" "choose one of: ${targets[*]}"
  exec "$programs/$1" "${@:2}"
fi

found="$out/found"
mkdir -p "$found"
failed=""
for target in "${targets[@]}"; do
  corpus="$out/corpus/$target"
  log="$found/$target.log"
  rm -rf "$corpus"
  mkdir -p "$corpus"
  limits=(-seed=1 -max_total_time="$((seconds / ${#targets[@]}))" -max_len=2048 -timeout=10 -rss_limit_mb=2048)
  case "$target" in sealed | journal) limits+=(-dict=json.dict) ;; esac
  if "$programs/$target" "$corpus" "${limits[@]}" -artifact_prefix="$found/$target-" -print_final_stats=1 >"$log" 2>&1; then
    awk -v target="$target" '$2 == "INITED" { from = $4 } $2 == "DONE" { to = $4; of = $6 }
      /number_of_executed_units/ { runs = $2 } /average_exec_per_sec/ { rate = $2 }
      END { printf "fuzz: %s: %d inputs, %d a second, coverage %d to %d edges\n", target, runs, rate, from, to }' "$log"
  else
    failed+=" $target"
    grep -v -E '^#[0-9]+|NEW_FUNC' "$log" | tail -n 80 >&2
    # None was written where already a seed did it.
    input=$(sed -n 's/.*Test unit written to //p' "$log" | tail -n 1)
    printf 'fuzz: %s failed\nhint: CARGO_TARGET_DIR=%s index/fuzz/run.sh %s %s\n' "$target" "$out" "$target" "${input:-"$corpus"}" >&2
  fi
done
[ -z "$failed" ]
