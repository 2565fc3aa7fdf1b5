//! Docker's requests: the path in the first line, then the body. What is taken becomes a request
//! to the API that reads back, and what is refused an error that dockerd can show.
#![no_main]

use cobalt_api::wire::VolumeRequest;
use cobalt_docker_plugin::{mounts::table, options, protocol};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let end = data.iter().position(|byte| *byte == b'\n').unwrap_or(data.len());
    let (path, body) = (&data[..end], data.get(end + 1..).unwrap_or_default());
    if let Some(call) = str::from_utf8(path).ok().and_then(protocol::Call::parse) {
        assert_eq!(call.path().as_bytes(), path);
    }
    for mount in table::parse(data) {
        table::volume_of(&mount.root);
    }
    match protocol::parse(body) {
        Err(error) => shown(&error.to_string()),
        Ok(request) => match options::parse(&request.opts) {
            Err(error) => shown(&error.to_string()),
            Ok(wanted) => {
                let json = serde_json::to_string(&wanted).expect("it can be written");
                let again: VolumeRequest = serde_json::from_str(&json).expect("and read");
                assert_eq!(again, wanted);
            }
        },
    }
});

fn shown(sentence: &str) {
    let json = protocol::error_json(sentence);
    let said: serde_json::Value = serde_json::from_slice(&json).expect("an error is JSON");
    let said = said["Err"].as_str().expect("with a sentence");
    assert!(!said.is_empty() && !said.contains(char::is_control), "{said:?}");
}
