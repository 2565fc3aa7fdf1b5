#!/usr/bin/env bash
# Throws bad input at the parts that read it (fuzz/): a fixed number of inputs from a fixed seed, so
# that a run can be repeated; `fuzz.sh SECONDS [TARGET…]` for new ones, as long as you like. The input that made one fail is printed and kept in target/fuzz/artifacts.
# cargo-fuzz needs flags that only nightly takes, so the stable compiler is told to take them.
set -euo pipefail

ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
# Built once for all checkouts, beside what cargo keeps.
TOOLS=${CARGO_HOME:-$HOME/.cargo}/cobalt-tools
cd "$ROOT"
PATH=$PATH:$HOME/.cargo/bin
VERSION=0.13.2
TOOL=$TOOLS/cargo-fuzz-$VERSION
SECONDS_EACH=${1:-}
shift || true
# Some seconds each.
declare -A RUNS=([names]=150000 [plugin]=300000 [api]=15000 [records]=200000 [view]=60000 [host]=600000 [events]=300000)
TARGETS=("$@")
[ ${#TARGETS[@]} -gt 0 ] || TARGETS=(names plugin api records view host events)
# Memory errors are ruled out by the language in all that is fuzzed: no sanitizer, and it runs and
# builds in half the time.
BUILD=(--fuzz-dir fuzz --target-dir target/fuzz --sanitizer none)

if [ ! -x "$TOOL/bin/cargo-fuzz" ]; then
    cargo install --locked --quiet --root "$TOOL" --version "$VERSION" cargo-fuzz
fi
export RUSTC_BOOTSTRAP=1
export CARGO_TERM_COLOR=never
cargo fmt --manifest-path fuzz/Cargo.toml -- --check
"$TOOL/bin/cargo-fuzz" build "${BUILD[@]}"

HOST=$(rustc -vV | sed -n 's/^host: //p')
run() {
    local target=$1 corpus=target/fuzz/corpus/$1 artifacts=target/fuzz/artifacts/$1/
    local log=target/fuzz/$1.log
    local bounds=(-max_total_time="$SECONDS_EACH")
    if [ -z "$SECONDS_EACH" ]; then
        # The corpus of earlier runs would make it another run.
        corpus=$(mktemp -d)
        bounds=(-seed=1 -runs="${RUNS[$target]}" -max_total_time=120)
    fi
    mkdir -p "$corpus" "$artifacts"
    if "target/fuzz/$HOST/release/$target" "${bounds[@]}" -timeout=10 \
        -rss_limit_mb=1024 -max_len=8192 -dict=fuzz/words.dict -print_final_stats=1 \
        -artifact_prefix="$artifacts" "$corpus" "fuzz/seeds/$target" >"$log" 2>&1; then
        echo "fuzz $target: $(sed -n 's/^stat::number_of_executed_units: *//p' "$log") inputs"
        return
    fi
    grep -v '^#' "$log" | tail -n 40 >&2
    echo "fuzz $target FAILED: see $log and $artifacts" >&2
    return 1
}

# Two at a time.
status=0
for target in "${TARGETS[@]}"; do
    while [ "$(jobs -rp | wc -l)" -ge 2 ]; do wait -n || status=1; done
    run "$target" &
done
while [ -n "$(jobs -p)" ]; do wait -n || status=1; done
exit "$status"
