# shellcheck shell=bash
# Runs checks and tests one after the other, all of them also when one fails, and adds up what
# they say. Sourced, never run.

ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
cd "$ROOT" || exit 1
# Built once for all checkouts, beside what cargo keeps.
TOOLS=${CARGO_HOME:-$HOME/.cargo}/cobalt-tools
PATH=$PATH:/usr/sbin:/sbin:$HOME/.cargo/bin
# A shell that has read .up.env must not lead the tests astray.
unset "${!COBALT_@}" "${!DOCKER_@}"
export CARGO_TERM_COLOR=${CARGO_TERM_COLOR:-never}
# The profile in .config/nextest.toml, and how often the lab tries again what failed.
PROFILE_OF_TESTS=default
LAB_RETRIES=0
if [ -n "${CI:-}" ]; then PROFILE_OF_TESTS=ci LAB_RETRIES=1; fi
PASSED=0
FAILED=0
OUTPUT=$(mktemp)
trap 'rm -f "$OUTPUT"' EXIT

# check COMMAND…: counts as one, passed or failed.
check() {
    echo "=== $*"
    if "$@" </dev/null; then
        PASSED=$((PASSED + 1))
    else
        FAILED=$((FAILED + 1))
        echo "=== FAILED: $*"
        return 1
    fi
}

# tests COMMAND…: counts what `cargo test` or `cargo nextest run` says of itself.
tests() {
    local status passed failed
    echo "=== $*"
    "$@" </dev/null 2>&1 | tee "$OUTPUT"
    status=${PIPESTATUS[0]}
    read -r passed failed < <(count_tests <"$OUTPUT")
    PASSED=$((PASSED + passed))
    # A run that could not be built, or was killed, has failed without saying a number.
    if [ "$status" != 0 ] && [ "$failed" = 0 ]; then failed=1; fi
    FAILED=$((FAILED + failed))
    if [ "$status" != 0 ]; then echo "=== FAILED: $*"; fi
}

count_tests() {
    sed 's/\x1b\[[0-9;]*m//g' | awk '
        # cargo test: "test result: ok. 3 passed; 1 failed; …"
        /^test result:/ { passed += number("passed"); failed += number("failed") }
        # nextest: "Summary [ 1.2s] 4 tests run: 3 passed (1 slow), 1 failed, 1 timed out, …"
        /^ *Summary \[/ {
            passed += number("passed")
            failed += number("failed") + number("timed out") + number("exec failed")
        }
        function number(word) {
            if (!match($0, "[0-9]+ " word)) return 0
            return substr($0, RSTART, RLENGTH) + 0
        }
        END { print passed + 0, failed + 0 }'
}

# What check.sh is, and test.sh begins with.
quick() {
    for tool in fmt clippy; do
        cargo "$tool" --version >/dev/null 2>&1 || {
            echo "cargo $tool is missing: rustup component add rustfmt clippy" >&2
            exit 1
        }
    done

    check cargo fmt --all -- --check
    check cargo clippy --locked --workspace --all-targets --features cobalt-integration/lab \
        -- -D warnings
    if cargo nextest --version >/dev/null 2>&1; then
        tests cargo nextest run --locked --profile "$PROFILE_OF_TESTS" --no-fail-fast \
            --workspace --exclude cobalt-integration
        # nextest runs no examples in doc comments.
        tests cargo test --locked --workspace --exclude cobalt-integration --doc
    else
        tests cargo test --locked --workspace --exclude cobalt-integration --no-fail-fast
    fi
}

# The total, as the very last line and as exit status.
finish() {
    echo "$PASSED passed, $FAILED failed"
    [ "$FAILED" = 0 ]
}
