//! The one place that reads the wall clock. Nothing is measured with it.

use std::time::{SystemTime, UNIX_EPOCH};

/// What the machine's clock says, in milliseconds since 1970; 0 before that.
#[expect(clippy::disallowed_methods, reason = "this is the one source of wall time here")]
pub fn now_ms() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
}
