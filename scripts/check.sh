#!/usr/bin/env bash
# The quick part: format, lints, unit tests and scenarios on fakes. Needs no root.
set -uo pipefail

# shellcheck source=scripts/test-lib.sh
. "$(dirname "$0")/test-lib.sh"

quick
finish
