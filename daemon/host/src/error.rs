//! Why something on this machine failed. Nothing is logged or printed here.

use std::io;

/// Why something on this machine failed.
#[derive(Debug, thiserror::Error)]
pub enum HostError {
    /// The pool is not mounted, not btrfs, or not the one that is expected; nothing was done.
    #[error("{0}")]
    WrongPool(String),
    /// The kernel refused.
    #[error("{act}")]
    Refused {
        /// What was tried, on what.
        act: String,
        /// The kernel's word.
        source: io::Error,
    },
    /// A tool of the distribution is not installed.
    #[error("{tool} is not installed: install the package {package}")]
    NoTool {
        /// The program.
        tool: String,
        /// The package that brings it.
        package: String,
    },
    /// A tool ran and failed.
    #[error("{act}: {stderr}")]
    Failed {
        /// What was tried, on what.
        act: String,
        /// The tool's own words.
        stderr: String,
    },
    /// A tool did not come to its end by itself: what it was to do is done by half, or all of it.
    #[error("{act}: {why}")]
    Unfinished {
        /// What was tried, on what.
        act: String,
        /// What ended it.
        why: String,
    },
    /// What was done is not what is found afterwards.
    #[error("{0}")]
    NotSeen(String),
}

/// Makes the error of a refused `act` out of the kernel's word.
pub(crate) fn refused<E: Into<io::Error>>(act: impl Into<String>) -> impl FnOnce(E) -> HostError {
    move |source| HostError::Refused { act: act.into(), source: source.into() }
}
