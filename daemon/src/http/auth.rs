//! Who asks, and what they may. On the unix socket the file's permissions have decided; on TCP a
//! bearer token does, checked against the followed view and never by a read of etcd.
//!
//! Open to everyone are `/healthz`, `/readyz` and `/v1/openapi.json`: they say nothing of the
//! cluster, and those who probe or generate clients have no token.

use std::fmt;

use axum::extract::{Request, State};
use axum::http::{HeaderMap, Method, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use cobalt_api::error::Code;
use cobalt_core::{Registrar, TokenId};
use cobalt_store::{Role, View};
use sha2::{Digest, Sha256};

use super::Api;
use super::failure::Failure;

/// By which door a request came in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Door {
    /// The unix socket; the user who connected, where the kernel tells.
    Socket(Option<u32>),
    /// TCP.
    Tcp,
}

/// Who asks, for the log.
#[derive(Clone, Copy, Debug)]
pub(super) enum Caller {
    /// Somebody on this machine who may open the socket; with the token that was sent although
    /// none is needed.
    Local(Option<u32>, Option<TokenId>),
    /// The holder of a token.
    Holder(TokenId, Role),
}

impl Caller {
    /// Whether it may say who mounts a volume that exists. A Docker host, whose token is easily
    /// lost with it, may not let itself in.
    pub(super) fn may_change_access(self) -> Result<(), Failure> {
        match self {
            Caller::Local(..) | Caller::Holder(_, Role::Admin) => Ok(()),
            Caller::Holder(_, Role::Consumer | Role::Viewer) => Err(Failure::new(
                Code::Forbidden,
                "who may mount a volume, and how, is changed by a token of the role admin",
            )),
        }
    }

    /// As whom it speaks for a host.
    pub(super) fn registrar(self) -> Registrar {
        match self {
            Caller::Local(_, None) => Registrar::Machine,
            Caller::Local(_, Some(id)) | Caller::Holder(id, _) => Registrar::Token(id),
        }
    }

    /// Whether it may speak for a host that `by` has registered. A token that was revoked speaks
    /// for nobody, so that its successor can.
    pub(super) fn may_speak_for(self, view: &View, by: Option<Registrar>) -> bool {
        match self {
            Caller::Local(..) | Caller::Holder(_, Role::Admin) => true,
            Caller::Holder(id, Role::Consumer | Role::Viewer) => match by {
                None => true,
                Some(Registrar::Machine) => false,
                Some(Registrar::Token(first)) => first == id || view.token(first).is_none(),
            },
        }
    }
}

impl fmt::Display for Caller {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Caller::Local(Some(uid), _) => write!(f, "socket uid {uid}"),
            Caller::Local(None, _) => f.write_str("socket"),
            Caller::Holder(id, role) => write!(f, "{} token {id}", word(*role)),
        }
    }
}

/// Lets a request in, or says why not.
pub(super) async fn admit(State(api): State<Api>, mut request: Request, next: Next) -> Response {
    // A request that came in by no known door is treated like one from anywhere.
    let door = request.extensions().get().copied().unwrap_or(Door::Tcp);
    let path = request.uri().path();
    if matches!(path, "/healthz" | "/readyz" | "/v1/openapi.json") {
        return next.run(request).await;
    }
    let caller = match door {
        // A plugin that has several ways to the API is the same one on each.
        Door::Socket(uid) => {
            let token = match api.holder(request.headers()) {
                Ok(Caller::Holder(id, _)) => Some(id),
                Ok(Caller::Local(..)) | Err(_) => None,
            };
            Ok(Caller::Local(uid, token))
        }
        Door::Tcp => api.holder(request.headers()),
    };
    let allowed = caller.and_then(|caller| match caller {
        Caller::Local(..) => Ok(caller),
        Caller::Holder(_, role) => may(role, request.method(), path).map(|()| caller),
    });
    match allowed {
        Err(failure) => failure.into_response(),
        Ok(caller) => {
            request.extensions_mut().insert(caller);
            let mut response = next.run(request).await;
            response.extensions_mut().insert(caller);
            response
        }
    }
}

