# Sourced by fixtures/demo.sh and tests/run.sh: brings what the build needs, or says what to install and stops.
# Needs nothing but a Debian-like machine with git, gcc, python3 and Rust 1.95.

stop() {
  printf 'setup: %s\n' "$1" >&2
  printf 'hint: %s\n' "$2" >&2
  exit 2
}

command -v cargo >/dev/null 2>&1 || stop "cargo is not installed" "install Rust 1.95 or later (rustup.rs), then run this again"
rust=$(rustc --version | sed -E 's/^rustc ([0-9]+)\.([0-9]+).*/\1 \2/')
read -r rust_major rust_minor <<<"$rust"
if [ "$rust_major" -lt 1 ] || { [ "$rust_major" -eq 1 ] && [ "$rust_minor" -lt 95 ]; }; then
  stop "rustc $rust_major.$rust_minor is too old, expected 1.95 or later" "rustup update stable"
fi
command -v cc >/dev/null 2>&1 || stop "no C compiler (cc) is installed" "apt-get install gcc libc6-dev"

# Lance generates code from protocol buffer files while it is built.
if [ -z "${PROTOC:-}" ] && ! command -v protoc >/dev/null 2>&1; then
  as_root=""
  if [ "$(id -u)" -ne 0 ]; then
    as_root="sudo -n"
    sudo -n true 2>/dev/null || stop "protoc is not installed and this user cannot install it" \
      "as root: apt-get install protobuf-compiler; or set PROTOC to a protoc program"
  fi
  command -v apt-get >/dev/null 2>&1 || stop "protoc is not installed" \
    "install the protocol buffer compiler (Debian: protobuf-compiler), or set PROTOC to a protoc program"
  printf 'setup: installing protobuf-compiler\n' >&2
  $as_root apt-get update -qq >&2 || stop "the package lists cannot be fetched" "apt-get update, then apt-get install protobuf-compiler"
  DEBIAN_FRONTEND=noninteractive $as_root apt-get install -y -qq protobuf-compiler >/dev/null ||
    stop "protobuf-compiler cannot be installed" "as root: apt-get install protobuf-compiler"
fi
