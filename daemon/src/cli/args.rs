//! The arguments of `cobalt`, as clap reads them. What can be seen to be wrong without asking
//! anybody is refused here, by the same parsers the API uses.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::{Parser, Subcommand, ValueEnum};
use cobalt_api::client::Endpoint;
use cobalt_api::wire::{AccessRule, Phase, Role};
use cobalt_core::{Bytes, Compression, Constraint, Labels, Mode, NodeName, VolumeName};

use super::access::{AccessArgs, Policy, rule};
use super::callbacks::CallbackCommand;
use super::failure::{EXIT_CODES, USAGE};
use super::say;

/// Manage Cobalt: volumes, storage nodes and access tokens.
///
/// Every command is one or a few calls to the API of a running cobaltd, on this machine's socket
/// unless --api names another place.
#[derive(Debug, Parser)]
#[command(name = "cobalt", version, after_help = EXIT_CODES)]
#[command(subcommand_required = true, arg_required_else_help = true)]
pub struct Args {
    /// Where the API is: unix:///path, http://host:port or https://host:port. Several, with
    /// commas: the first that answers
    #[arg(long, global = true, value_name = "URL", value_delimiter = ',')]
    #[arg(env = "COBALT_API", hide_env_values = true, help_heading = "Connection")]
    #[arg(default_value = "unix:///run/cobalt/cobalt.sock")]
    pub(super) api: Vec<Endpoint>,

    /// File with the token for http:// and https:// addresses; nobody else may be able to read it
    #[arg(long, global = true, value_name = "FILE")]
    #[arg(env = "COBALT_TOKEN_FILE", hide_env_values = true, help_heading = "Connection")]
    pub(super) token_file: Option<PathBuf>,

    /// PEM file with the authority to believe about https:// addresses, instead of the system's
    #[arg(long, global = true, value_name = "FILE")]
    #[arg(env = "COBALT_CA_FILE", hide_env_values = true, help_heading = "Connection")]
    pub(super) ca_file: Option<PathBuf>,

    /// Give up after this long, as in 90s or 5m [default: 100s while waiting for a volume, else
    /// 20s]
    #[arg(long, global = true, value_name = "TIME", value_parser = time)]
    #[arg(env = "COBALT_TIMEOUT", hide_env_values = true, help_heading = "Connection")]
    pub(super) timeout: Option<Duration>,

    /// A table for people, or the API's own JSON for programs
    #[arg(long, short, global = true, value_enum, default_value = "table", value_name = "FORM")]
    #[arg(env = "COBALT_OUTPUT", hide_env_values = true)]
    pub(super) output: Form,

    #[command(subcommand)]
    pub(super) command: Command,
}

/// How the outcome is printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum Form {
    Table,
    Json,
}

#[derive(Debug, PartialEq, Subcommand)]
pub(super) enum Command {
    /// Make, list, resize and delete volumes
    #[command(subcommand, visible_alias = "volumes")]
    Volume(VolumeCommand),
    /// Look at the storage nodes
    #[command(subcommand, visible_alias = "nodes")]
    Node(NodeCommand),
    /// Make, list and revoke the tokens that open the API over the network
    #[command(subcommand, visible_alias = "tokens")]
    Token(TokenCommand),
    /// Make, list and remove callbacks, which are told of every change of volumes
    #[command(subcommand, visible_alias = "callbacks")]
    Callback(CallbackCommand),
    /// Show on one screen what is going on and what is wrong
    Status,
    /// Print what makes a shell complete commands and real names
    ///
    /// bash:  cobalt completion bash > /etc/bash_completion.d/cobalt
    ///
    /// zsh:   cobalt completion zsh > /usr/local/share/zsh/site-functions/_cobalt
    ///
    /// fish:  cobalt completion fish > /etc/fish/completions/cobalt.fish
    Completion {
        /// The shell
        #[arg(value_enum)]
        shell: Shell,
    },
    /// What may follow the words typed so far; the last may be empty or half typed
    #[command(name = COMPLETE, hide = true)]
    Complete {
        /// The words after `cobalt`
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        words: Vec<String>,
    },
}

