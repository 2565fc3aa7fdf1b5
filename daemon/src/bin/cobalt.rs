//! `cobalt`, the operator's command line: reads the arguments and runs them. Nothing else.

use std::process::ExitCode;

fn main() -> ExitCode {
    match cobaltd::cli::Args::read() {
        Ok(args) => cobaltd::cli::run(args),
        Err(code) => code,
    }
}
