//! `cobaltd`'s arguments. Every flag has an environment twin; secrets come by file.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use clap::{Args, Parser, Subcommand, ValueEnum};
use cobalt_core::{Bytes, ClusterName, Labels, NodeName};
use cobalt_store::EtcdOptions;

use crate::http::Tls;
use crate::secrets::SecretKey;

/// Cobalt's daemon: API, Engine and Agent, each of which can be switched off.
#[derive(Debug, Parser)]
#[command(name = "cobaltd", version, args_conflicts_with_subcommands = true)]
pub struct Arguments {
    /// How to run, when not against an etcd of one's own.
    #[command(subcommand)]
    pub mode: Option<Mode>,
    /// An etcd to keep all state in.
    #[command(flatten)]
    pub etcd: EtcdArguments,
    /// What every way to run takes.
    #[command(flatten)]
    pub common: CommonArguments,
    /// Where the pool is mounted, a btrfs. Needed by the agent.
    #[arg(long, env = "COBALT_POOL", value_name = "PATH")]
    pub pool: Option<PathBuf>,
    /// Which components to run, separated by commas.
    #[arg(long, env = "COBALT_COMPONENTS", value_enum, value_delimiter = ',',
          default_values = ["api", "engine", "agent"])]
    pub components: Vec<Component>,
}

/// Ways to run.
#[derive(Debug, Subcommand)]
pub enum Mode {
    /// Everything on one machine: starts its own etcd, and makes a pool in a file where none is
    /// given.
    Standalone(StandaloneArguments),
}

/// What can be switched off.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Component {
    /// The REST API.
    Api,
    /// Placement.
    Engine,
    /// This node's pool.
    Agent,
}

/// Everything on one machine.
#[derive(Debug, Args)]
pub struct StandaloneArguments {
    /// What every way to run takes.
    #[command(flatten)]
    pub common: CommonArguments,
    /// Where etcd's data and the pool's file are kept.
    #[arg(long, env = "COBALT_STATE_DIR", value_name = "PATH", default_value = "/var/lib/cobalt")]
    pub state_dir: PathBuf,
    /// A mounted btrfs to use, instead of a pool in a file.
    #[arg(long, env = "COBALT_POOL", value_name = "PATH", conflicts_with = "pool_size")]
    pub pool: Option<PathBuf>,
    /// The size of the pool's file, when it is made. It is allocated at once.
    #[arg(long, env = "COBALT_POOL_SIZE", value_name = "SIZE", default_value = "10G")]
    pub pool_size: Bytes,
}

/// An etcd to keep all state in.
#[derive(Debug, Args)]
pub struct EtcdArguments {
    /// etcd's URLs, separated by commas: servers, or a proxy before them.
    #[arg(
        long = "etcd",
        env = "COBALT_ETCD",
        value_name = "URL",
        value_delimiter = ',',
        default_value = "http://127.0.0.1:2379"
    )]
    pub endpoints: Vec<String>,
    /// The user at etcd.
    #[arg(long = "etcd-user", env = "COBALT_ETCD_USER", requires = "password_file")]
    pub user: Option<String>,
    /// A file with that user's password.
    #[arg(long = "etcd-password-file", env = "COBALT_ETCD_PASSWORD_FILE", value_name = "PATH")]
    pub password_file: Option<PathBuf>,
    /// A PEM file with the authority that signed etcd's certificate.
    #[arg(long = "etcd-ca", env = "COBALT_ETCD_CA", value_name = "PATH")]
    pub ca: Option<PathBuf>,
    /// A PEM file with our certificate for etcd.
    #[arg(long = "etcd-cert", env = "COBALT_ETCD_CERT", value_name = "PATH", requires = "key")]
    pub certificate: Option<PathBuf>,
    /// A PEM file with that certificate's key.
    #[arg(long = "etcd-key", env = "COBALT_ETCD_KEY", value_name = "PATH")]
    pub key: Option<PathBuf>,
}

