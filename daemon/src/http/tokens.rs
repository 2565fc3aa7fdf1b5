//! Bearer tokens: made, listed, revoked. A secret is shown once and kept only as its SHA-256.

use axum::Json;
use axum::extract::{FromRequestParts, Path, State};
use axum::http::request::Parts;
use axum::http::{HeaderName, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use cobalt_api::error::Code;
use cobalt_api::{shapes, wire};
use cobalt_core::TokenId;
use cobalt_store::{Role, Token};
use uuid::Uuid;

use super::Api;
use super::auth::{hashed, hex, spelled};
use super::body::Fields;
use super::document::problems;
use super::failure::Failure;
use super::params::Params;
use super::present;
use crate::clock;

/// The longest description, in characters.
pub(super) const MAX_DESCRIPTION: usize = 200;

problems!(
    CreateProblems: MalformedBody, BodyTooLarge, BadParameter, InvalidField, StoreUnavailable
);
problems!(ListProblems: BadParameter, StoreUnavailable);
problems!(RevokeProblems: BadParameter, InvalidField, TokenNotFound, StoreUnavailable);

/// Make a token
///
/// Its secret is in the answer and nowhere else.
#[utoipa::path(
    post, path = "/v1/tokens", operation_id = "createToken", tag = "tokens",
    request_body(content = wire::TokenRequest),
    responses((status = 201, description = "The token with its secret.", body = wire::NewToken), CreateProblems),
)]
pub(super) async fn create_token(
    State(api): State<Api>,
    params: Params,
    mut fields: Fields,
) -> Result<Response, Failure> {
    params.done()?;
    let role: Option<wire::Role> = fields.take("role")?;
    let description: String = fields.take("description")?.unwrap_or_default();
    fields.done(&["role", "description"])?;
    let role = role.ok_or_else(|| {
        Failure::field("role", "say what the token's holder may do: admin, consumer or viewer")
    })?;
    if description.chars().count() > MAX_DESCRIPTION || description.chars().any(char::is_control) {
        let said = format!("a description is one line of {MAX_DESCRIPTION} characters at most");
        return Err(Failure::field("description", said));
    }
    let id = TokenId(*Uuid::new_v4().as_bytes());
    // Two random UUIDs are 244 bits that nobody can guess.
    let secret = hex(&[*Uuid::new_v4().as_bytes(), *Uuid::new_v4().as_bytes()].concat());
    let token = Token {
        id,
        secret_sha256: hex(&hashed(&secret)),
        role: kept(role),
        description,
        created_ms: clock::now_ms(),
    };
    let revision = api.tell("make a token", api.store.create_token(&token)).await?;
    api.settle(revision).await;
    let made = wire::NewToken { id: id.to_string(), token: spelled(id, &secret), role };
    Ok((StatusCode::CREATED, [no_store()], Json(made)).into_response())
}

/// List tokens
#[utoipa::path(
    get, path = "/v1/tokens", operation_id = "listTokens", tag = "tokens",
    responses((status = 200, description = "All tokens, without their secrets.", body = wire::TokenList), ListProblems),
)]
pub(super) async fn list_tokens(
    State(api): State<Api>,
    params: Params,
) -> Result<Json<wire::TokenList>, Failure> {
    params.done()?;
    api.viewable()?;
    let mut tokens: Vec<Token> = api.follower.read(|view| view.tokens().cloned().collect());
    tokens.sort_by_key(|token| (token.created_ms, token.id));
    Ok(Json(wire::TokenList { tokens: tokens.iter().map(present::token).collect() }))
}

/// Revoke a token
#[utoipa::path(
    delete, path = "/v1/tokens/{id}", operation_id = "revokeToken", tag = "tokens",
    params(("id" = shapes::Id, Path, description = "The token's id.")),
    responses((status = 204, description = "It is worthless now."), RevokeProblems),
)]
pub(super) async fn revoke_token(
    State(api): State<Api>,
    Identified(id): Identified,
    params: Params,
) -> Result<StatusCode, Failure> {
    params.done()?;
    match api.tell("revoke a token", api.store.revoke_token(id)).await? {
        None => Err(Failure::new(Code::TokenNotFound, format!("there is no token {id}"))),
        Some(revision) => {
            api.settle(revision).await;
            Ok(StatusCode::NO_CONTENT)
        }
    }
}

/// The token's id in the path.
pub(super) struct Identified(TokenId);

impl FromRequestParts<Api> for Identified {
    type Rejection = Failure;

    async fn from_request_parts(parts: &mut Parts, api: &Api) -> Result<Identified, Failure> {
        let Path(text) = Path::<String>::from_request_parts(parts, api)
            .await
            .map_err(|_| Failure::field("id", "the id in the path is not UTF-8"))?;
        // A whole token in the place of its id must not be quoted back into logs.
        text.parse()
            .map(Identified)
            .map_err(|_| Failure::field("id", "a token's id is a UUID, as the list shows it"))
    }
}

pub(super) fn no_store() -> (HeaderName, HeaderValue) {
    (header::CACHE_CONTROL, HeaderValue::from_static("no-store"))
}

fn kept(role: wire::Role) -> Role {
    match role {
        wire::Role::Admin => Role::Admin,
        wire::Role::Consumer => Role::Consumer,
        wire::Role::Viewer => Role::Viewer,
    }
}
