//! What may follow on a command line that is being typed: commands, options, their values, and
//! the names of real volumes, nodes and tokens. The shells' scripts ask it through a hidden
//! command, so that all shells know the same.

use std::path::Path;
use std::time::Duration;

use clap::{Arg, Command, CommandFactory};
use cobalt_api::client::{Client, Endpoint, VolumeQuery};

use super::args::{Args, COMPLETE, Shell};
use super::text::plain;
use super::token;

/// The limit of looking up names: who presses a key waits for it.
const LOOK: Duration = Duration::from_secs(2);

/// The script that teaches a shell.
pub(super) fn script(shell: Shell) -> &'static str {
    match shell {
        Shell::Bash => include_str!("complete/cobalt.bash"),
        Shell::Zsh => include_str!("complete/cobalt.zsh"),
        Shell::Fish => include_str!("complete/cobalt.fish"),
    }
}

/// What may stand in place of the last of `words`: a candidate on each line, and after a tab what
/// it is. Says nothing where files are meant, and where names cannot be asked for.
pub(super) async fn answer(
    words: &[String],
    api: Vec<Endpoint>,
    token_file: Option<&Path>,
    ca_file: Option<&Path>,
) -> String {
    let (last, before) = match words.split_last() {
        Some((last, before)) => (last.as_str(), before),
        None => ("", words),
    };
    let candidates = match expected(before, last) {
        Expected::These(candidates) => candidates,
        Expected::Anything => Vec::new(),
        asked @ (Expected::Names(_) | Expected::Hosts(_)) => {
            let api = typed_api(before).unwrap_or(api);
            let token = token_file.and_then(|file| token::read(file).ok());
            let Ok(client) = token::client(api, token, ca_file) else { return String::new() };
            let names = match asked {
                Expected::Names(kind) => names(kind, &client).await,
                Expected::Hosts(volume) => hosts(&volume, &client).await,
                Expected::These(_) | Expected::Anything => Vec::new(),
            };
            names.into_iter().map(|name| (plain(&name), String::new())).collect()
        }
    };
    let fits = candidates.into_iter().filter(|(candidate, _)| candidate.starts_with(last));
    // A name that is on the line already is not wanted twice.
    let fresh = fits.filter(|(candidate, _)| !before.contains(candidate));
    fresh.map(|(candidate, help)| format!("{candidate}\t{help}\n")).collect()
}

/// What may stand in a place.
#[derive(Debug, PartialEq)]
enum Expected {
    These(Vec<(String, String)>),
    Names(Kind),
    /// Hosts that have this volume mounted.
    Hosts(String),
    Anything,
}

/// Things with names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Volume,
    Node,
    Token,
    Callback,
}

fn expected(before: &[String], last: &str) -> Expected {
    let mut root = Args::command();
    root.build();
    let mut command = &root;
    let mut waiting: Option<&Arg> = None;
    let mut position = 0;
    let mut given = "";
    for word in before {
        if waiting.take().is_some() {
            continue;
        }
        if word.starts_with('-') {
            waiting = option(command, word).filter(|arg| takes_value(arg) && !word.contains('='));
        } else if let Some(below) = command.find_subcommand(word) {
            (command, position) = (below, 0);
        } else {
            position += 1;
            given = word;
        }
    }
    if let Some(arg) = waiting {
        return value_of(command, arg);
    }
    if last.starts_with('-') {
        return Expected::These(options(command));
    }
    if command.has_subcommands() {
        return Expected::These(subcommands(command));
    }
    if command.get_name() == "release" && position == 1 {
        return Expected::Hosts(given.to_owned());
    }
    match command.get_positionals().nth(position).or_else(|| command.get_positionals().last()) {
        Some(arg) if position == 0 || arg.get_action().takes_values() && is_many(arg) => {
            value_of(command, arg)
        }
        Some(_) | None => Expected::Anything,
    }
}

fn value_of(command: &Command, arg: &Arg) -> Expected {
    let possible = arg.get_possible_values();
    if !possible.is_empty() {
        let shown = |value: &clap::builder::PossibleValue| {
            (
                value.get_name().to_owned(),
                value.get_help().map_or(String::new(), ToString::to_string),
            )
        };
        return Expected::These(possible.iter().map(shown).collect());
    }
    match (command.get_name(), arg.get_id().as_str()) {
        ("create", _) => Expected::Anything,
        ("ls", "node") => Expected::Names(Kind::Node),
        (_, "id") => match is_below(command, "callback") {
            true => Expected::Names(Kind::Callback),
            false => Expected::Names(Kind::Token),
        },
        (_, "name" | "names") => match is_below(command, "node") {
            true => Expected::Names(Kind::Node),
            false => Expected::Names(Kind::Volume),
        },
        _ => Expected::Anything,
    }
}

/// `show` stands below `volume` and below `node`.
fn is_below(command: &Command, above: &str) -> bool {
    command.get_bin_name().is_some_and(|name| name.split(' ').any(|word| word == above))
}

fn is_many(arg: &Arg) -> bool {
    arg.get_num_args().is_some_and(|count| count.max_values() > 1)
        || matches!(arg.get_action(), clap::ArgAction::Append)
}

fn takes_value(arg: &Arg) -> bool {
    arg.get_action().takes_values()
}

