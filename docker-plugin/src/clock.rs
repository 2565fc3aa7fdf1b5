//! The one source of wall time, used only to say how old a thing is. Deadlines use a monotonic
//! clock.

/// Seconds since 1970.
#[expect(clippy::disallowed_methods, reason = "this is the one source")]
pub fn now_secs() -> u64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    since.map_or(0, |since| since.as_secs())
}
