//! Waiting for a condition with a deadline. What we wait for is seen from outside only, in
//! another process or the kernel, so it is polled at short intervals.

use std::time::{Duration, Instant};

const INTERVAL: Duration = Duration::from_millis(20);

/// Polls until `look` finds something, or `None` when `limit` has passed.
pub fn poll<T>(limit: Duration, mut look: impl FnMut() -> Option<T>) -> Option<T> {
    let end = Instant::now() + limit;
    loop {
        if let Some(found) = look() {
            return Some(found);
        }
        if Instant::now() >= end {
            return None;
        }
        std::thread::sleep(INTERVAL);
    }
}

/// Polls until `holds` does.
///
/// # Panics
/// When `limit` has passed, saying what was waited for.
pub fn eventually(what: &str, limit: Duration, mut holds: impl FnMut() -> bool) {
    let held = poll(limit, || holds().then_some(()));
    assert!(held.is_some(), "after {} s it still does not hold that {what}", limit.as_secs());
}

/// Checks that `holds` does all through `span`: for what must not happen later either.
///
/// # Panics
/// At the first moment it does not.
pub fn throughout(what: &str, span: Duration, mut holds: impl FnMut() -> bool) {
    let broken = poll(span, || (!holds()).then_some(()));
    assert!(broken.is_none(), "it held no longer that {what}");
}

/// Lets time pass, where being late is what a test is about.
pub fn pause(span: Duration) {
    std::thread::sleep(span);
}
