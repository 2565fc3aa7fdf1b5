//! What lies in a pool and in the state folder: names and texts that a damaged or foreign disk
//! may hold. Each is refused, or means exactly what it says.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| cobalt_host::fuzzing::reread(data));