/// The hidden command that the shells' scripts call.
pub(super) const COMPLETE: &str = "__complete";

/// Shells that can be taught to complete.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum Shell {
    Bash,
    Zsh,
    Fish,
}

#[derive(Debug, PartialEq, Subcommand)]
pub(super) enum VolumeCommand {
    /// Make a volume, and wait until it is ready
    ///
    /// The same volume again is fine and changes nothing; another one under the same name is
    /// refused with what differs.
    Create(CreateArgs),
    /// List volumes
    #[command(visible_alias = "list")]
    Ls(ListArgs),
    /// Show everything about one volume
    #[command(visible_alias = "inspect")]
    Show {
        /// The volume
        #[arg(value_parser = volume_name)]
        name: String,
    },
    /// Give a volume another size, larger or smaller
    Resize {
        /// The volume
        #[arg(value_parser = volume_name)]
        name: String,
        /// The new size, as in 20G
        #[arg(value_parser = size)]
        size: String,
        /// Do not wait until it holds
        #[arg(long)]
        no_wait: bool,
    },
    /// Delete volumes with all that is in them
    ///
    /// On a terminal it asks first; scripts are not asked.
    #[command(visible_alias = "delete")]
    Rm {
        /// The volumes
        #[arg(required = true, value_name = "NAME", value_parser = volume_name)]
        names: Vec<String>,
        /// Do not ask
        #[arg(long, short)]
        yes: bool,
        /// Do not wait until they are gone
        #[arg(long)]
        no_wait: bool,
    },
    /// Show who may mount a volume, and change it
    ///
    /// A host that loses its right has the volume taken away in its running containers.
    Access(AccessArgs),
    /// List the hosts that have a volume mounted
    Consumers {
        /// The volume
        #[arg(value_parser = volume_name)]
        name: String,
    },
    /// Forget that a host has a volume mounted, so that it can be deleted
    ///
    /// Only for a host that is gone for good: what it still has mounted can be deleted then. A host
    /// that runs takes its mounts back by itself when they end. On a terminal it asks first; scripts
    /// are not asked.
    Release {
        /// The volume
        #[arg(value_parser = volume_name)]
        name: String,
        /// The host's name or id, as `cobalt volume consumers` shows them
        host: String,
        /// Do not ask
        #[arg(long, short)]
        yes: bool,
    },
}

#[derive(Debug, PartialEq, clap::Args)]
pub(super) struct CreateArgs {
    /// What to call it: letters, digits, '.', '_' and '-'
    #[arg(value_parser = volume_name)]
    pub(super) name: String,
    /// Its quota: digits and K, M, G, T or P, in powers of 1024 [default: the cluster's]
    #[arg(long, short, value_parser = size)]
    pub(super) size: Option<String>,
    /// A label to find it by; may be given again
    #[arg(long = "label", short, value_name = "KEY=VALUE", value_parser = label)]
    pub(super) labels: Vec<(String, String)>,
    /// Which nodes may hold it, by their labels: key=value or key!=value; the key "node" is the
    /// node's name; may be given again
    #[arg(long = "constraint", value_name = "KEY=VALUE", value_parser = constraint)]
    pub(super) constraints: Vec<String>,
    /// How new data is compressed: zstd, lzo, zlib or none
    #[arg(long, value_name = "ALGORITHM", value_parser = compression)]
    pub(super) compression: Option<String>,
    /// Make new files without copy-on-write, and so without checksums: for databases
    #[arg(long)]
    pub(super) nocow: bool,
    /// Owner of its top directory [default: 0]
    #[arg(long, value_name = "UID")]
    pub(super) uid: Option<u32>,
    /// Group of its top directory [default: 0]
    #[arg(long, value_name = "GID")]
    pub(super) gid: Option<u32>,
    /// Mode of its top directory, in octal [default: 0755]
    #[arg(long, value_parser = mode)]
    pub(super) mode: Option<String>,
    /// Who may mount it that no rule covers [default: auto]
    #[arg(long, value_name = "POLICY", value_enum)]
    pub(super) access: Option<Policy>,
    /// Let a host or network mount it, as in 10.0.0.7 or 10.0.0.0/24=ro; may be given again
    #[arg(long, value_name = "RULE", value_parser = rule)]
    pub(super) allow: Vec<AccessRule>,
    /// How it is mounted over NFS, as in nconnect=4 or noatime; may be given again
    #[arg(long = "mount-option", value_name = "OPTION")]
    pub(super) mount_options: Vec<String>,
    /// Answer as soon as the wish is stored; it is served when a node can
    #[arg(long)]
    pub(super) no_wait: bool,
}

