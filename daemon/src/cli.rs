//! The operator's command line over the API. It knows the wire and the names of core, and
//! nothing of etcd, btrfs, or how anything is decided: what is right to ask, the API says.

mod access;
mod args;
mod callbacks;
mod colour;
mod commands;
mod complete;
mod consumers;
mod failure;
mod progress;
mod question;
mod show;
mod status;
mod text;
mod token;

use std::io::{self, Write};
use std::process::ExitCode;

pub use self::args::Args;
use self::failure::Failure;

/// What a command has to say.
#[derive(Debug, Default)]
struct Output {
    /// For standard output: what was asked for.
    text: String,
    /// For standard error, a line each: remarks for people.
    remarks: Vec<String>,
    /// What went wrong while the rest went well.
    failures: Vec<Failure>,
}

/// Does what the arguments say and prints the outcome. The exit code is told in `--help`.
pub fn run(args: Args) -> ExitCode {
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return Failure::here(format!("cannot start: {error}")).report(),
    };
    let outcome = runtime.block_on(commands::run(args));
    // A name lookup that hangs may not keep the program.
    runtime.shutdown_background();
    match outcome {
        Ok(output) => print(output),
        Err(failure) => failure.report(),
    }
}

fn print(output: Output) -> ExitCode {
    let mut stdout = io::stdout().lock();
    let written = stdout.write_all(output.text.as_bytes()).and_then(|()| stdout.flush());
    for remark in output.remarks {
        say(&remark);
    }
    let codes: Vec<ExitCode> = output.failures.into_iter().map(Failure::report).collect();
    match written {
        Ok(()) => codes.into_iter().next().unwrap_or(ExitCode::SUCCESS),
        // Whoever reads has enough, as in `cobalt volume ls | head`.
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => ExitCode::SUCCESS,
        Err(error) => Failure::here(format!("cannot write the output: {error}")).report(),
    }
}

/// One line on standard error. Nothing can be done when that is closed.
fn say(line: &str) {
    let _ = writeln!(io::stderr(), "{line}");
}
