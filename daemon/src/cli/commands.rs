//! What each command asks of the API and makes of the answer. Prints nothing.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::{Duration, Instant};

use cobalt_api::client::{Client, ClientError, Pending, VolumeQuery, Wait};
use cobalt_api::wire::{
    Access, AccessPolicy, NewToken, Phase, Size, TokenRequest, Volume, VolumeChange, VolumePage,
    VolumeRequest,
};
use jiff::Timestamp;
use serde::Serialize;

use super::Output;
use super::access::{self, AccessArgs};
use super::args::{
    Args, Command, CreateArgs, Form, ListArgs, NodeCommand, TokenCommand, VolumeCommand,
};
use super::failure::Failure;
use super::text::plain;
use super::{colour, complete, consumers, progress, question, show, status, token};

/// The limit of a call that waits until a volume is as wished.
const WAITING: Duration = Duration::from_secs(100);
/// The limit of every other call.
const ASKING: Duration = Duration::from_secs(20);

/// What every command needs.
pub(super) struct Session {
    pub(super) client: Client,
    timeout: Option<Duration>,
    pub(super) form: Form,
    pub(super) now: Timestamp,
}

/// Runs one command.
///
/// # Errors
/// When it came to nothing. What went wrong beside things that went well is in the output.
pub(super) async fn run(args: Args) -> Result<Output, Failure> {
    let Args { api, token_file, ca_file, timeout, output: form, command } = args;
    // These need nobody, and must work where no token can be read.
    if let Command::Completion { shell } = command {
        return Ok(Output { text: complete::script(shell).to_owned(), ..Output::default() });
    }
    if let Command::Complete { words } = command {
        let text = complete::answer(&words, api, token_file.as_deref(), ca_file.as_deref()).await;
        return Ok(Output { text, ..Output::default() });
    }
    let token = token_file.as_deref().map(token::read).transpose()?;
    let client = token::client(api, token, ca_file.as_deref())?;
    let session = Session { client, timeout, form, now: Timestamp::now() };
    match command {
        Command::Volume(command) => session.volume(command).await,
        Command::Node(command) => session.node(command).await,
        Command::Token(command) => session.token(command).await,
        Command::Callback(command) => session.callback(command).await,
        Command::Status => {
            let status = session.client.status(session.asking()).await.map_err(about(""))?;
            session.output(&status, || status::screen(&status))
        }
        // Answered above.
        Command::Completion { .. } | Command::Complete { .. } => Ok(Output::default()),
    }
}

impl Session {
    async fn volume(&self, command: VolumeCommand) -> Result<Output, Failure> {
        match command {
            VolumeCommand::Create(args) => self.create(args).await,
            VolumeCommand::Ls(args) => self.list(args).await,
            VolumeCommand::Show { name } => {
                let found = self.client.volume(&name, self.asking()).await;
                let volume = found.map_err(about(&name))?;
                self.output(&volume, || show::volume_details(&volume, self.now))
            }
            VolumeCommand::Resize { name, size, no_wait } => {
                let change =
                    VolumeChange { size: Some(Size::Text(size)), ..VolumeChange::default() };
                let (wait, limit) = self.waiting(no_wait);
                let change = self.client.change_volume(&name, &change, None, wait, limit);
                let changed = self.watched(&name, wait, change).await;
                self.changed(&changed.map_err(about(&name))?)
            }
            VolumeCommand::Rm { names, yes, no_wait } => {
                if !yes {
                    question::may_delete(&names)?;
                }
                self.remove(&names, no_wait).await
            }
            VolumeCommand::Access(args) => self.access(args).await,
            VolumeCommand::Consumers { name } => {
                let found = self.client.volume(&name, self.asking()).await;
                let hosts = found.map_err(about(&name))?.consumers;
                self.output(&hosts, || consumers::host_table(&hosts, self.now))
            }
            VolumeCommand::Release { name, host, yes } => self.release(&name, &host, yes).await,
        }
    }

    async fn create(&self, args: CreateArgs) -> Result<Output, Failure> {
        let (wait, limit) = self.waiting(args.no_wait);
        let name = args.name.clone();
        let request = wish(args)?;
        let create = self.client.create_volume(&name, &request, wait, Pending::Keep, limit);
        let made = self.watched(&name, wait, create).await;
        self.changed(&made.map_err(about(&name))?)
    }

    /// Shows who may mount a volume; changes it first, where that was asked for, unless somebody
    /// else changed the volume meanwhile.
    async fn access(&self, args: AccessArgs) -> Result<Output, Failure> {
        let name = &args.name;
        let mut volume = self.client.volume(name, self.asking()).await.map_err(about(name))?;
        if args.changes() {
            let access = Some(args.over(&volume.access)?);
            let change = VolumeChange { access, ..VolumeChange::default() };
            let (wait, limit) = self.waiting(args.no_wait);
            let at = Some(volume.revision);
            let change = self.client.change_volume(name, &change, at, wait, limit);
            volume = self.watched(name, wait, change).await.map_err(about(name))?;
        }
        self.output(&volume, || access::details(&volume))
    }