#[derive(Debug, PartialEq, clap::Args)]
pub(super) struct ListArgs {
    /// Only volumes with this label; may be given again, and all must match
    #[arg(long = "label", short, value_name = "KEY=VALUE", value_parser = label)]
    pub(super) labels: Vec<(String, String)>,
    /// Only volumes in this phase
    #[arg(long, value_name = "PHASE", value_enum)]
    pub(super) phase: Option<PhaseArg>,
    /// Only volumes on this node
    #[arg(long, value_name = "NODE", value_parser = node_name)]
    pub(super) node: Option<String>,
    /// Print the names alone, one a line
    #[arg(long, short)]
    pub(super) quiet: bool,
}

/// The phases, as arguments.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum PhaseArg {
    Requested,
    Assigned,
    Ready,
    Deleting,
}

#[derive(Debug, PartialEq, Subcommand)]
pub(super) enum NodeCommand {
    /// List storage nodes
    #[command(visible_alias = "list")]
    Ls,
    /// Show everything about one node
    #[command(visible_alias = "inspect")]
    Show {
        /// The node
        #[arg(value_parser = node_name)]
        name: String,
    },
}

#[derive(Debug, PartialEq, Subcommand)]
pub(super) enum TokenCommand {
    /// Make a token; its secret is shown this once and kept nowhere
    Create {
        /// What its holder may do: everything; read and change volumes; or read
        #[arg(long, value_enum)]
        role: RoleArg,
        /// Whom it is for
        #[arg(long, default_value = "")]
        description: String,
        /// Write the secret into this new file that only you can read, not to the terminal
        #[arg(long, value_name = "FILE")]
        out: Option<PathBuf>,
    },
    /// List tokens, without their secrets
    #[command(visible_alias = "list")]
    Ls,
    /// Revoke a token: whoever holds it is refused from now on
    #[command(visible_alias = "revoke")]
    Rm {
        /// The token's id, as `cobalt token ls` shows it
        id: String,
    },
}

/// The roles, as arguments.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum RoleArg {
    Admin,
    Consumer,
    Viewer,
}

impl Args {
    /// Reads the command line and the environment.
    ///
    /// # Errors
    /// The exit code, when there is nothing to run: after help was printed, or the mistake.
    pub fn read() -> Result<Args, ExitCode> {
        Args::try_parse().map_err(|error| {
            if !error.use_stderr() {
                // Help and version; a reader that went away has had enough.
                let _ = error.print();
                return ExitCode::SUCCESS;
            }
            let text = error.render().to_string();
            say(match text.strip_prefix("error: ") {
                Some(sentence) => format!("cobalt: {sentence}"),
                None => text,
            }
            .trim_end());
            ExitCode::from(USAGE)
        })
    }
}

impl From<PhaseArg> for Phase {
    fn from(phase: PhaseArg) -> Phase {
        match phase {
            PhaseArg::Requested => Phase::Requested,
            PhaseArg::Assigned => Phase::Assigned,
            PhaseArg::Ready => Phase::Ready,
            PhaseArg::Deleting => Phase::Deleting,
        }
    }
}

impl From<RoleArg> for Role {
    fn from(role: RoleArg) -> Role {
        match role {
            RoleArg::Admin => Role::Admin,
            RoleArg::Consumer => Role::Consumer,
            RoleArg::Viewer => Role::Viewer,
        }
    }
}

/// The text itself, once it is known to be what it should be.
fn checked<T, E: ToString>(text: &str, parsed: Result<T, E>) -> Result<String, String> {
    parsed.map(|_| text.to_owned()).map_err(|error| error.to_string())
}