/// What every way to run takes.
#[derive(Clone, Debug, Args)]
pub struct CommonArguments {
    /// Which of several clusters in one etcd this is.
    #[arg(long, env = "COBALT_CLUSTER", value_name = "NAME", default_value = "default")]
    pub cluster: ClusterName,
    /// This node's name. Given once, it is kept; the host's own name at the first start.
    #[arg(long, env = "COBALT_NODE_NAME", value_name = "NAME")]
    pub node_name: Option<NodeName>,
    /// An address at which consumers reach this node; may be repeated. Given once, it is kept.
    #[arg(
        long = "address",
        env = "COBALT_ADDRESSES",
        value_name = "ADDRESS",
        value_delimiter = ','
    )]
    pub addresses: Vec<String>,
    /// A label of this node, KEY=VALUE; may be repeated. Given once, they are kept.
    #[arg(long = "label", env = "COBALT_LABELS", value_name = "KEY=VALUE", value_delimiter = ',')]
    pub labels: Vec<String>,
    /// How much of the pool volumes may reserve, in percent. Given once, it is kept; 90 at the
    /// first start.
    #[arg(long, env = "COBALT_FILL_LIMIT", value_name = "PERCENT",
          value_parser = clap::value_parser!(u8).range(1..=100))]
    pub fill_limit: Option<u8>,
    /// Turn on simple quotas on a btrfs that was given. Kernels before 6.7 can never mount it
    /// again after that.
    #[arg(long, env = "COBALT_ENABLE_SIMPLE_QUOTAS")]
    pub enable_simple_quotas: bool,
    /// The TCP address of the API; "none" for none.
    #[arg(long, env = "COBALT_LISTEN", value_name = "ADDRESS:PORT",
          default_value = "127.0.0.1:7420", value_parser = listen)]
    pub listen: Listen,
    /// A PEM file with the certificate of the API's TCP address, and those that signed it. It is
    /// read again on SIGHUP.
    #[arg(long, env = "COBALT_TLS_CERT", value_name = "PATH", requires = "tls_key")]
    pub tls_cert: Option<PathBuf>,
    /// A PEM file with that certificate's key, which only its owner and group may read.
    #[arg(long, env = "COBALT_TLS_KEY", value_name = "PATH", requires = "tls_cert")]
    pub tls_key: Option<PathBuf>,
    /// Serve the API without TLS on an address that others can reach. Tokens can be read on the
    /// way then.
    #[arg(long, env = "COBALT_INSECURE_PLAIN_TCP", conflicts_with = "tls_cert")]
    pub insecure_plain_tcp: bool,
    /// A file with 64 hex digits, the same for every cobaltd of the cluster, which only its owner
    /// and group may read: it seals the secrets of callbacks. Standalone makes one by itself.
    #[arg(long, env = "COBALT_SECRET_KEY_FILE", value_name = "PATH")]
    pub secret_key_file: Option<PathBuf>,
    /// A loopback address on which /metrics and /healthz are served without token, such as
    /// 127.0.0.1:7421. The API serves /metrics as well, with token.
    #[arg(long, env = "COBALT_METRICS_LISTEN", value_name = "ADDRESS:PORT")]
    pub metrics_listen: Option<SocketAddr>,
    /// Leave the size and use of each single volume out of the metrics.
    #[arg(long, env = "COBALT_NO_VOLUME_METRICS")]
    pub no_volume_metrics: bool,
    /// The unix socket of the API.
    #[arg(
        long,
        env = "COBALT_SOCKET",
        value_name = "PATH",
        default_value = "/run/cobalt/cobalt.sock"
    )]
    pub socket: PathBuf,
    /// Where programs on this machine find each other.
    #[arg(long, env = "COBALT_RUN_DIR", value_name = "PATH", default_value = "/run/cobalt")]
    pub run_dir: PathBuf,
    /// The size of a volume for which none was asked.
    #[arg(long, env = "COBALT_DEFAULT_SIZE", value_name = "SIZE", default_value = "1G")]
    pub default_size: Bytes,
    /// How long deleted volumes are kept in the pool's trash, such as 24h. They go earlier when
    /// the pool needs their room.
    #[arg(long, env = "COBALT_TRASH_HOLD", value_name = "TIME", default_value = "24h",
          value_parser = humantime::parse_duration)]
    pub trash_hold: Duration,
    /// How often the agent looks at what volumes hold, such as 10s; each sixth time at everything.
    #[arg(long, env = "COBALT_SURVEY_EVERY", value_name = "TIME", default_value = "10s",
          value_parser = humantime::parse_duration)]
    pub survey_every: Duration,
    /// How long etcd waits for a silent process before others take over, in seconds.
    #[arg(long, env = "COBALT_LEASE_TTL", value_name = "SECONDS", default_value_t = 10,
          value_parser = clap::value_parser!(u64).range(3..=300))]
    pub lease_ttl_secs: u64,
    /// How to write the log.
    #[arg(long, env = "COBALT_LOG_FORMAT", value_enum, default_value = "text")]
    pub log_format: LogFormat,
}

