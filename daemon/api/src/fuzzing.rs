//! What bad input is thrown at: the stream of events. Built for fuzzing only.

/// Reads a stream whole and in pieces of these sizes, again and again: both tell the same, or that an
/// event is too large.
pub fn events(stream: &[u8], sizes: &[u8]) {
    crate::client::reread_events(stream, sizes);
}