    /// The name alone, as Docker prints it; and whether it is to be waited for.
    fn changed(&self, volume: &Volume) -> Result<Output, Failure> {
        let name = &volume.name;
        let mut output = self.output(volume, || format!("{name}\n"))?;
        let as_wished = match volume.phase {
            Phase::Ready => volume.applied_generation >= volume.generation,
            Phase::Requested | Phase::Assigned | Phase::Deleting => false,
        };
        if !as_wished {
            let look = format!("accepted, not done yet; look at it: cobalt volume show {name}");
            output.remarks.push(look);
        }
        Ok(output)
    }

    async fn list(&self, args: ListArgs) -> Result<Output, Failure> {
        let ListArgs { labels, phase, node, quiet } = args;
        let labels = labels.into_iter().map(|(key, value)| format!("{key}={value}")).collect();
        let phase = phase.map(Phase::from);
        let query = VolumeQuery { limit: None, cursor: None, labels, phase, node };
        let page = self.all_pages(query).await.map_err(about(""))?;
        let mut output = self.output(&page, || match quiet {
            true => show::volume_names(&page.volumes),
            false => show::volume_table(&page.volumes, self.now),
        })?;
        output.remarks.extend(stale(page.age_secs));
        Ok(output)
    }

    /// All pages as one, as old as the oldest of them, within one limit.
    async fn all_pages(&self, mut query: VolumeQuery) -> Result<VolumePage, ClientError> {
        let start = Instant::now();
        let mut all = VolumePage { volumes: Vec::new(), next: None, age_secs: 0 };
        loop {
            let left = self.asking().saturating_sub(start.elapsed());
            let page = self.client.volumes(&query, left).await?;
            all.volumes.extend(page.volumes);
            all.age_secs = all.age_secs.max(page.age_secs);
            match page.next {
                None => return Ok(all),
                next => query.cursor = next,
            }
        }
    }

    /// Deletes one after the other; one that cannot be deleted does not keep the others.
    async fn remove(&self, names: &[String], no_wait: bool) -> Result<Output, Failure> {
        let (wait, limit) = self.waiting(no_wait);
        let mut output = Output::default();
        for name in names {
            let delete = self.client.delete_volume(name, wait, limit);
            match self.watched(name, wait, delete).await {
                Ok(()) if self.form == Form::Table => output.text += &format!("{name}\n"),
                Ok(()) => (),
                Err(error) => output.failures.push(about(name)(error)),
            }
        }
        Ok(output)
    }

    /// Forgets that a host has a volume mounted, if the volume still is the one that was looked at.
    async fn release(&self, name: &str, host: &str, yes: bool) -> Result<Output, Failure> {
        let volume = self.client.volume(name, self.asking()).await.map_err(about(name))?;
        let host = consumers::pick(&volume, host)?;
        let asked = !yes && question::may_release(&consumers::question(name, host, self.now))?;
        let (id, limit) = (&volume.id, self.asking());
        let released = self.client.release_consumer(name, &host.host_id, id, limit).await;
        released.map_err(about(name))?;
        let mut output = Output::default();
        if self.form == Form::Table {
            output.text = format!("{}\n", plain(&host.hostname));
        }
        if !asked {
            output.remarks.push(consumers::consequence(name, host));
        }
        Ok(output)
    }

    async fn node(&self, command: NodeCommand) -> Result<Output, Failure> {
        match command {
            NodeCommand::Ls => {
                let list = self.client.nodes(self.asking()).await.map_err(about(""))?;
                let mut output = self.output(&list, || show::node_table(&list.nodes))?;
                output.remarks.extend(stale(list.age_secs));
                Ok(output)
            }
            NodeCommand::Show { name } => {
                let found = self.client.node(&name, self.asking()).await;
                let node = found.map_err(about(&name))?;
                self.output(&node, || show::node_details(&node))
            }
        }
    }

    async fn token(&self, command: TokenCommand) -> Result<Output, Failure> {
        match command {
            TokenCommand::Create { role, description, out } => {
                let request = TokenRequest { role: role.into(), description };
                match out {
                    Some(path) => self.create_token_file(&request, &path).await,
                    None => self.create_token(&request).await,
                }
            }
            TokenCommand::Ls => {
                let list = self.client.tokens(self.asking()).await.map_err(about(""))?;
                self.output(&list, || show::token_table(&list.tokens, self.now))
            }
            TokenCommand::Rm { id } => {
                self.client.revoke_token(&id, self.asking()).await.map_err(about(&id))?;
                let text = match self.form {
                    Form::Table => format!("{id}\n"),
                    Form::Json => String::new(),
                };
                Ok(Output { text, ..Output::default() })
            }
        }
    }

