//! Every error the API can give: code, status and what they mean, in one table.

use crate::wire::Problem;

/// What went wrong. A variant exists only where a caller may act differently on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Code {
    /// The body is not the JSON that is wanted.
    MalformedBody,
    /// The body is larger than any request needs.
    BodyTooLarge,
    /// A query parameter or header is wrong.
    BadParameter,
    /// A field's value cannot be taken.
    InvalidField,
    /// No token, or one that is not known.
    Unauthenticated,
    /// The token's role does not allow it, or the host is another token's.
    Forbidden,
    /// The volume's rules do not let this host in.
    AccessDenied,
    /// No such path.
    RouteNotFound,
    /// The path does not take this method.
    MethodNotAllowed,
    /// No such volume.
    VolumeNotFound,
    /// No such node.
    NodeNotFound,
    /// No such token.
    TokenNotFound,
    /// No such callback.
    CallbackNotFound,
    /// Another wish holds under the same name.
    VolumeDiffers,
    /// The volume is on its way out.
    BeingDeleted,
    /// Some host uses the volume.
    InUse,
    /// As many hosts use the volume as may.
    TooManyConsumers,
    /// The record is not at the revision of `If-Match`.
    RevisionMoved,
    /// It was accepted and is not done yet; ask again.
    StillPending,
    /// etcd does not answer.
    StoreUnavailable,
    /// No node has room.
    NoRoom,
    /// A fault of ours.
    Internal,
}

impl Code {
    /// All of them, in the order of the table in docs/api.md.
    pub const ALL: [Code; 22] = [
        Code::MalformedBody,
        Code::BodyTooLarge,
        Code::BadParameter,
        Code::InvalidField,
        Code::Unauthenticated,
        Code::Forbidden,
        Code::AccessDenied,
        Code::RouteNotFound,
        Code::MethodNotAllowed,
        Code::VolumeNotFound,
        Code::NodeNotFound,
        Code::TokenNotFound,
        Code::CallbackNotFound,
        Code::VolumeDiffers,
        Code::BeingDeleted,
        Code::InUse,
        Code::TooManyConsumers,
        Code::RevisionMoved,
        Code::StillPending,
        Code::StoreUnavailable,
        Code::NoRoom,
        Code::Internal,
    ];

    /// The stable text of the code and its HTTP status.
    fn row(self) -> (&'static str, u16) {
        match self {
            Code::MalformedBody => ("malformed_body", 400),
            Code::BadParameter => ("bad_parameter", 400),
            Code::Unauthenticated => ("unauthenticated", 401),
            Code::Forbidden => ("forbidden", 403),
            Code::AccessDenied => ("access_denied", 403),
            Code::RouteNotFound => ("route_not_found", 404),
            Code::VolumeNotFound => ("volume_not_found", 404),
            Code::NodeNotFound => ("node_not_found", 404),
            Code::TokenNotFound => ("token_not_found", 404),
            Code::MethodNotAllowed => ("method_not_allowed", 405),
            Code::CallbackNotFound => ("callback_not_found", 404),
            Code::VolumeDiffers => ("volume_differs", 409),
            Code::BeingDeleted => ("being_deleted", 409),
            Code::InUse => ("in_use", 409),
            Code::TooManyConsumers => ("too_many_consumers", 409),
            Code::RevisionMoved => ("revision_moved", 412),
            Code::BodyTooLarge => ("body_too_large", 413),
            Code::InvalidField => ("invalid_field", 422),
            Code::Internal => ("internal", 500),
            Code::StillPending => ("still_pending", 503),
            Code::StoreUnavailable => ("store_unavailable", 503),
            Code::NoRoom => ("no_room", 507),
        }
    }

    /// The stable text of the code.
    pub fn as_str(self) -> &'static str {
        self.row().0
    }

    /// The HTTP status it is given with.
    pub fn status(self) -> u16 {
        self.row().1
    }

    /// After how many seconds the same request may succeed, for `Retry-After`.
    pub fn retry_after_secs(self) -> Option<u64> {
        (self.status() == 503).then_some(2)
    }

    /// The code with this text.
    pub fn parse(text: &str) -> Option<Code> {
        Code::ALL.into_iter().find(|code| code.as_str() == text)
    }

    /// A problem with this code and one sentence for people.
    pub fn problem(self, detail: impl Into<String>) -> Problem {
        Problem {
            code: self.as_str().to_owned(),
            status: self.status(),
            detail: one_line(&detail.into()),
            field: None,
            differences: None,
        }
    }
}

/// The longest sentence, in characters.
const MAX_DETAIL: usize = 2000;

/// A sentence may quote what a caller sent: it stays one line, of a length that can be read.
fn one_line(detail: &str) -> String {
    let plain = |c: char| if c.is_control() { '?' } else { c };
    let mut line: String = detail.chars().take(MAX_DETAIL).map(plain).collect();
    if detail.chars().nth(MAX_DETAIL).is_some() {
        line.push('…');
    }
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_code_has_one_text_of_its_own() {
        for code in Code::ALL {
            assert_eq!(Code::parse(code.as_str()), Some(code));
        }
    }

    #[test]
    fn what_may_succeed_later_says_when() {
        for code in Code::ALL {
            assert_eq!(code.retry_after_secs().is_some(), code.status() == 503, "{code:?}");
        }
    }

    #[test]
    fn a_sentence_that_quotes_a_caller_stays_one_line_of_a_readable_length() {
        let problem = Code::InvalidField.problem("the role \"a\0b\nc\" is not known");
        assert_eq!(problem.detail, "the role \"a?b?c\" is not known");
        let long = Code::InvalidField.problem("x".repeat(100_000));
        assert_eq!(long.detail.chars().count(), MAX_DETAIL + 1);
    }
}
