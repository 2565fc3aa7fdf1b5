//! What Get says of a volume, and `docker volume inspect` shows in `Status`.
//!
//! It puts into words what it is given and looks at nothing else.

use std::collections::BTreeMap;

use cobalt_api::wire::Phase;
use hyper::body::Bytes;
use serde::Serialize;

use crate::clock;
use crate::mounts::MountedHere;
use crate::protocol::Volume;
use crate::view::Known;

/// The answer to Get: what is known of the volume, and of its mount here; `outage` is why the
/// API does not answer.
pub fn body(
    name: &str,
    known: Option<&Known>,
    here: Option<&MountedHere>,
    outage: Option<&str>,
) -> Bytes {
    let created_at = known.map(|known| &*known.created_at);
    let age = known.map(|known| clock::now_secs().saturating_sub(known.seen_secs));
    let status = Status {
        record: known.map_or(Record::UNKNOWN, Record::of),
        mounted_by: here.map_or(&[], |here| &here.holders),
        outage: outage.map(|api| Outage { api, view_age_secs: age }),
    };
    let volume = Volume {
        name,
        mountpoint: here.and_then(|here| here.path.as_deref()),
        created_at: created_at.filter(|text| text.parse::<jiff::Timestamp>().is_ok()),
        status,
    };
    volume.body()
}

#[derive(Serialize)]
struct Status<'a> {
    #[serde(flatten)]
    record: Record<'a>,
    mounted_by: &'a [String],
    #[serde(flatten)]
    outage: Option<Outage<'a>>,
}

/// Shown only while the API does not answer.
#[derive(Serialize)]
struct Outage<'a> {
    api: &'a str,
    view_age_secs: Option<u64>,
}

#[derive(Serialize)]
#[serde(untagged)]
enum Record<'a> {
    Known {
        id: &'a str,
        phase: Phase,
        reason: Option<&'a str>,
        size_bytes: u64,
        used_bytes: Option<u64>,
        size_enforced: Option<bool>,
        node: Option<&'a str>,
        path: Option<&'a str>,
        compression: &'a str,
        labels: &'a BTreeMap<Box<str>, Box<str>>,
        used_on: Vec<&'a str>,
    },
    Unknown {
        phase: &'static str,
        reason: &'static str,
    },
}

impl<'a> Record<'a> {
    const UNKNOWN: Record<'static> = Record::Unknown {
        phase: "unknown",
        reason: "it is mounted here, and the API no longer lists it",
    };

    fn of(known: &'a Known) -> Record<'a> {
        Record::Known {
            id: &known.id,
            phase: known.phase,
            reason: known.reason.as_deref(),
            size_bytes: known.size_bytes,
            used_bytes: known.used_bytes,
            size_enforced: known.size_enforced,
            node: known.place.as_ref().map(|place| &*place.node),
            path: known.place.as_ref().map(|place| &*place.path),
            compression: &known.compression,
            labels: &known.labels,
            used_on: known.consumers.iter().map(|host| &*host.name).collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn told(known: Option<&Known>, here: Option<&MountedHere>, outage: Option<&str>) -> Value {
        let body = body("web", known, here, outage);
        serde_json::from_slice::<Value>(&body).expect("JSON")["Volume"].take()
    }

    fn known() -> Known {
        serde_json::from_value(json!({
            "id": "1", "size_bytes": 7, "used_bytes": 5, "size_enforced": true, "phase": "ready",
            "reason": null, "compression": "none", "labels": {"app": "shop"},
            "place": {"node": "n1", "node_id": "a", "path": "/p"}, "revision": 1,
            "created_at": "2026-01-01T00:00:00Z", "consumers": [{"id": "h", "name": "host"}],
            "seen_secs": 0
        }))
        .expect("a volume")
    }

    #[test]
    fn all_that_is_known_is_told() {
        let wanted = json!({
            "Name": "web", "CreatedAt": "2026-01-01T00:00:00Z",
            "Status": {
                "id": "1", "phase": "ready", "reason": null, "size_bytes": 7, "used_bytes": 5,
                "size_enforced": true, "node": "n1", "path": "/p", "compression": "none",
                "labels": {"app": "shop"}, "used_on": ["host"], "mounted_by": []
            }
        });
        assert_eq!(told(Some(&known()), None, None), wanted);
    }

    #[test]
    fn what_is_only_mounted_here_is_told_with_the_outage() {
        let path = Some("/m/1".to_owned());
        let here = MountedHere { id: "1".into(), path, holders: vec!["x".into()], number: 0 };
        let reason = "it is mounted here, and the API no longer lists it";
        let wanted = json!({
            "Name": "web", "Mountpoint": "/m/1",
            "Status": {
                "phase": "unknown", "reason": reason, "mounted_by": ["x"], "api": "away",
                "view_age_secs": null
            }
        });
        assert_eq!(told(None, Some(&here), Some("away")), wanted);
    }
}
