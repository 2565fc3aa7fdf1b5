//! Values in etcd: whatever lies there is refused or read, and what is read is written back as
//! the same record.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| cobalt_store::fuzzing::reread(data));
