#!/usr/bin/env bash
# Builds the plug-in into .venv, tests it or lints it: native.sh build|test|lint.
# Where it cannot be done, one line says what is left out; PORTASK_REQUIRE_NATIVE=1 makes that an error.
set -euo pipefail
cd "$(dirname "$0")"
venv=$(cd ../.. && pwd)/.venv

left_out() {
    echo "portask-native is left out of this $1: $2 (PORTASK_REQUIRE_NATIVE=1 makes this an error)" >&2
    [ "${PORTASK_REQUIRE_NATIVE:-}" != 1 ] || exit 1
    exit 0
}

[ "$1" = build ] || [ -e "$venv/.native" ] || exit 0 # the build said it

command -v cargo >/dev/null || left_out "$1" "there is no cargo; Rust 1.88 or later brings it"
why=$(cargo fetch 2>&1) || left_out "$1" "cargo cannot fetch its crates: $(grep -m1 error <<<"$why" || tail -1 <<<"$why")"

case $1 in
build)
    maturin='maturin>=1.9,<2'
    "$venv/bin/python" -m pip install --quiet --disable-pip-version-check "$maturin" || left_out build "pip cannot bring $maturin"
    said=$(VIRTUAL_ENV=$venv "$venv/bin/maturin" develop --release 2>&1) || { echo "$said" >&2; exit 1; }
    touch "$venv/.native"
    ;;
test)
    cargo test --quiet --no-default-features
    # The same rings in loom's model of the memory: every order of their sides' steps, up to so many preemptions.
    RUSTFLAGS="--cfg loom" CARGO_TARGET_DIR=target/loom LOOM_MAX_PREEMPTIONS=3 \
        cargo test --quiet --no-default-features ring::
    ;;
lint)
    cargo fmt --check
    cargo clippy --quiet --all-targets -- -D warnings
    cargo clippy --quiet --all-targets --no-default-features -- -D warnings
    ;;
esac