pub(super) fn volume_name(text: &str) -> Result<String, String> {
    checked(text, text.parse::<VolumeName>())
}

fn node_name(text: &str) -> Result<String, String> {
    checked(text, text.parse::<NodeName>())
}

fn size(text: &str) -> Result<String, String> {
    checked(text, text.parse::<Bytes>())
}

fn constraint(text: &str) -> Result<String, String> {
    checked(text, text.parse::<Constraint>())
}

fn compression(text: &str) -> Result<String, String> {
    checked(text, Compression::parse(text))
}

fn mode(text: &str) -> Result<String, String> {
    checked(text, text.parse::<Mode>())
}

fn label(text: &str) -> Result<(String, String), String> {
    Labels::default().set_text(text).map_err(|error| error.to_string())?;
    let (key, value) = text.split_once('=').unwrap_or((text, ""));
    Ok((key.to_owned(), value.to_owned()))
}

fn time(text: &str) -> Result<Duration, String> {
    match humantime::parse_duration(text) {
        Ok(limit) if limit >= Duration::from_secs(1) => Ok(limit),
        Ok(_) => Err("a second is the least".into()),
        Err(_) => Err("write a number with its unit, such as 90s or 5m".into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    fn parse(line: &str) -> Result<Args, String> {
        let words = std::iter::once("cobalt").chain(line.split_whitespace());
        Args::try_parse_from(words).map_err(|error| error.to_string())
    }

    #[test]
    fn the_arguments_contradict_themselves_nowhere() {
        Args::command().debug_assert();
    }

    #[test]
    fn a_create_is_read_with_all_its_options() {
        let line = "volume create web --size 10G --label a=b --label c=d --constraint disk!=hdd \
                    --compression zstd --nocow --uid 33 --gid 34 --mode 2775 --no-wait \
                    --timeout 5m --api http://a:1,unix:///b --output json";
        let args = parse(line).expect("it is right");
        assert_eq!(args.api.len(), 2);
        assert_eq!((args.timeout, args.output), (Some(Duration::from_secs(300)), Form::Json));
        let Command::Volume(VolumeCommand::Create(create)) = args.command else {
            panic!("{:?}", args.command)
        };
        let expected = CreateArgs {
            name: "web".into(),
            size: Some("10G".into()),
            labels: vec![("a".into(), "b".into()), ("c".into(), "d".into())],
            constraints: vec!["disk!=hdd".into()],
            compression: Some("zstd".into()),
            nocow: true,
            uid: Some(33),
            gid: Some(34),
            mode: Some("2775".into()),
            access: None,
            allow: Vec::new(),
            mount_options: Vec::new(),
            no_wait: true,
        };
        assert_eq!(create, expected);
    }

    #[test]
    fn without_options_the_local_socket_and_tables_are_used() {
        let args = parse("status").expect("it is right");
        assert_eq!(args.api[0].to_string(), "unix:///run/cobalt/cobalt.sock");
        assert_eq!((args.output, args.command), (Form::Table, Command::Status));
    }

    #[test]
    fn what_is_wrong_on_its_face_is_refused_with_cores_sentence() {
        for (line, said) in [
            ("volume create a/b", "cannot be a name"),
            ("volume create web --size 10x", "the unit must be one of K, M, G, T, P"),
            ("volume create web --size -1", "unexpected argument"),
            ("volume create web --size 0", "a volume needs room for something"),
            ("volume create web --label =x", "the key needs letters"),
            ("volume create web --constraint ssd", "key=value or key!=value"),
            ("volume create web --compression gzip", "choose zstd, lzo, zlib or none"),
            ("volume create web --mode 999", "write it in octal"),
            ("volume create web --timeout 0s", "a second is the least"),
            ("volume resize web", "<SIZE>"),
            ("volume rm", "<NAME>..."),
            ("volume ls --phase gone", "possible values: requested"),
            ("status --api nowhere", "write unix:///path, http://host:port or https://host:port"),
            ("token create", "--role"),
        ] {
            let error = parse(line).expect_err(line);
            assert!(error.contains(said), "{line}: {error}");
        }
    }
}