fn option<'a>(command: &'a Command, word: &str) -> Option<&'a Arg> {
    let name = word.trim_start_matches('-');
    command.get_arguments().find(|arg| match word.starts_with("--") {
        true => arg.get_long().is_some_and(|long| name.split('=').next() == Some(long)),
        false => arg.get_short().is_some_and(|short| name == short.to_string()),
    })
}

fn options(command: &Command) -> Vec<(String, String)> {
    let shown = command.get_opts().chain(command.get_arguments().filter(|arg| !takes_value(arg)));
    let long = |arg: &Arg| Some((format!("--{}", arg.get_long()?), first_line(arg.get_help())));
    shown.filter(|arg| !arg.is_hide_set()).filter_map(long).collect()
}

fn subcommands(command: &Command) -> Vec<(String, String)> {
    let shown = command.get_subcommands().filter(|below| below.get_name() != COMPLETE);
    shown.map(|below| (below.get_name().to_owned(), first_line(below.get_about()))).collect()
}

fn first_line(help: Option<&clap::builder::StyledStr>) -> String {
    let help = help.map(ToString::to_string).unwrap_or_default();
    help.lines().next().unwrap_or_default().to_owned()
}

/// The address that the line itself names: the hidden command is given it as plain words.
fn typed_api(words: &[String]) -> Option<Vec<Endpoint>> {
    let at = words.iter().position(|word| word == "--api")?;
    words.get(at + 1)?.split(',').map(|part| part.parse().ok()).collect()
}

async fn names(kind: Kind, client: &Client) -> Vec<String> {
    match kind {
        Kind::Volume => {
            let volumes = client.all_volumes(&VolumeQuery::default(), LOOK).await;
            volumes.map_or_else(|_| Vec::new(), |all| all.into_iter().map(|v| v.name).collect())
        }
        Kind::Node => {
            let nodes = client.nodes(LOOK).await.map(|list| list.nodes).unwrap_or_default();
            nodes.into_iter().map(|node| node.name).collect()
        }
        Kind::Token => {
            let tokens = client.tokens(LOOK).await.map(|list| list.tokens).unwrap_or_default();
            tokens.into_iter().map(|token| token.id).collect()
        }
        Kind::Callback => {
            let list = client.callbacks(LOOK).await.map(|list| list.callbacks);
            list.unwrap_or_default().into_iter().map(|callback| callback.id).collect()
        }
    }
}

async fn hosts(volume: &str, client: &Client) -> Vec<String> {
    let found = client.volume(volume, LOOK).await.map(|volume| volume.consumers);
    found.unwrap_or_default().into_iter().map(|host| host.hostname).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked(line: &str) -> Expected {
        let words: Vec<String> = line.split(' ').map(str::to_owned).collect();
        let (last, before) = words.split_last().expect("split gives at least one");
        expected(before, last)
    }

    fn these(line: &str) -> Vec<String> {
        match asked(line) {
            Expected::These(all) => all.into_iter().map(|(candidate, _)| candidate).collect(),
            other @ (Expected::Names(_) | Expected::Hosts(_) | Expected::Anything) => {
                panic!("{line}: {other:?}")
            }
        }
    }

    #[test]
    fn commands_are_completed_and_the_hidden_one_is_not_shown() {
        let first = these("");
        for word in ["volume", "node", "token", "callback", "status", "completion"] {
            assert!(first.iter().any(|found| found == word), "{first:?}");
        }
        assert!(!first.iter().any(|word| word == COMPLETE), "{first:?}");
        assert!(these("volume ").contains(&"resize".to_owned()));
        assert_eq!(these("completion "), ["bash", "zsh", "fish"]);
    }

    #[test]
    fn names_are_asked_for_where_names_are_meant() {
        for line in ["volume show ", "volume rm a ", "volume rm --yes ", "volumes inspect w"] {
            assert_eq!(asked(line), Expected::Names(Kind::Volume), "{line}");
        }
        for line in ["node show ", "--api unix:///x node show n", "volume ls --node "] {
            assert_eq!(asked(line), Expected::Names(Kind::Node), "{line}");
        }
        assert_eq!(asked("token rm "), Expected::Names(Kind::Token));
        assert_eq!(asked("callback rm "), Expected::Names(Kind::Callback));
        assert_eq!(asked("volume release "), Expected::Names(Kind::Volume));
        assert_eq!(asked("volume release --yes web d"), Expected::Hosts("web".into()));
    }

    #[test]
    fn a_new_name_a_size_and_a_file_are_not_guessed() {
        for line in ["volume create ", "volume resize web ", "--token-file ", "volume show web "] {
            assert_eq!(asked(line), Expected::Anything, "{line}");
        }
    }

    #[test]
    fn options_and_their_values_are_completed() {
        assert!(these("volume create web --").contains(&"--compression".to_owned()));
        assert!(these("volume rm -").contains(&"--yes".to_owned()));
        assert!(these("status --").contains(&"--api".to_owned()));
        assert!(these("volume ls --phase ").contains(&"deleting".to_owned()));
        assert_eq!(these("--output "), ["table", "json"]);
        assert!(these("token create --role ").contains(&"viewer".to_owned()));
    }
}
