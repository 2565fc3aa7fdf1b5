//! What went wrong, for people: one sentence, the next step where there is one, an exit code.

use std::error::Error;
use std::io;
use std::process::ExitCode;

use cobalt_api::client::ClientError;
use cobalt_api::error::Code;
use cobalt_api::wire::Problem;

use super::text::plain;
use super::{colour, say};

const FAILED: u8 = 1;
/// The command itself is wrong.
pub(super) const USAGE: u8 = 2;
const NOT_FOUND: u8 = 3;
const UNREACHABLE: u8 = 4;

/// The table of exit codes in `--help`.
pub(super) const EXIT_CODES: &str = "\
Exit codes:
  0  done
  1  the API refused it, or it failed
  2  the command is wrong, or a file it names cannot be used
  3  no such volume, node, host, token or callback
  4  the API cannot be reached, or did not answer in time";

/// One failure with its sentence, next steps and exit code.
#[derive(Debug)]
pub(super) struct Failure {
    sentence: String,
    hints: Vec<String>,
    exit: u8,
}

impl Failure {
    /// Something on this machine.
    pub(super) fn here(sentence: String) -> Failure {
        Failure { sentence, hints: Vec::new(), exit: FAILED }
    }

    /// Something about the command or its files.
    pub(super) fn usage(sentence: String) -> Failure {
        Failure { sentence, hints: Vec::new(), exit: USAGE }
    }

    /// Something that is not there.
    pub(super) fn missing(sentence: String) -> Failure {
        Failure { sentence, hints: Vec::new(), exit: NOT_FOUND }
    }

    /// Adds a next step.
    pub(super) fn hint(mut self, hint: impl Into<String>) -> Failure {
        self.hints.push(hint.into());
        self
    }

    /// What a call came to; `name` is the volume, node or token it was about.
    pub(super) fn of(error: &ClientError, name: &str) -> Failure {
        match error {
            ClientError::Problem(problem) => Failure::refused(problem, error.code(), name),
            ClientError::Unreachable { .. } if error.is_distrust() => Failure {
                sentence: format!(
                    "{error}: its certificate is not believed ({})",
                    root_cause(error)
                ),
                hints: vec![DISTRUST.to_owned()],
                exit: UNREACHABLE,
            },
            ClientError::Unreachable { .. } => Failure {
                sentence: format!("{error}: {}", root_cause(error)),
                hints: vec![unreachable_hint(error.io_kind()).to_owned()],
                exit: UNREACHABLE,
            },
            ClientError::TimedOut { .. } => Failure {
                sentence: error.to_string(),
                hints: vec![timed_out_hint(name)],
                exit: UNREACHABLE,
            },
            ClientError::BadReply { .. } => {
                Failure::here(error.to_string()).hint("does --api name cobaltd itself?")
            }
        }
    }

    fn refused(problem: &Problem, code: Option<Code>, name: &str) -> Failure {
        let mut failure = Failure::here(problem.detail.clone());
        for difference in problem.differences.iter().flatten() {
            let said =
                format!("{}: has {}, asked {}", difference.field, difference.has, difference.asked);
            failure.hints.push(said);
        }
        let Some(code) = code else { return failure };
        if matches!(
            code,
            Code::VolumeNotFound
                | Code::NodeNotFound
                | Code::TokenNotFound
                | Code::CallbackNotFound
        ) {
            failure.exit = NOT_FOUND;
        }
        failure.hints.extend(next_step(code, name));
        failure
    }

    /// As it is printed.
    pub(super) fn text(&self) -> String {
        let mut text = format!("cobalt: {}", plain(&self.sentence));
        for hint in &self.hints {
            text.push_str("\n  ");
            text.push_str(&plain(hint));
        }
        text
    }

    /// Prints it and gives its exit code.
    pub(super) fn report(self) -> ExitCode {
        say(&colour::for_stderr(self.text()));
        ExitCode::from(self.exit)
    }
}

