//! What a sweep lets the daemon do while it strikes it, how the end is known, and which effects
//! it must pass.

use std::io;

use cobalt_failpoint::Effect;
use cobalt_integration::cobalt::Daemon;
use serde_json::{Value, json};

/// Something asked of a daemon, about one volume.
pub(crate) struct Deed {
    /// Further flags of the daemon.
    pub(crate) flags: &'static [&'static str],
    /// Brings the volume to where the deed begins.
    pub(crate) prepare: fn(&Daemon, &str),
    /// Asks for it; the status of the answer.
    pub(crate) ask: fn(&mut Daemon, &str) -> io::Result<u16>,
    /// Whether the wish was kept; `None` when it cannot be known now.
    pub(crate) is_wished: fn(&Daemon, &str) -> Option<bool>,
    /// Whether it is done.
    pub(crate) is_done: fn(&Daemon, &str) -> bool,
    /// What it passes.
    pub(crate) effects: &'static [Effect],
}

pub(crate) const CREATE: Deed = Deed {
    flags: &[],
    prepare: |_, _| (),
    ask: |daemon, name| create(daemon, name),
    is_wished: |daemon, name| Some(daemon.known(name)?.is_some()),
    is_done: |daemon, name| has_size(daemon, name, 4),
    effects: &[
        Effect::WishCreate,
        Effect::EngineSave,
        Effect::SubvolumeCreate,
        Effect::GroupMake,
        Effect::SubvolumeDress,
        Effect::IdentityWrite,
        Effect::PoolSettle,
        Effect::AgentSave,
        Effect::UsageSave,
    ],
};

pub(crate) const RESIZE: Deed = Deed {
    flags: &[],
    prepare: |daemon, name| drop(daemon.create(name, "4M")),
    ask: |daemon, name| {
        let path = format!("/v1/volumes/{name}?wait=ready&timeout_secs=20");
        Ok(daemon.try_call("PATCH", &path, &json!({ "size": "8M" }))?.status)
    },
    is_wished: |daemon, name| Some(daemon.known(name)??["size_bytes"] == 8 << 20),
    is_done: |daemon, name| has_size(daemon, name, 8),
    effects: &[Effect::WishChange, Effect::LimitSet, Effect::AgentSave],
};

pub(crate) const DELETE: Deed = Deed {
    flags: &[],
    prepare: |daemon, name| drop(daemon.create(name, "4M")),
    ask: |daemon, name| delete(daemon, name),
    is_wished: |daemon, name| Some(daemon.known(name)?.is_none_or(|v| v["phase"] == "deleting")),
    is_done: |daemon, name| daemon.known(name) == Some(None),
    effects: &[
        Effect::WishChange,
        Effect::TicketWrite,
        Effect::TrashRename,
        Effect::IdentityRemove,
        Effect::PoolSettle,
        Effect::RecordForget,
    ],
};

/// Deleting when the trash keeps nothing.
pub(crate) const PURGE: Deed = Deed {
    flags: &["--trash-hold", "0s"],
    is_done: |daemon, name| daemon.known(name) == Some(None) && daemon.trash().is_empty(),
    effects: &[Effect::TrashDestroy, Effect::TicketRemove],
    ..DELETE
};

/// Making a token and revoking another, both called after the volume that is none.
pub(crate) const TOKEN: Deed = Deed {
    flags: &[],
    prepare: |daemon, name| {
        let body = json!({ "role": "viewer", "description": format!("old {name}") });
        assert_eq!(daemon.call("POST", "/v1/tokens", &body).status, 201);
    },
    ask: |daemon, name| {
        if token(daemon, &format!("new {name}")).is_none() {
            let body = json!({ "role": "viewer", "description": format!("new {name}") });
            let status = daemon.try_call("POST", "/v1/tokens", &body)?.status;
            if status != 201 {
                return Ok(status);
            }
        }
        let Some(old) = token(daemon, &format!("old {name}")) else { return Ok(204) };
        Ok(daemon.try_call("DELETE", &format!("/v1/tokens/{old}"), &Value::Null)?.status)
    },
    is_wished: |daemon, name| daemon.is_ready().then(|| TOKEN_IS_DONE(daemon, name)),
    is_done: TOKEN_IS_DONE,
    effects: &[Effect::TokenCreate, Effect::TokenRevoke],
};