/// How to write the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// For people.
    Text,
    /// One JSON object a line.
    Json,
}

/// Where to listen on TCP, if anywhere.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Listen(pub Option<SocketAddr>);

fn listen(text: &str) -> Result<Listen, String> {
    match text {
        "none" => Ok(Listen(None)),
        _ => text
            .parse()
            .map(|address| Listen(Some(address)))
            .map_err(|_| "write an address and a port, such as 127.0.0.1:7420, or none".to_owned()),
    }
}

impl CommonArguments {
    /// The certificate of the TCP address, if there is one.
    ///
    /// # Errors
    /// A sentence, when it cannot be used, or when tokens would be sent where others can read
    /// them.
    pub fn tls(&self) -> Result<Option<Arc<Tls>>, String> {
        if let (Some(certificate), Some(key)) = (&self.tls_cert, &self.tls_key) {
            return Tls::load(certificate, key).map(Some);
        }
        match self.listen.0 {
            Some(address) if !address.ip().is_loopback() && !self.insecure_plain_tcp => {
                Err(format!(
                    "on {address} tokens would cross the network in plain text, for everybody on \
                     the way to take: give --tls-cert and --tls-key, or listen on 127.0.0.1; \
                     where the network itself is encrypted, --insecure-plain-tcp serves it so"
                ))
            }
            Some(_) | None => Ok(None),
        }
    }

    /// The key that seals secrets, if there is one.
    ///
    /// # Errors
    /// A sentence, when it cannot be read, or everybody can read it.
    pub fn secret_key(&self) -> Result<Option<SecretKey>, String> {
        let Some(path) = &self.secret_key_file else { return Ok(None) };
        let text = secret(path)?;
        let key = SecretKey::parse(&String::from_utf8_lossy(&text));
        key.map(Some).map_err(|why| format!("{} cannot be used: {why}", path.display()))
    }

    /// The labels given, if any.
    ///
    /// # Errors
    /// When one cannot be a label.
    pub fn labels(&self) -> Result<Option<Labels>, cobalt_core::BadLabel> {
        if self.labels.is_empty() {
            return Ok(None);
        }
        let mut labels = Labels::default();
        for label in &self.labels {
            labels.set_text(label)?;
        }
        Ok(Some(labels))
    }
}

impl EtcdArguments {
    /// Reads what lies in files.
    ///
    /// # Errors
    /// A sentence, when a file cannot be read or a secret is readable by everybody.
    pub fn options(&self) -> Result<EtcdOptions, String> {
        let user = match (&self.user, &self.password_file) {
            (Some(user), Some(file)) => {
                let password = String::from_utf8_lossy(&secret(file)?).trim_end().to_owned();
                Some((user.clone(), password))
            }
            (_, _) => None,
        };
        let identity = match (&self.certificate, &self.key) {
            (Some(certificate), Some(key)) => Some((read(certificate)?, secret(key)?)),
            (_, _) => None,
        };
        let ca = self.ca.as_deref().map(read).transpose()?;
        let endpoints = self.endpoints.clone();
        Ok(EtcdOptions { endpoints, user, ca, identity, ..EtcdOptions::default() })
    }
}

fn read(path: &Path) -> Result<Vec<u8>, String> {
    std::fs::read(path).map_err(|error| format!("cannot read {}: {error}", path.display()))
}

fn secret(path: &Path) -> Result<Vec<u8>, String> {
    use std::os::unix::fs::PermissionsExt;
    let metadata = std::fs::metadata(path)
        .map_err(|error| format!("cannot read {}: {error}", path.display()))?;
    if metadata.permissions().mode() & 0o004 != 0 {
        let path = path.display();
        return Err(format!("everybody can read the secret in {path}: run chmod 600 {path}"));
    }
    read(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_arguments_are_consistent() {
        use clap::CommandFactory;
        Arguments::command().debug_assert();
    }

    #[test]
    fn components_can_be_switched_off() {
        let parsed = Arguments::try_parse_from(["cobaltd", "--components", "api,engine"]);
        let components = parsed.map(|arguments| arguments.components);
        assert_eq!(components.ok(), Some(vec![Component::Api, Component::Engine]));
    }

    #[test]
    fn tcp_can_be_switched_off_and_nonsense_is_refused() {
        assert_eq!(listen("none"), Ok(Listen(None)));
        assert!(listen("7420").is_err());
        assert!(listen("127.0.0.1:7420").is_ok());
    }
}
