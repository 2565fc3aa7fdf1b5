//! `cobaltd`: reads its arguments and runs.

use std::io::IsTerminal;
use std::process::ExitCode;

use clap::Parser;
use cobaltd::args::{Arguments, CommonArguments, LogFormat, Mode, StandaloneArguments};
use cobaltd::run::{Config, run};
use cobaltd::standalone::Ground;
use cobaltd::{args::Component, caps};
use tracing_subscriber::EnvFilter;

fn main() -> ExitCode {
    cobalt_failpoint::arm();
    match program(Arguments::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(sentence) => {
            eprintln!("cobaltd: {sentence}");
            ExitCode::FAILURE
        }
    }
}

fn program(arguments: Arguments) -> Result<(), String> {
    match arguments.mode {
        Some(Mode::Standalone(standalone)) => run_standalone(standalone),
        None => {
            log_to_stderr(&arguments.common);
            give_up_rights(arguments.components.contains(&Component::Agent));
            block_on(Config {
                etcd: arguments.etcd.options()?,
                common: arguments.common,
                components: arguments.components,
                pool: arguments.pool.map(|pool| (pool, false)),
                lease_file: None,
            })
        }
    }
}

fn run_standalone(mut arguments: StandaloneArguments) -> Result<(), String> {
    log_to_stderr(&arguments.common);
    give_up_rights(true);
    // Said before anything is started or mounted.
    arguments.common.tls()?;
    arguments.common.secret_key()?;
    let ground = Ground::prepare(&arguments)?;
    if arguments.common.secret_key_file.is_none() {
        match ground.secret_key_file() {
            Ok(file) => arguments.common.secret_key_file = Some(file),
            // Everything but callbacks goes on.
            Err(why) => tracing::warn!(why, "there is no key for the secrets of callbacks"),
        }
    }
    let etcd = cobalt_store::EtcdOptions {
        endpoints: vec![ground.etcd_url().to_owned()],
        ..Default::default()
    };
    let outcome = block_on(Config {
        common: arguments.common,
        etcd,
        components: vec![Component::Api, Component::Engine, Component::Agent],
        pool: Some(ground.pool()),
        lease_file: Some(ground.lease_file()),
    });
    ground.leave();
    outcome
}

fn block_on(config: Config) -> Result<(), String> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(|error| format!("cannot start: {error}"))?;
    let outcome = runtime.block_on(run(config));
    // What still blocks in the kernel may not keep the program from ending.
    runtime.shutdown_timeout(std::time::Duration::from_secs(2));
    outcome
}

fn give_up_rights(agent: bool) {
    if let Err(error) = caps::raise_open_files() {
        tracing::warn!(%error, "the limit of open files cannot be raised");
    }
    if let Err(error) = caps::drop_unneeded(agent) {
        tracing::warn!(%error, "rights that are not needed could not be given up");
    }
}

fn log_to_stderr(common: &CommonArguments) {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info"));
    let log = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_ansi(std::io::stderr().is_terminal())
        .with_writer(std::io::stderr);
    match common.log_format {
        LogFormat::Text => log.with_target(false).init(),
        LogFormat::Json => log.json().init(),
    }
}