/// A host that says that it uses a volume, and that it is done with another.
pub(crate) const CONSUMER: Deed = Deed {
    flags: &[],
    prepare: |daemon, name| {
        assert_eq!(create(daemon, name).unwrap_or_default(), 201);
        let path = format!("/v1/volumes/{name}/consumers/{OLD_HOST}");
        assert_eq!(daemon.call("PUT", &path, &json!({ "hostname": "old" })).status, 200);
    },
    ask: |daemon, name| {
        let path = |host: &str| format!("/v1/volumes/{name}/consumers/{host}");
        let body = json!({ "hostname": "new" });
        match daemon.try_call("PUT", &path(NEW_HOST), &body)?.status {
            200 => Ok(daemon.try_call("DELETE", &path(OLD_HOST), &Value::Null)?.status),
            status => Ok(status),
        }
    },
    is_wished: |daemon, name| daemon.is_ready().then(|| CONSUMER_IS_DONE(daemon, name)),
    is_done: CONSUMER_IS_DONE,
    effects: &[Effect::ConsumerRegister, Effect::ConsumerRelease],
};

const OLD_HOST: &str = "00000000-0000-4000-8000-000000000001";
const NEW_HOST: &str = "00000000-0000-4000-8000-000000000002";
const CONSUMER_IS_DONE: fn(&Daemon, &str) -> bool =
    |daemon, name| daemon.consumers(name) == ["new"];

const TOKEN_IS_DONE: fn(&Daemon, &str) -> bool = |daemon, name| {
    token(daemon, &format!("new {name}")).is_some()
        && token(daemon, &format!("old {name}")).is_none()
};

/// A stop and a start, and then a volume to see that all works.
pub(crate) const START: Deed = Deed {
    flags: &[],
    prepare: |_, _| (),
    ask: |daemon, _| {
        daemon.process.stop(std::time::Duration::from_secs(30));
        daemon.start_again("");
        // Nothing was promised.
        Ok(500)
    },
    is_wished: |daemon, name| match daemon.known(name)? {
        Some(_) => Some(true),
        None => {
            // Whoever asks while it starts asks again.
            drop(create(daemon, name));
            None
        }
    },
    is_done: |daemon, name| has_size(daemon, name, 4),
    effects: &[
        Effect::LoopAttach,
        Effect::PoolMount,
        Effect::EtcdStart,
        Effect::EndpointNote,
        Effect::LeaseEnd,
        Effect::LeaseGrant,
        Effect::LeaseNote,
        Effect::RevisionNote,
        Effect::Announce,
        Effect::BeatSave,
        Effect::TermWin,
    ],
};

/// Asks for a volume and waits until it is ready.
pub(crate) fn create(daemon: &Daemon, name: &str) -> io::Result<u16> {
    let path = format!("/v1/volumes/{name}?wait=ready&timeout_secs=20");
    Ok(daemon.try_call("PUT", &path, &json!({ "size": "4M" }))?.status)
}

/// Deletes one and waits until it is gone.
pub(crate) fn delete(daemon: &Daemon, name: &str) -> io::Result<u16> {
    let path = format!("/v1/volumes/{name}?wait=gone&timeout_secs=20");
    Ok(daemon.try_call("DELETE", &path, &Value::Null)?.status)
}

/// Whether it is ready as wished, with so many MiB as its limit.
pub(crate) fn has_size(daemon: &Daemon, name: &str, mib: u64) -> bool {
    daemon.volume(name).is_some_and(|volume| {
        volume["phase"] == "ready"
            && volume["size_bytes"] == mib << 20
            && volume["generation"] == volume["applied_generation"]
    })
}

fn token(daemon: &Daemon, description: &str) -> Option<String> {
    let reply = daemon.try_call("GET", "/v1/tokens", &Value::Null).ok()?.json();
    let tokens = reply["tokens"].as_array()?;
    let found = tokens.iter().find(|token| token["description"] == description)?;
    Some(found["id"].as_str()?.to_owned())
}
