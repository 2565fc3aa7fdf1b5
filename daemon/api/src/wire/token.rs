//! Tokens, as they are asked for and shown.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::shapes;

/// What a token's holder may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// Everything.
    Admin,
    /// Read; create, resize and delete volumes. For Docker hosts.
    Consumer,
    /// Read.
    Viewer,
}

impl Role {
    /// The word for it.
    pub fn as_str(self) -> &'static str {
        match self {
            Role::Admin => "admin",
            Role::Consumer => "consumer",
            Role::Viewer => "viewer",
        }
    }
}

/// A token to make.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct TokenRequest {
    /// What its holder may do.
    pub role: Role,
    /// Whom it is for.
    #[schema(value_type = Option<shapes::Description>)]
    #[serde(default)]
    pub description: String,
}

/// A token just made. Its secret is shown this once and kept only as a hash.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct NewToken {
    /// Names the token, for listing and revoking.
    pub id: String,
    /// Send it as `Authorization: Bearer …`.
    pub token: String,
    /// What its holder may do.
    pub role: Role,
}

/// A token as it is kept.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Token {
    /// Names the token.
    pub id: String,
    /// What its holder may do.
    pub role: Role,
    /// Whom it is for.
    pub description: String,
    /// When it was made, RFC 3339.
    pub created_at: String,
}

/// All tokens.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct TokenList {
    /// In the order they were made.
    pub tokens: Vec<Token>,
}
