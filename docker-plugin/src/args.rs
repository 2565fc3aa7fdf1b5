//! What the program is told at its start: flags, their environment twins, the token file, and
//! what the service manager hands over. Nothing reads the environment later.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::{Parser, ValueEnum};
use cobalt_api::client::Endpoint;

/// The Docker volume plugin of Cobalt.
#[derive(Clone, Debug, Parser)]
#[command(name = "cobalt-docker-plugin", version)]
pub struct Args {
    /// Where the API is: unix:///path, http://host:port or https://host:port, several separated
    /// by commas.
    #[arg(
        long,
        env = "COBALT_API",
        value_delimiter = ',',
        default_value = "unix:///run/cobalt/cobalt.sock"
    )]
    pub api: Vec<Endpoint>,
    /// File with the bearer token for http:// and https:// addresses; only its owner may read it.
    #[arg(long, env = "COBALT_TOKEN_FILE")]
    pub token_file: Option<PathBuf>,
    /// The socket dockerd finds.
    #[arg(long, env = "COBALT_PLUGIN_SOCKET", default_value = "/run/docker/plugins/cobalt.sock")]
    pub socket: PathBuf,
    /// Where the plugin keeps its view, its holders and its mounts.
    #[arg(long, env = "COBALT_PLUGIN_STATE_DIR", default_value = "/var/lib/cobalt-docker-plugin")]
    pub state_dir: PathBuf,
    /// Where cobaltd says which nodes are on this machine.
    #[arg(long, env = "COBALT_PLUGIN_RUN_DIR", default_value = "/run/cobalt")]
    pub run_dir: PathBuf,
    /// This host's address as storage nodes see it, where it is not the one from which it sends.
    #[arg(long, env = "COBALT_PLUGIN_ADDRESS", value_name = "ADDRESS")]
    pub address: Option<IpAddr>,
    /// Seconds between two readings of all volumes while nobody tells what changes.
    #[arg(long, env = "COBALT_PLUGIN_REFRESH_SECS", default_value_t = 3,
          value_parser = clap::value_parser!(u64).range(1..=3600))]
    pub refresh_secs: u64,
    /// Seconds between two looks at which mounts are really used.
    #[arg(long, env = "COBALT_PLUGIN_RECONCILE_SECS", default_value_t = 30,
          value_parser = clap::value_parser!(u64).range(1..=3600))]
    pub reconcile_secs: u64,
    /// Seconds that containers which are being killed wait for a storage node that does not answer.
    /// Then what they have not written is given up, so that they end; who ends by itself waits 40
    /// times as long. 0: they wait for the node, and nothing is lost.
    #[arg(long, env = "COBALT_PLUGIN_GIVE_UP_SECS", default_value_t = 3,
          value_parser = clap::value_parser!(u64).range(0..=86_400))]
    pub give_up_secs: u64,
    /// File with the authority to believe about https:// addresses, PEM, instead of the system's.
    #[arg(long, env = "COBALT_CA_FILE", value_name = "PATH")]
    pub ca_file: Option<PathBuf>,
    /// A loopback address on which /metrics and /healthz are served, such as 127.0.0.1:7422.
    #[arg(long, env = "COBALT_PLUGIN_METRICS_LISTEN", value_name = "ADDRESS:PORT")]
    pub metrics_listen: Option<SocketAddr>,
    /// How the log is written to stderr.
    #[arg(long, env = "COBALT_PLUGIN_LOG_FORMAT", value_enum, default_value_t = LogFormat::Text)]
    pub log_format: LogFormat,
}

/// How the log is written.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub enum LogFormat {
    /// Lines for people.
    Text,
    /// One JSON object a line.
    Json,
}

/// The arguments, checked.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Where the API is.
    pub api: Vec<Endpoint>,
    /// The bearer token.
    pub token: Option<String>,
    /// The authority to believe, PEM, and where it was read.
    pub ca: Option<(PathBuf, Vec<u8>)>,
    /// Where metrics are served.
    pub metrics_listen: Option<SocketAddr>,
    /// The socket dockerd finds.
    pub socket: PathBuf,
    /// View, holders and mounts.
    pub state_dir: PathBuf,
    /// Where cobaltd says which nodes are on this machine.
    pub run_dir: PathBuf,
    /// This host's address, where its operator named one.
    pub address: Option<IpAddr>,
    /// Between two readings of all volumes.
    pub refresh: Duration,
    /// Between two looks at the mounts.
    pub reconcile: Duration,
    /// How long who is killed may wait for a silent node; `None`: for ever.
    pub give_up: Option<Duration>,
}

