//! `cobalt callback`: its arguments, what it asks of the API, and how callbacks are shown.

use std::path::PathBuf;

use clap::{Subcommand, ValueEnum};
use cobalt_api::wire::{Callback, CallbackFilter, CallbackRequest, ChangeKind};
use jiff::Timestamp;

use super::Output;
use super::args::{Form, volume_name};
use super::commands::{Session, about};
use super::failure::Failure;
use super::text::{age, table};
use super::token;

#[derive(Debug, PartialEq, Subcommand)]
pub(super) enum CallbackCommand {
    /// Make a callback: from now on it is sent every change of volumes, signed
    ///
    /// Without --secret-file a secret is made and shown this once.
    #[command(visible_alias = "create")]
    Add {
        /// Where changes are sent: http:// or https://
        url: String,
        /// Only volumes with this label, KEY or KEY=VALUE; may be given again, and all must match
        #[arg(long = "label", short, value_name = "KEY=VALUE")]
        labels: Vec<String>,
        /// Only the volume of this name
        #[arg(long, value_name = "NAME", value_parser = volume_name)]
        volume: Option<String>,
        /// Only changes of this kind; may be given again
        #[arg(long = "kind", value_name = "KIND", value_enum)]
        kinds: Vec<KindArg>,
        /// File with the secret that signs; nobody else may be able to read it
        #[arg(long, value_name = "FILE")]
        secret_file: Option<PathBuf>,
        /// Whom it is for
        #[arg(long, default_value = "")]
        description: String,
    },
    /// List callbacks with how far they have come, without their secrets
    #[command(visible_alias = "list")]
    Ls,
    /// Remove a callback: nothing more is sent, whatever waited
    #[command(visible_alias = "delete")]
    Rm {
        /// The callback's id, as `cobalt callback ls` shows it
        id: String,
    },
}

/// The kinds of change, as arguments.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum KindArg {
    Created,
    Deleted,
    Phase,
    Placement,
    Access,
    Export,
    Resized,
}

impl From<KindArg> for ChangeKind {
    fn from(kind: KindArg) -> ChangeKind {
        match kind {
            KindArg::Created => ChangeKind::Created,
            KindArg::Deleted => ChangeKind::Deleted,
            KindArg::Phase => ChangeKind::Phase,
            KindArg::Placement => ChangeKind::Placement,
            KindArg::Access => ChangeKind::Access,
            KindArg::Export => ChangeKind::Export,
            KindArg::Resized => ChangeKind::Resized,
        }
    }
}

impl Session {
    pub(super) async fn callback(&self, command: CallbackCommand) -> Result<Output, Failure> {
        match command {
            CallbackCommand::Add { url, labels, volume, kinds, secret_file, description } => {
                let kinds = kinds.into_iter().map(ChangeKind::from).collect();
                let filter = CallbackFilter { labels, volume, kinds };
                let hint = "leave --secret-file out, and a secret is made";
                let read = |file: PathBuf| token::read_one("secret", &file, hint);
                let secret = secret_file.map(read).transpose()?;
                self.add_callback(&CallbackRequest { url, filter, secret, description }).await
            }
            CallbackCommand::Ls => {
                let list = self.client.callbacks(self.asking()).await.map_err(about(""))?;
                self.output(&list, || callback_table(&list.callbacks, self.now))
            }
            CallbackCommand::Rm { id } => {
                self.client.delete_callback(&id, self.asking()).await.map_err(about(&id))?;
                let text = match self.form {
                    Form::Table => format!("{id}\n"),
                    Form::Json => String::new(),
                };
                Ok(Output { text, ..Output::default() })
            }
        }
    }

    async fn add_callback(&self, request: &CallbackRequest) -> Result<Output, Failure> {
        let made = self.client.create_callback(request, self.asking()).await.map_err(about(""))?;
        let Some(secret) = &made.secret else {
            return self.output(&made, || format!("{}\n", made.id));
        };
        let mut output = self.output(&made, || format!("{}\n{secret}\n", made.id))?;
        output
            .remarks
            .push("the secret is shown once; the receiver needs it to check what it gets".into());
        Ok(output)
    }
}

fn callback_table(callbacks: &[Callback], now: Timestamp) -> String {
    let row = |callback: &Callback| {
        let since = callback.since.as_ref().map(|since| format!(" (for {})", age(since, now)));
        let trouble = callback.last_error.clone().unwrap_or_default();
        [
            callback.id.clone(),
            callback.url.clone(),
            filter(&callback.filter),
            callback.delivered_revision.map_or("-".into(), |revision| revision.to_string()),
            callback.waiting.to_string(),
            age(&callback.created_at, now),
            trouble + &since.unwrap_or_default(),
        ]
    };
    let rows: Vec<_> = callbacks.iter().map(row).collect();
    table(["ID", "URL", "FILTER", "DELIVERED", "WAITING", "AGE", "TROUBLE"], &rows)
}

fn filter(filter: &CallbackFilter) -> String {
    let kinds = filter.kinds.iter().map(|kind| kind.as_str().to_owned());
    let volume = filter.volume.iter().map(|name| format!("volume={name}"));
    let all: Vec<String> = volume.chain(filter.labels.iter().cloned()).chain(kinds).collect();
    if all.is_empty() { "-".to_owned() } else { all.join(" ") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn callbacks_are_listed_with_what_keeps_them() {
        let callback = Callback {
            id: "7e".into(),
            url: "https://a/b".into(),
            filter: CallbackFilter {
                labels: vec!["tier=gold".into()],
                volume: None,
                kinds: vec![ChangeKind::Phase],
            },
            description: String::new(),
            created_at: "2024-05-03T09:00:00Z".into(),
            delivered_revision: Some(41),
            waiting: 2,
            last_error: Some("Connection refused".into()),
            since: Some("2024-05-03T09:59:00Z".into()),
        };
        let now = "2024-05-03T10:00:00Z".parse().expect("a time");
        let expected = "\
ID   URL           FILTER            DELIVERED   WAITING   AGE   TROUBLE
7e   https://a/b   tier=gold phase   41          2         1h    Connection refused (for 1m)
";
        assert_eq!(callback_table(&[callback], now), expected);
    }
}
