//! The stream of events as a plugin reads it: what it says does not depend on how the network cuts it.
//! The first byte says how many sizes of pieces follow it; the rest is the stream.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let Some((count, rest)) = data.split_first() else { return };
    let (sizes, stream) = rest.split_at(usize::from(*count).min(rest.len()));
    cobalt_api::fuzzing::events(stream, sizes);
});
