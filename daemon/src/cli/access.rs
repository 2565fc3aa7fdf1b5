//! `cobalt volume access`: who may mount a volume, shown and changed. Asks nobody.

use clap::ValueEnum;
use cobalt_api::wire::{Access, AccessMode, AccessPolicy, AccessRule, Squash, Volume};

use super::failure::Failure;
use super::text::{plain, table};

#[derive(Debug, PartialEq, clap::Args)]
pub(super) struct AccessArgs {
    /// The volume
    #[arg(value_parser = super::args::volume_name)]
    pub(super) name: String,
    /// What holds for hosts that no rule covers
    #[arg(long, value_enum)]
    pub(super) policy: Option<Policy>,
    /// Let a host or network in, as in 10.0.0.7, 10.0.0.0/24=ro or 10.0.0.7=rw+root_squash; =none
    /// bars it; may be given again
    #[arg(long, value_name = "RULE", value_parser = rule)]
    pub(super) allow: Vec<AccessRule>,
    /// Drop the rule about this host or network; may be given again
    #[arg(long, value_name = "HOST")]
    pub(super) drop: Vec<String>,
    /// Do not wait until the export is so
    #[arg(long)]
    pub(super) no_wait: bool,
}

/// The policies, as arguments.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum Policy {
    /// Every Docker host whose plugin has a token may read and write
    Auto,
    /// Nobody but the listed
    Listed,
}

impl From<Policy> for AccessPolicy {
    fn from(policy: Policy) -> AccessPolicy {
        match policy {
            Policy::Auto => AccessPolicy::Auto,
            Policy::Listed => AccessPolicy::Listed,
        }
    }
}

/// Reads a rule as it is typed.
pub(super) fn rule(text: &str) -> Result<AccessRule, String> {
    AccessRule::parse(text).map_err(|bad| bad.to_string())
}

impl AccessArgs {
    /// Whether anything shall change.
    pub(super) fn changes(&self) -> bool {
        self.policy.is_some() || !self.allow.is_empty() || !self.drop.is_empty()
    }

    /// The access of a volume with the changes made.
    ///
    /// # Errors
    /// When a rule shall be dropped that is not there.
    pub(super) fn over(&self, now: &Access) -> Result<Access, Failure> {
        let mut access = now.clone();
        if let Some(policy) = self.policy {
            access.policy = policy.into();
        }
        for host in &self.drop {
            let before = access.rules.len();
            access.rules.retain(|rule| rule.host != *host);
            if access.rules.len() == before {
                let said = format!("there is no rule about \"{host}\"");
                let look = format!("see which there are: cobalt volume access {}", self.name);
                return Err(Failure::missing(said).hint(look));
            }
        }
        for rule in &self.allow {
            access.rules.retain(|known| known.host != rule.host);
            access.rules.push(rule.clone());
        }
        Ok(access)
    }
}

/// Policy, rules, and what each host that uses the volume has.
pub(super) fn details(volume: &Volume) -> String {
    let mut text = format!("policy: {}\n", policy(volume.access.policy));
    let rules = volume.access.rules.iter();
    let rows: Vec<_> = rules.map(|rule| [rule.host.clone(), granted(rule)]).collect();
    if !rows.is_empty() {
        text = format!("{text}\n{}", table(["RULE ABOUT", "MAY"], &rows));
    }
    let rows: Vec<_> = volume
        .consumers
        .iter()
        .map(|host| {
            let has = host.has.as_ref();
            let address = host.address.clone().unwrap_or_else(|| "its own node".to_owned());
            let trouble = has.and_then(|has| has.trouble.clone()).unwrap_or_default();
            let has = has.map_or("?", |has| word(has.mode)).to_owned();
            [plain(&host.hostname), address, word(host.may).to_owned(), has, plain(&trouble)]
        })
        .collect();
    if !rows.is_empty() {
        let head = ["MOUNTED ON", "ADDRESS", "MAY", "HAS", "TROUBLE"];
        text = format!("{text}\n{}", table(head, &rows));
    }
    if let Some(command) = volume.export.as_ref().and_then(|export| export.mount_command.as_ref()) {
        text = format!("{text}\nby hand, on a host that a rule lets in:\n  {command}\n");
    }
    text
}

fn policy(policy: AccessPolicy) -> &'static str {
    match policy {
        AccessPolicy::Auto => "auto (Docker hosts whose plugin has a token may read and write)",
        AccessPolicy::Listed => "listed (nobody but the listed)",
    }
}

fn granted(rule: &AccessRule) -> String {
    let squash = match rule.squash {
        Squash::NoRootSquash => return word(rule.mode).to_owned(),
        Squash::RootSquash => "root_squash",
        Squash::AllSquash => "all_squash",
    };
    format!("{}+{squash}", word(rule.mode))
}

fn word(mode: AccessMode) -> &'static str {
    match mode {
        AccessMode::Rw => "rw",
        AccessMode::Ro => "ro",
        AccessMode::None => "none",
    }
}

#[cfg(test)]
mod tests {
    use super::super::show::tests::web;
    use super::*;

    fn args(allow: &[&str], drop: &[&str]) -> AccessArgs {
        AccessArgs {
            name: "web".into(),
            policy: Some(Policy::Listed),
            allow: allow.iter().map(|text| rule(text).expect("a rule")).collect(),
            drop: drop.iter().map(|&host| host.to_owned()).collect(),
            no_wait: false,
        }
    }

    #[test]
    fn rules_are_added_replaced_and_dropped_and_the_others_stay() {
        let now = args(&["10.0.0.1", "10.0.0.2", "10.0.0.3"], &[]).over(&Access::default());
        let changed = args(&["10.0.0.2=ro", "10.0.0.4=none"], &["10.0.0.3"])
            .over(&now.expect("nothing is dropped"))
            .expect("the rule is there");
        let rules: Vec<_> =
            changed.rules.iter().map(|rule| (rule.host.as_str(), granted(rule))).collect();
        let wanted = [("10.0.0.1", "rw"), ("10.0.0.2", "ro"), ("10.0.0.4", "none")];
        assert_eq!(rules, wanted.map(|(host, may)| (host, may.to_owned())));
        assert_eq!(changed.policy, AccessPolicy::Listed);
    }

    #[test]
    fn a_rule_that_is_not_there_cannot_be_dropped() {
        assert!(args(&[], &["10.0.0.9"]).over(&Access::default()).is_err());
    }

    #[test]
    fn what_is_wanted_and_what_is_are_shown_side_by_side() {
        use cobalt_api::wire::{Consumer, ConsumerState};
        let has = ConsumerState { generation: 2, epoch: 1, mode: AccessMode::None, trouble: None };
        let host = Consumer {
            hostname: "docker1".into(),
            address: Some("10.0.0.7".into()),
            may: AccessMode::None,
            has: Some(has),
            ..Consumer::default()
        };
        let access = args(&["10.0.0.9=ro+all_squash"], &[]).over(&Access::default());
        let access = access.expect("nothing is dropped");
        let shown = details(&Volume { access, consumers: vec![host], ..web() });
        assert_eq!(
            shown,
            "policy: listed (nobody but the listed)\n\n\
             RULE ABOUT   MAY\n10.0.0.9     ro+all_squash\n\n\
             MOUNTED ON   ADDRESS    MAY    HAS\ndocker1      10.0.0.7   none   none\n"
        );
    }
}
