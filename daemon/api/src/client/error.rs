//! How a call can end badly: told apart only where a caller acts differently on it.

use std::error::Error;
use std::io;
use std::time::Duration;

use crate::error::Code;
use crate::wire::Problem;

/// Why a call did not succeed.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// The API answered and refused, in its own words.
    #[error("{}", .0.detail)]
    Problem(Box<Problem>),
    /// No answer: nobody listens there, or the connection broke on the way.
    #[error("cannot reach the API at {endpoint}")]
    Unreachable {
        /// The address; all of them, when none answered.
        endpoint: String,
        /// What the network said.
        source: Box<dyn Error + Send + Sync>,
    },
    /// No answer in time. What was asked may still happen.
    #[error("the API at {endpoint} did not answer within {}", seconds(.after))]
    TimedOut {
        /// The address; all that were tried.
        endpoint: String,
        /// The limit of the call.
        after: Duration,
    },
    /// An answer that is not Cobalt's, as from a proxy in between.
    #[error("{endpoint} gave an answer that is not the API's (status {status}): {why}")]
    BadReply {
        /// The address.
        endpoint: String,
        /// The HTTP status.
        status: u16,
        /// What is wrong with it, or how it begins (200 characters at most).
        why: String,
    },
}

impl ClientError {
    /// The code of a refusal; `None` when the API did not answer, or with a code of a later
    /// version.
    pub fn code(&self) -> Option<Code> {
        match self {
            ClientError::Problem(problem) => Code::parse(&problem.code),
            ClientError::Unreachable { .. }
            | ClientError::TimedOut { .. }
            | ClientError::BadReply { .. } => None,
        }
    }

    /// Whether the other end was reached and its certificate is not believed.
    pub fn is_distrust(&self) -> bool {
        let mut cause = self.source();
        while let Some(error) = cause {
            let mut inner = Some(error);
            // Errors of the operating system's kind lie in each other, which `source` skips.
            while let Some(wrapped) = inner.and_then(|inner| inner.downcast_ref::<io::Error>()) {
                inner = wrapped.get_ref().map(|inner| inner as &(dyn Error + 'static));
            }
            let tls = inner.and_then(|inner| inner.downcast_ref::<rustls::Error>());
            if matches!(tls, Some(rustls::Error::InvalidCertificate(_))) {
                return true;
            }
            cause = error.source();
        }
        false
    }

    /// What the operating system said when the API could not be reached: `NotFound` is a
    /// missing socket, `ConnectionRefused` one without a listener.
    pub fn io_kind(&self) -> Option<io::ErrorKind> {
        let mut cause = self.source();
        while let Some(error) = cause {
            if let Some(error) = error.downcast_ref::<io::Error>() {
                return Some(error.kind());
            }
            cause = error.source();
        }
        None
    }
}

fn seconds(limit: &Duration) -> String {
    match limit.subsec_millis() {
        0 => format!("{} s", limit.as_secs()),
        _ => format!("{:.1} s", limit.as_secs_f64()),
    }
}
