//! The questions the program asks: before data is deleted or loses what guards it, and only of a
//! person.

use std::io::{self, BufRead, IsTerminal, Write};

use super::failure::Failure;
use super::text::plain;

/// Asks on a terminal whether these volumes may be deleted. Scripts are not asked: nobody is
/// there to answer, and they say what they mean.
///
/// # Errors
/// When the answer is not yes.
pub(super) fn may_delete(names: &[String]) -> Result<(), Failure> {
    match put(&question(names)) {
        Answer::Yes | Answer::NotAsked => Ok(()),
        Answer::No => Err(Failure::here("nothing was deleted".into())
            .hint("answer y, or give --yes, to delete without being asked")),
    }
}

/// Asks the same way whether a host may be released; whether it was asked at all.
///
/// # Errors
/// When the answer is not yes.
pub(super) fn may_release(question: &str) -> Result<bool, Failure> {
    match put(question) {
        Answer::Yes => Ok(true),
        Answer::NotAsked => Ok(false),
        Answer::No => Err(Failure::here("nothing was released".into())
            .hint("answer y, or give --yes, to release without being asked")),
    }
}

enum Answer {
    Yes,
    No,
    NotAsked,
}

fn put(question: &str) -> Answer {
    if !(io::stdin().is_terminal() && io::stderr().is_terminal()) {
        return Answer::NotAsked;
    }
    let mut answer = String::new();
    // A question that cannot be put or answered counts as answered with no.
    let asked =
        write!(io::stderr(), "{question}").and_then(|()| io::stdin().lock().read_line(&mut answer));
    match asked {
        Ok(_) if is_yes(&answer) => Answer::Yes,
        Ok(_) | Err(_) => Answer::No,
    }
}

fn question(names: &[String]) -> String {
    let names: Vec<String> = names.iter().map(|name| plain(name)).collect();
    format!("delete {} with all that is in it? [y/N] ", names.join(", "))
}

fn is_yes(answer: &str) -> bool {
    ["y", "yes"].contains(&answer.trim().to_lowercase().as_str())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_question_names_what_would_go() {
        let asked = question(&["web".into(), "db".into()]);
        assert_eq!(asked, "delete web, db with all that is in it? [y/N] ");
    }

    #[test]
    fn only_a_yes_is_one() {
        for (answer, yes) in
            [("y\n", true), ("YES\n", true), ("\n", false), ("", false), ("yo", false)]
        {
            assert_eq!(is_yes(answer), yes, "{answer:?}");
        }
    }
}