fn next_step(code: Code, name: &str) -> Option<String> {
    let step = match code {
        Code::Unauthenticated => {
            "make a token where cobaltd runs (cobalt token create --role consumer --out FILE) \
             and give it with --token-file FILE or COBALT_TOKEN_FILE"
        }
        Code::Forbidden => {
            "the token's role does not allow it: consumer may change volumes, admin everything"
        }
        Code::AccessDenied => {
            return Some(format!("see who is let in: cobalt volume access {name}"));
        }
        Code::VolumeNotFound => "see what there is: cobalt volume ls",
        Code::NodeNotFound => "see what there is: cobalt node ls",
        Code::TokenNotFound => "see what there is: cobalt token ls",
        Code::CallbackNotFound => "see what there is: cobalt callback ls",
        Code::StillPending => {
            return Some(format!("it goes on by itself; look again: cobalt volume show {name}"));
        }
        Code::VolumeDiffers => {
            return Some(format!("choose another name, or look: cobalt volume show {name}"));
        }
        Code::BeingDeleted => "wait until it is gone, or choose another name",
        Code::InUse => {
            return Some(format!(
                "stop the containers that use it there, then run it again; \
                 for a host that is gone for good: cobalt volume release {name} HOST"
            ));
        }
        Code::TooManyConsumers => {
            return Some(format!(
                "see them: cobalt volume show {name}; \
                 for a host that is gone for good: cobalt volume release {name} HOST"
            ));
        }
        Code::RevisionMoved => "somebody else changed it; look again and repeat",
        Code::StoreUnavailable => {
            "etcd does not answer; volumes in use are not touched by that; \
             try again when it is back"
        }
        Code::NoRoom => "see how full the nodes are: cobalt node ls",
        Code::RouteNotFound | Code::MethodNotAllowed => {
            "is cobaltd older than this program? compare: cobalt status and cobalt --version"
        }
        Code::Internal => "cobaltd's log says more",
        Code::MalformedBody | Code::BodyTooLarge | Code::BadParameter | Code::InvalidField => {
            return None;
        }
    };
    Some(step.to_owned())
}

/// For certificates that nobody here vouches for.
const DISTRUST: &str =
    "name the authority that signed it with --ca-file, and the host as the certificate names it";

fn unreachable_hint(kind: Option<io::ErrorKind>) -> &'static str {
    match kind {
        Some(io::ErrorKind::PermissionDenied) => {
            "the socket is for root: use sudo, or --api http://… with --token-file"
        }
        Some(_) | None => {
            "is cobaltd running? start it (systemctl start cobaltd, or cobaltd standalone), \
             or name another with --api"
        }
    }
}

fn timed_out_hint(name: &str) -> String {
    match name {
        "" => "try again, with a longer --timeout, or another address with --api".into(),
        name => format!("it may still happen; look before you repeat it: is {name} as wanted?"),
    }
}

/// The innermost error: those around it only say that connecting failed.
fn root_cause(error: &ClientError) -> String {
    let mut cause: &dyn Error = error;
    while let Some(inner) = cause.source() {
        cause = inner;
    }
    cause.to_string()
}

#[cfg(test)]
mod tests {
    use super::*;
    use cobalt_api::wire::Difference;
    use std::time::Duration;

    fn refused(code: Code) -> Failure {
        Failure::of(&ClientError::Problem(Box::new(code.problem("it failed"))), "web")
    }

    #[test]
    fn what_is_not_there_has_an_exit_code_of_its_own() {
        for code in Code::ALL {
            let missing = code.status() == 404 && code != Code::RouteNotFound;
            assert_eq!(refused(code).exit == NOT_FOUND, missing, "{code:?}");
        }
    }

    #[test]
    fn a_conflict_says_what_differs() {
        let mut problem = Code::VolumeDiffers.problem("volume web exists with another wish");
        let [field, has, asked] = ["size", "10 GiB", "20 GiB"].map(str::to_owned);
        problem.differences = Some(vec![Difference { field, has, asked }]);
        let text = Failure::of(&ClientError::Problem(Box::new(problem)), "web").text();
        let expected = "cobalt: volume web exists with another wish\n  \
                        size: has 10 GiB, asked 20 GiB\n  \
                        choose another name, or look: cobalt volume show web";
        assert_eq!(text, expected);
    }

    #[test]
    fn a_missing_socket_asks_whether_the_daemon_runs() {
        let source = Box::new(io::Error::from_raw_os_error(2));
        let endpoint = "unix:///run/cobalt/cobalt.sock".to_owned();
        let failure = Failure::of(&ClientError::Unreachable { endpoint, source }, "");
        let text = failure.text();
        assert_eq!(failure.exit, UNREACHABLE);
        assert!(text.contains("unix:///run/cobalt/cobalt.sock: No such file"), "{text}");
        assert!(text.contains("is cobaltd running?"), "{text}");
    }

    #[test]
    fn a_socket_of_roots_asks_for_root() {
        let source = Box::new(io::Error::from_raw_os_error(13));
        let endpoint = "unix:///run/cobalt/cobalt.sock".to_owned();
        let text = Failure::of(&ClientError::Unreachable { endpoint, source }, "").text();
        assert!(text.contains("use sudo"), "{text}");
    }

    #[test]
    fn no_answer_in_time_counts_as_unreachable_and_warns_of_a_late_success() {
        let (endpoint, after) = ("http://h:1".to_owned(), Duration::from_secs(100));
        let failure = Failure::of(&ClientError::TimedOut { endpoint, after }, "web");
        assert_eq!(failure.exit, UNREACHABLE);
        assert!(failure.text().contains("did not answer within 100 s"), "{}", failure.text());
        assert!(failure.text().contains("it may still happen"), "{}", failure.text());
    }

    #[test]
    fn without_a_token_the_way_to_one_is_told() {
        assert!(refused(Code::Unauthenticated).text().contains("cobalt token create"));
    }
}