/// What systemd hands over through the environment.
#[derive(Clone, Debug, Default)]
pub struct ServiceManager {
    /// Where to say that the plugin is ready.
    pub notify_socket: Option<String>,
    /// File descriptor 3 is the listening socket.
    pub socket_passed: bool,
}

impl ServiceManager {
    /// As `sd_listen_fds` and `sd_notify` read it.
    pub fn from_env() -> ServiceManager {
        let number = |key| std::env::var(key).ok().and_then(|text| text.parse::<u32>().ok());
        let ours = number("LISTEN_PID") == Some(std::process::id());
        ServiceManager {
            notify_socket: std::env::var("NOTIFY_SOCKET").ok().filter(|text| !text.is_empty()),
            socket_passed: ours && number("LISTEN_FDS").is_some_and(|count| count >= 1),
        }
    }
}

/// A file that cannot be used.
#[derive(Debug)]
pub struct BadFile {
    what: &'static str,
    path: PathBuf,
    why: String,
}

impl fmt::Display for BadFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the {} {} cannot be used: {}", self.what, self.path.display(), self.why)
    }
}

impl std::error::Error for BadFile {}

impl Args {
    /// Checks the arguments and reads the token.
    ///
    /// # Errors
    /// When the token file is missing, empty, or readable for everybody.
    pub fn settings(self) -> Result<Settings, BadFile> {
        let Args { api, token_file, ca_file, socket, state_dir, run_dir, .. } = self;
        let token = token_file.as_deref().map(read_token).transpose()?;
        let ca = ca_file.map(|path| match std::fs::read(&path) {
            Ok(pem) => Ok((path, pem)),
            Err(error) => Err(BadFile { what: "CA file", path, why: error.to_string() }),
        });
        Ok(Settings {
            api,
            token,
            ca: ca.transpose()?,
            metrics_listen: self.metrics_listen,
            socket,
            state_dir,
            run_dir,
            address: self.address,
            refresh: Duration::from_secs(self.refresh_secs),
            reconcile: Duration::from_secs(self.reconcile_secs),
            give_up: (self.give_up_secs > 0).then(|| Duration::from_secs(self.give_up_secs)),
        })
    }
}

fn read_token(path: &Path) -> Result<String, BadFile> {
    let bad = |why: String| BadFile { what: "token file", path: path.to_owned(), why };
    let mode = std::fs::metadata(path).map_err(|error| bad(error.to_string()))?.mode();
    if mode & 0o007 != 0 {
        return Err(bad("everybody on this machine may read it; run chmod 0600 on it".into()));
    }
    let text = std::fs::read_to_string(path).map_err(|error| bad(error.to_string()))?;
    match text.trim() {
        "" => Err(bad("it is empty".into())),
        token => Ok(token.to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn a_token_file_that_everybody_can_read_is_refused() {
        let file = tempfile::NamedTempFile::new().expect("a file");
        std::fs::write(file.path(), "secret\n").expect("write");
        assert_eq!(read_token(file.path()).expect("a token"), "secret");
        let open = std::fs::Permissions::from_mode(0o644);
        std::fs::set_permissions(file.path(), open).expect("chmod");
        assert!(read_token(file.path()).is_err());
    }

    #[test]
    fn nothing_is_given_up_where_no_time_is_set_for_it() {
        let give_up = |args: &[&str]| {
            let args = Args::try_parse_from([&["plugin"], args].concat()).expect("arguments");
            args.settings().expect("settings").give_up
        };
        assert_eq!(give_up(&["--give-up-secs", "0"]), None);
        assert_eq!(give_up(&["--give-up-secs", "60"]), Some(Duration::from_secs(60)));
        assert!(give_up(&[]).is_some_and(|time| time < Duration::from_secs(10)), "docker stop");
    }

    #[test]
    fn several_addresses_are_separated_by_commas() {
        let args = ["plugin", "--api", "unix:///a.sock,http://h:7420"];
        let args = Args::try_parse_from(args).expect("arguments");
        assert_eq!(args.api.len(), 2);
    }
}