    async fn create_token(&self, request: &TokenRequest) -> Result<Output, Failure> {
        let made = self.client.create_token(request, self.asking()).await.map_err(about(""))?;
        let mut output = self.output(&made, || format!("{}\n", made.token))?;
        let NewToken { id, .. } = made;
        let said = format!("this is shown once; keep it. Revoke it with: cobalt token rm {id}");
        output.remarks.push(said);
        Ok(output)
    }

    /// Prints the id, and the secret nowhere but in the file.
    async fn create_token_file(
        &self,
        request: &TokenRequest,
        path: &Path,
    ) -> Result<Output, Failure> {
        let file = token::NewFile::create(path)?;
        let made = match self.client.create_token(request, self.asking()).await {
            Ok(made) => made,
            Err(error) => {
                file.discard();
                return Err(about("")(error));
            }
        };
        let NewToken { id, token, role } = made;
        if let Err(failure) = file.keep(&token) {
            // A token that nobody has is of no use; when it stays, the sentence names it.
            return Err(match self.client.revoke_token(&id, self.asking()).await {
                Ok(()) => failure,
                Err(_) => failure.hint(format!("the token is there: cobalt token rm {id}")),
            });
        }
        let shown = serde_json::json!({ "id": id, "role": role });
        let mut output = self.output(&shown, || format!("{id}\n"))?;
        output.remarks.push(format!("the token is in {}, for you alone", path.display()));
        Ok(output)
    }

    /// Does a call about a volume; where it waits for more than an answer, a terminal shows how
    /// far it is.
    async fn watched<T>(&self, name: &str, wait: Wait, call: impl Future<Output = T>) -> T {
        match wait {
            Wait::No => call.await,
            Wait::Done => progress::show(&self.client, name, call).await,
        }
    }

    pub(super) fn asking(&self) -> Duration {
        self.timeout.unwrap_or(ASKING)
    }

    fn waiting(&self, no_wait: bool) -> (Wait, Duration) {
        match no_wait {
            true => (Wait::No, self.asking()),
            false => (Wait::Done, self.timeout.unwrap_or(WAITING)),
        }
    }

    /// The answer in the form that was asked for.
    pub(super) fn output(
        &self,
        value: &impl Serialize,
        people: impl FnOnce() -> String,
    ) -> Result<Output, Failure> {
        let text = match self.form {
            Form::Table => colour::for_stdout(people()),
            Form::Json => {
                let json = serde_json::to_string_pretty(value);
                json.map_err(|error| Failure::here(format!("cannot write JSON: {error}")))? + "\n"
            }
        };
        Ok(Output { text, ..Output::default() })
    }
}

/// The wish that a create's arguments express; what is left out stays the API's to choose.
fn wish(args: CreateArgs) -> Result<VolumeRequest, Failure> {
    let mut labels = BTreeMap::new();
    for (key, value) in args.labels {
        if labels.insert(key.clone(), value).is_some() {
            return Err(Failure::usage(format!("label \"{key}\" is given twice")));
        }
    }
    let access = args.access.is_some() || !args.allow.is_empty();
    let policy = args.access.map(AccessPolicy::from).unwrap_or_default();
    Ok(VolumeRequest {
        size: args.size.map(Size::Text),
        labels: (!labels.is_empty()).then_some(labels),
        constraints: (!args.constraints.is_empty()).then_some(args.constraints),
        compression: args.compression,
        nocow: args.nocow.then_some(true),
        uid: args.uid,
        gid: args.gid,
        mode: args.mode,
        access: access.then_some(Access { policy, rules: args.allow }),
        mount_options: (!args.mount_options.is_empty()).then_some(args.mount_options),
    })
}

/// For `map_err`: a failed call about the thing of this name.
pub(super) fn about(name: &str) -> impl Fn(ClientError) -> Failure {
    move |error| Failure::of(&error, name)
}

fn stale(age_secs: u64) -> Option<String> {
    (age_secs > 0).then(|| format!("etcd does not answer: this is as it was {age_secs} s ago"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plain_create() -> CreateArgs {
        CreateArgs {
            name: "web".into(),
            size: None,
            labels: Vec::new(),
            constraints: Vec::new(),
            compression: None,
            nocow: false,
            uid: None,
            gid: None,
            mode: None,
            access: None,
            allow: Vec::new(),
            mount_options: Vec::new(),
            no_wait: false,
        }
    }

    #[test]
    fn what_is_left_out_is_left_to_the_api() {
        assert_eq!(wish(plain_create()).expect("fine"), VolumeRequest::default());
    }

    #[test]
    fn a_label_given_twice_is_refused() {
        let labels = vec![("a".into(), "1".into()), ("a".into(), "2".into())];
        let refused = wish(CreateArgs { labels, ..plain_create() }).expect_err("twice");
        assert_eq!(refused.text(), "cobalt: label \"a\" is given twice");
    }
}
