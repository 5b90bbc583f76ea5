#!/usr/bin/env bash
# Passes the tests: all of them where ../shared is there, else all that need the repository alone (the others say that they
# were skipped). Sets up what the build needs first.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
. tests/setup.sh
cargo test --release --workspace --no-fail-fast "$@"
