//! Names, ids, sizes, modes, labels and constraints: what is taken reads back as it is shown, and
//! what is refused is quoted in one short line.
#![no_main]

use std::fmt::Display;
use std::str::FromStr;

use cobalt_api::client::Endpoint;
use cobalt_core::{
    Bytes, ClusterName, Compression, Constraint, Labels, MAX_NAME, Mode, NodeId, NodeName,
    SubvolumeUuid, TokenId, VolumeId, VolumeName,
};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    for name in [
        same::<VolumeName>(text).map(|name| name.to_string()),
        same::<NodeName>(text).map(|name| name.to_string()),
        same::<ClusterName>(text).map(|name| name.to_string()),
    ] {
        let Some(name) = name else { continue };
        assert!(name.len() <= MAX_NAME && !name.contains(['/', '\0', '\n', ' ', '=']));
        assert!(!name.starts_with(['.', '-']));
    }
    same::<VolumeId>(text);
    same::<NodeId>(text);
    same::<SubvolumeUuid>(text);
    same::<TokenId>(text);
    same::<Mode>(text);
    same::<Constraint>(text);
    if let Some(Bytes(bytes)) = taken(text.parse::<Bytes>()) {
        assert!(bytes > 0 && i64::try_from(bytes).is_ok());
        assert!(!Bytes(bytes).to_string().is_empty());
    }
    if let Some(Some(compression)) = taken(Compression::parse(text)) {
        assert_eq!(compression.as_str(), text);
    }
    let mut labels = Labels::default();
    for label in text.split(',') {
        taken(labels.set_text(label));
    }
    let shown = labels.to_string();
    let mut again = Labels::default();
    for label in shown.split(',').filter(|_| !labels.is_empty()) {
        again.set_text(label).expect("what is shown can be set");
    }
    assert_eq!(labels, again);
    if let Ok(endpoint) = text.parse::<Endpoint>() {
        let shown = endpoint.to_string();
        assert_eq!(shown.parse::<Endpoint>().expect("it was shown so").to_string(), shown);
    }
});

fn same<T: FromStr<Err: Display> + Display + PartialEq>(text: &str) -> Option<T> {
    let value: T = taken(text.parse())?;
    assert!(value.to_string().parse::<T>().is_ok_and(|again| again == value), "{value}");
    Some(value)
}

fn taken<T, E: Display>(outcome: Result<T, E>) -> Option<T> {
    outcome
        .map_err(|error| {
            let said = error.to_string();
            assert!(said.chars().count() < 200 && !said.contains(char::is_control), "{said}");
        })
        .ok()
}
