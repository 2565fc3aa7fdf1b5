//! The points as tests build them: what is to happen comes from a variable or a file, and that
//! a point was reached is written down before it happens. Never part of an ordinary build.

use std::fs::OpenOptions;
use std::io::{self, Write};
use std::path::PathBuf;
use std::sync::{Mutex, OnceLock, PoisonError};

/// The file that says what is to happen; beside it `<file>.reached` says what has.
static FILE: OnceLock<PathBuf> = OnceLock::new();
/// What the file said when it was last looked at.
static SAID: Mutex<String> = Mutex::new(String::new());

pub(super) fn arm() {
    // The setup is undone when its guard is dropped, so the guard lives as long as we do.
    std::mem::forget(fail::FailScenario::setup());
    if let Some(file) = std::env::var_os("FAILPOINTS_FILE") {
        let _ = FILE.set(file.into());
    }
}

pub(super) fn reached(point: &str) -> io::Result<()> {
    follow_file(point);
    let outcome = fail::eval(point, |argument| match argument.as_deref() {
        Some("error") => io::Error::other(format!("a test made {point} fail")),
        Some(_) | None => {
            // It does not return when it works.
            let refused = nix::sys::signal::raise(nix::sys::signal::Signal::SIGKILL);
            io::Error::other(format!("{point}: the process could not end itself: {refused:?}"))
        }
    });
    outcome.map_or(Ok(()), Err)
}

/// Takes over what the file says now, and writes down that `point` was reached if it is meant.
fn follow_file(point: &str) {
    let Some(file) = FILE.get() else { return };
    // A file that is not there says that nothing is to happen.
    let now = std::fs::read_to_string(file).unwrap_or_default();
    let mut said = SAID.lock().unwrap_or_else(PoisonError::into_inner);
    if *said != now {
        for (name, _) in parts(&said) {
            fail::remove(name);
        }
        for (name, actions) in parts(&now) {
            fail::cfg(name, actions).unwrap_or_else(|why| panic!("{name}={actions}: {why}"));
        }
        said.clone_from(&now);
    }
    if parts(&now).any(|(name, _)| name == point) {
        let mut path = file.clone().into_os_string();
        path.push(".reached");
        let noted = OpenOptions::new().create(true).append(true).open(path);
        noted
            .and_then(|mut noted| noted.write_all(format!("{point}\n").as_bytes()))
            .unwrap_or_else(|why| panic!("that {point} was reached cannot be noted: {why}"));
    }
}

/// `name=actions`, one to a line.
fn parts(text: &str) -> impl Iterator<Item = (&str, &str)> {
    text.lines().filter_map(|line| line.split_once('='))
}