/// A token as it is given out.
pub(super) fn spelled(id: TokenId, secret: &str) -> String {
    format!("cobalt_{id}_{secret}")
}

/// What is kept of a secret.
pub(super) fn hashed(secret: &str) -> [u8; 32] {
    Sha256::digest(secret.as_bytes()).into()
}

/// Bytes in lower-case hex.
pub(super) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

impl Api {
    /// Whether who was let in once would be let in now.
    pub(super) fn still_admits(&self, caller: Caller) -> bool {
        match caller {
            Caller::Local(..) => true,
            Caller::Holder(id, role) => {
                self.follower.read(|view| view.token(id).is_some_and(|token| token.role == role))
            }
        }
    }

    fn holder(&self, headers: &HeaderMap) -> Result<Caller, Failure> {
        let refused = |said: &str| Failure::new(Code::Unauthenticated, said);
        let mut given = headers.get_all(header::AUTHORIZATION).iter();
        let (Some(value), None) = (given.next(), given.next()) else {
            return Err(refused("a token is needed: send it as \"Authorization: Bearer …\""));
        };
        let Some((id, secret)) = value.to_str().ok().and_then(split) else {
            return Err(refused("what was sent is no token: it looks like \"cobalt_…_…\""));
        };
        let kept = self.follower.read(|view| view.token(id).cloned());
        let (Some(token), given) = (kept, hex(&hashed(secret))) else {
            return Err(match self.follower.age() {
                None => refused("this token is not known; it may have been revoked"),
                Some(_) => {
                    let said = "whether this token is known cannot be said: etcd does not answer";
                    Failure::new(Code::StoreUnavailable, said)
                }
            });
        };
        match same(given.as_bytes(), token.secret_sha256.as_bytes()) {
            true => Ok(Caller::Holder(id, token.role)),
            false => Err(refused("this token is not known; it may have been revoked")),
        }
    }
}

/// Id and secret of `Bearer cobalt_<id>_<secret>`.
fn split(value: &str) -> Option<(TokenId, &str)> {
    let (scheme, token) = value.split_once(' ')?;
    if !scheme.eq_ignore_ascii_case("bearer") {
        return None;
    }
    let (id, secret) = token.trim().strip_prefix("cobalt_")?.split_once('_')?;
    Some((id.parse().ok()?, secret))
}

/// Compares in a time that tells nothing of where they differ.
fn same(a: &[u8], b: &[u8]) -> bool {
    let differing = a.iter().zip(b).fold(0, |sum, (a, b)| sum | std::hint::black_box(a ^ b));
    a.len() == b.len() && differing == 0
}

/// A viewer reads; a consumer also makes, changes and deletes volumes; tokens and callbacks are for
/// admins.
fn may(role: Role, method: &Method, path: &str) -> Result<(), Failure> {
    let below = |kind: &str| {
        path.strip_prefix(kind).is_some_and(|rest| matches!(rest.as_bytes(), [] | [b'/', ..]))
    };
    // Where callbacks go may be a secret by itself.
    let for_admins = below("/v1/tokens") || below("/v1/callbacks");
    let reads = (*method == Method::GET || *method == Method::HEAD) && !for_admins;
    let of_volumes = path.starts_with("/v1/volumes/")
        && (*method == Method::PUT || *method == Method::PATCH || *method == Method::DELETE);
    let allowed = match role {
        Role::Admin => true,
        Role::Consumer => reads || of_volumes,
        Role::Viewer => reads,
    };
    if allowed {
        return Ok(());
    }
    let needed = if of_volumes { "consumer or admin" } else { "admin" };
    let said = format!("a {} may not do this; it needs a token of the role {needed}", word(role));
    Err(Failure::new(Code::Forbidden, said))
}

fn word(role: Role) -> &'static str {
    match role {
        Role::Admin => "admin",
        Role::Consumer => "consumer",
        Role::Viewer => "viewer",
    }
}
