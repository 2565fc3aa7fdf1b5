//! `cobalt-docker-plugin`: reads its arguments and runs the library until it is told to stop.

use std::process::ExitCode;

use clap::Parser;
use cobalt_docker_plugin::args::{Args, LogFormat, ServiceManager};
use cobalt_docker_plugin::mounts::helper;
use tokio::signal::unix::{SignalKind, signal};
use tracing_subscriber::EnvFilter;

fn main() -> ExitCode {
    // Before anything else: a helper is one thread and does one thing.
    if std::env::args_os().nth(1).is_some_and(|first| first == helper::COMMAND) {
        return helper::main();
    }
    cobalt_failpoint::arm();
    let args = Args::parse();
    start_log(args.log_format);
    if let Err(error) = cobalt_docker_plugin::caps::raise_open_files() {
        tracing::warn!("the limit of open files cannot be raised: {error}");
    }
    if let Err(error) = cobalt_docker_plugin::caps::drop_unneeded() {
        tracing::warn!("rights that are not needed could not be given up: {error}");
    }
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return failed(&format!("the runtime cannot start: {error}")),
    };
    let manager = ServiceManager::from_env();
    let outcome = runtime.block_on(async {
        let settings = args.settings().map_err(|error| error.to_string())?;
        let stop = stop_signal().map_err(|error| format!("cannot listen for signals: {error}"))?;
        cobalt_docker_plugin::run(settings, manager, stop).await.map_err(|error| error.to_string())
    });
    // A call into the kernel that hangs must not keep the process from ending.
    runtime.shutdown_background();
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(sentence) => failed(&sentence),
    }
}

fn failed(sentence: &str) -> ExitCode {
    tracing::error!("{sentence}");
    ExitCode::FAILURE
}

/// Ends at the first SIGTERM or SIGINT.
fn stop_signal() -> std::io::Result<impl Future<Output = ()>> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    Ok(async move {
        tokio::select! {
            _ = terminate.recv() => (),
            _ = interrupt.recv() => (),
        }
    })
}

fn start_log(format: LogFormat) {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info"));
    let log = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    match format {
        LogFormat::Text => log.with_ansi(false).with_target(false).init(),
        LogFormat::Json => log.json().init(),
    }
}
