#!/usr/bin/env bash
# Builds the Debian packages cobaltd, cobalt and cobalt-docker-plugin into target/debian.
# PROFILE=dev packages the debug programs, which tests use: they are built already.
set -euo pipefail

ROOT=$(cd "$(dirname "$0")/.." && pwd)
# Built once for all checkouts, beside what cargo keeps.
TOOLS=${CARGO_HOME:-$HOME/.cargo}/cobalt-tools
cd "$ROOT"
PATH=$PATH:$HOME/.cargo/bin
PROFILE=${PROFILE:-release}
OUT=$ROOT/target/debian

command -v dpkg-shlibdeps >/dev/null || {
    echo "dpkg-shlibdeps is missing: apt-get install dpkg-dev" >&2
    exit 1
}
if command -v cargo-deb >/dev/null 2>&1; then
    TOOL=$(command -v cargo-deb)
else
    TOOL=$TOOLS/bin/cargo-deb
    [ -x "$TOOL" ] || cargo install --locked --quiet --root "$TOOLS" cargo-deb
fi

cargo build --locked --profile "$PROFILE" -p cobaltd -p cobalt-docker-plugin
rm -rf target/manual
# One build of both, with the same features as the programs of the tests.
cargo run --locked --quiet -p cobaltd --example manual -- target/manual
cargo run --locked --quiet -p cobalt-docker-plugin --example manual -- target/manual

mkdir -p "$OUT"
rm -f "$OUT"/*.deb
package() { "$TOOL" --quiet --no-build --locked --profile "$PROFILE" --output "$OUT/" "$@"; }
package -p cobaltd
package -p cobaltd --variant daemon
package -p cobalt-docker-plugin
ls -l "$OUT"
