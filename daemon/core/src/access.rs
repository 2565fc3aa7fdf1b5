//! Who may mount a volume, and how.
//!
//! A policy says whether hosts that registered themselves are let in without being listed; rules
//! list hosts and networks. The narrowest rule that covers an address decides about it.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

/// The most rules one volume may have.
pub const MAX_RULES: usize = 256;

/// What is wanted about access to one volume.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Access {
    /// What holds for a host that no rule covers.
    pub policy: AccessPolicy,
    /// In the order of their networks, one each.
    rules: Vec<Rule>,
}

/// What holds for hosts that no rule covers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum AccessPolicy {
    /// A host that registered itself as a consumer may read and write.
    #[default]
    Auto,
    /// Nobody but the listed.
    Listed,
}

/// One rule.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Rule {
    /// Whom it is about.
    pub who: Network,
    /// What they may do; `None` bars them.
    pub grant: Option<Grant>,
}

/// What a host may do with a volume.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Grant {
    /// Write, and not only read.
    pub write: bool,
    /// Whose rights its users have.
    pub squash: Squash,
}

/// Which users of a host become nobody on the storage node.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Squash {
    /// None: containers may give files away, as on a local disk.
    #[default]
    None,
    /// Root.
    Root,
    /// Everybody.
    All,
}

/// A host's address, or a network of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Network {
    address: IpAddr,
    prefix: u8,
}

/// A text that is no rule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum BadRule {
    /// It names no host or network.
    Who(String),
    /// What follows the `=` is not known.
    Grant(String),
    /// There are two about the same hosts.
    Twice(Network),
    /// There are too many.
    TooMany,
}

impl fmt::Display for BadRule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            BadRule::Who(text) => write!(
                f,
                "\"{}\" is not a host or network: write an address such as 10.0.0.7, or a \
                 network such as 10.0.0.0/24",
                crate::bytes::shortened(text)
            ),
            BadRule::Grant(text) => write!(
                f,
                "\"{}\" is not an access: write rw, ro or none, and after a + root_squash, \
                 all_squash or no_root_squash",
                crate::bytes::shortened(text)
            ),
            BadRule::Twice(who) => write!(f, "there are two rules about {who}; keep one"),
            BadRule::TooMany => write!(f, "a volume has at most {MAX_RULES} rules"),
        }
    }
}

impl std::error::Error for BadRule {}

impl Access {
    /// Access by a policy and rules.
    ///
    /// # Errors
    /// When two rules are about the same hosts, or there are more than [`MAX_RULES`].
    pub fn new(policy: AccessPolicy, mut rules: Vec<Rule>) -> Result<Access, BadRule> {
        if rules.len() > MAX_RULES {
            return Err(BadRule::TooMany);
        }
        rules.sort();
        match rules.windows(2).find(|pair| pair[0].who == pair[1].who) {
            Some(pair) => Err(BadRule::Twice(pair[0].who)),
            None => Ok(Access { policy, rules }),
        }
    }

    /// The rules, in the order of their networks.
    pub fn rules(&self) -> &[Rule] {
        &self.rules
    }

    /// What a registered consumer at this address may do; `None` bars it.
    pub fn for_consumer(&self, address: IpAddr) -> Option<Grant> {
        match (self.rule_for(address), self.policy) {
            (Some(rule), _) => rule.grant,
            (None, AccessPolicy::Auto) => Some(Grant::FULL),
            (None, AccessPolicy::Listed) => None,
        }
    }

    /// What a consumer on the storage node itself may do, whichever of the node's addresses a
    /// rule is about. It is the volume's own host, and a rule that gives it more wins.
    pub fn for_own_node(&self, addresses: &[IpAddr]) -> Option<Grant> {
        let covered: Vec<&Rule> = addresses.iter().filter_map(|own| self.rule_for(*own)).collect();
        match (covered.iter().map(|rule| rule.grant).max(), self.policy) {
            (Some(grant), _) => grant,
            (None, AccessPolicy::Auto) => Some(Grant::FULL),
            (None, AccessPolicy::Listed) => None,
        }
    }

    /// Hosts that are let in by name, registered or not. Networks let in only who registers: an
    /// export is never opened to a whole network.
    pub fn listed_hosts(&self) -> impl Iterator<Item = (IpAddr, Grant)> {
        self.rules.iter().filter_map(|rule| rule.who.one_host().zip(rule.grant))
    }

    fn rule_for(&self, address: IpAddr) -> Option<&Rule> {
        let covering = self.rules.iter().filter(|rule| rule.who.covers(address));
        covering.max_by_key(|rule| rule.who.prefix)
    }
}

impl fmt::Display for Access {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.policy.as_str())?;
        self.rules.iter().try_for_each(|rule| write!(f, ",{rule}"))
    }
}

impl AccessPolicy {
    /// The word for it.
    pub fn as_str(self) -> &'static str {
        match self {
            AccessPolicy::Auto => "auto",
            AccessPolicy::Listed => "listed",
        }
    }

    /// Reads the word; `None` for another.
    pub fn parse(text: &str) -> Option<AccessPolicy> {
        [AccessPolicy::Auto, AccessPolicy::Listed].into_iter().find(|known| known.as_str() == text)
    }
}

impl Grant {
    /// Everything: what a disk of one's own allows.
    pub const FULL: Grant = Grant { write: true, squash: Squash::None };

    /// Reads what stands behind the `=` of a rule: `ro`, `rw+root_squash`; `none` bars.
    ///
    /// # Errors
    /// When it is something else.
    pub fn parse(text: &str) -> Result<Option<Grant>, BadRule> {
        let bad = || BadRule::Grant(text.to_owned());
        let (mode, squash) = match text.split_once('+') {
            Some((mode, squash)) => (mode, Squash::parse(squash).ok_or_else(bad)?),
            None => (text, Squash::default()),
        };
        match mode {
            "rw" => Ok(Some(Grant { write: true, squash })),
            "ro" => Ok(Some(Grant { write: false, squash })),
            "none" if text == "none" => Ok(None),
            _ => Err(bad()),
        }
    }

    /// `rw` or `ro`.
    pub fn mode(self) -> &'static str {
        if self.write { "rw" } else { "ro" }
    }
}

impl fmt::Display for Grant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.squash {
            Squash::None => f.write_str(self.mode()),
            Squash::Root | Squash::All => write!(f, "{}+{}", self.mode(), self.squash.as_str()),
        }
    }
}

impl Squash {
    /// The word exports(5) has for it.
    pub fn as_str(self) -> &'static str {
        match self {
            Squash::None => "no_root_squash",
            Squash::Root => "root_squash",
            Squash::All => "all_squash",
        }
    }

    /// Reads the word; `None` for another.
    pub fn parse(text: &str) -> Option<Squash> {
        [Squash::None, Squash::Root, Squash::All].into_iter().find(|known| known.as_str() == text)
    }
}

/// `10.0.0.7`, `10.0.0.0/24=ro`, `10.0.0.7=rw+root_squash`, `10.0.0.9=none`.
impl FromStr for Rule {
    type Err = BadRule;

    fn from_str(text: &str) -> Result<Rule, BadRule> {
        let (who, granted) = text.split_once('=').unwrap_or((text, "rw"));
        Ok(Rule { who: who.parse()?, grant: Grant::parse(granted)? })
    }
}

impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.grant {
            Some(grant) => write!(f, "{}={grant}", self.who),
            None => write!(f, "{}=none", self.who),
        }
    }
}

impl Network {
    /// One host.
    pub fn host(address: IpAddr) -> Network {
        let address = address.to_canonical();
        Network { address, prefix: width(address) }
    }

    /// Its address, if it is a single one.
    pub fn one_host(self) -> Option<IpAddr> {
        (self.prefix == width(self.address)).then_some(self.address)
    }

    /// Whether an address lies in it. An IPv4 address in IPv6's clothes is an IPv4 address.
    pub fn covers(self, address: IpAddr) -> bool {
        let address = address.to_canonical();
        width(address) == width(self.address)
            && masked(address, self.prefix) == masked(self.address, self.prefix)
    }
}

impl FromStr for Network {
    type Err = BadRule;

    fn from_str(text: &str) -> Result<Network, BadRule> {
        let bad = || BadRule::Who(text.to_owned());
        let (address, prefix) = match text.split_once('/') {
            Some((address, prefix)) => {
                let digits = !prefix.is_empty() && prefix.bytes().all(|b| b.is_ascii_digit());
                (address, digits.then_some(prefix).ok_or_else(bad)?.parse().map_err(|_| bad())?)
            }
            None => (text, u8::MAX),
        };
        let address: IpAddr = address.parse().map_err(|_| bad())?;
        let whole = text.find('/').is_none();
        let usable = !address.is_unspecified() || !whole;
        let prefix = if whole { width(address) } else { prefix };
        // Bits beyond the prefix are more often a slip than meant.
        let tidy = prefix <= width(address) && masked(address, prefix) == bits(address);
        match usable && tidy && !address.is_multicast() && address.to_canonical() == address {
            true => Ok(Network { address, prefix }),
            false => Err(bad()),
        }
    }
}

impl fmt::Display for Network {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.one_host().is_some() {
            true => write!(f, "{}", self.address),
            false => write!(f, "{}/{}", self.address, self.prefix),
        }
    }
}

fn width(address: IpAddr) -> u8 {
    match address {
        IpAddr::V4(_) => 32,
        IpAddr::V6(_) => 128,
    }
}

fn bits(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(address) => u128::from(u32::from(address)),
        IpAddr::V6(address) => u128::from(address),
    }
}

/// The address with everything behind the first `prefix` bits put to zero.
fn masked(address: IpAddr, prefix: u8) -> u128 {
    let dropped = u32::from(width(address).saturating_sub(prefix));
    bits(address).checked_shr(dropped).and_then(|kept| kept.checked_shl(dropped)).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn access(policy: AccessPolicy, rules: &[&str]) -> Access {
        let rules = rules.iter().map(|text| text.parse().expect("a rule")).collect();
        Access::new(policy, rules).expect("they agree")
    }

    fn at(text: &str) -> IpAddr {
        text.parse().expect("an address")
    }

    fn given(access: &Access, address: &str) -> String {
        access.for_consumer(at(address)).map_or("none".to_owned(), |grant| grant.to_string())
    }

    #[test]
    fn without_rules_the_policy_alone_decides() {
        assert_eq!(given(&access(AccessPolicy::Auto, &[]), "10.0.0.7"), "rw");
        assert_eq!(given(&access(AccessPolicy::Listed, &[]), "10.0.0.7"), "none");
    }

    #[test]
    fn the_narrowest_rule_that_covers_a_host_decides() {
        let rules = ["10.0.0.0/24=ro", "10.0.0.7=rw+root_squash", "10.0.0.9=none", "10.0.0.0/8"];
        let listed = access(AccessPolicy::Listed, &rules);
        assert_eq!(given(&listed, "10.0.0.7"), "rw+root_squash");
        assert_eq!(given(&listed, "10.0.0.8"), "ro");
        assert_eq!(given(&listed, "10.0.0.9"), "none");
        assert_eq!(given(&listed, "10.9.9.9"), "rw");
        assert_eq!(given(&listed, "11.0.0.1"), "none");
    }

    #[test]
    fn only_single_hosts_are_let_in_unregistered() {
        let rules = ["10.0.0.0/24", "10.0.1.7=ro", "10.0.1.8=none", "fd00::7"];
        let listed = access(AccessPolicy::Listed, &rules);
        let hosts: Vec<String> = listed.listed_hosts().map(|(host, _)| host.to_string()).collect();
        assert_eq!(hosts, ["10.0.1.7", "fd00::7"]);
    }

    #[test]
    fn a_node_is_given_the_most_that_a_rule_gives_one_of_its_addresses() {
        let own = [at("10.0.0.1"), at("10.1.0.1")];
        let listed = access(AccessPolicy::Listed, &["10.0.0.1=ro", "10.1.0.1"]);
        assert_eq!(listed.for_own_node(&own), Some(Grant::FULL));
        let barred = access(AccessPolicy::Auto, &["10.0.0.1=none"]);
        assert_eq!(barred.for_own_node(&own), None);
        assert_eq!(access(AccessPolicy::Listed, &[]).for_own_node(&own), None);
    }

    #[test]
    fn an_ipv4_address_in_ipv6_clothes_is_covered_by_an_ipv4_rule() {
        let listed = access(AccessPolicy::Listed, &["10.0.0.0/24"]);
        assert_eq!(given(&listed, "::ffff:10.0.0.7"), "rw");
    }

    #[test]
    fn a_rule_reads_back_as_it_is_shown() {
        for text in ["10.0.0.7=rw", "10.0.0.0/24=ro+all_squash", "fd00::/64=none", "0.0.0.0/0=ro"] {
            assert_eq!(text.parse::<Rule>().expect("a rule").to_string(), text);
        }
        assert_eq!("10.0.0.7".parse::<Rule>(), "10.0.0.7=rw".parse());
    }

    #[test]
    fn what_could_mean_something_else_in_an_exports_file_is_no_rule() {
        for text in [
            "",
            "*",
            "web1",
            "@group",
            "10.0.0.1/24",
            "10.0.0.0/33",
            "10.0.0.0/+8",
            "10.0.0.7(rw)",
            "10.0.0.7 =rw",
            "10.0.0.7=",
            "10.0.0.7=wr",
            "10.0.0.7=rw+",
            "10.0.0.7=none+root_squash",
            "10.0.0.7=rw,fsid=0",
            "::ffff:10.0.0.1",
            "0.0.0.0",
            "::",
            "224.0.0.1",
            "fe80::1%eth0",
        ] {
            assert!(text.parse::<Rule>().is_err(), "{text}");
        }
    }

    #[test]
    fn two_rules_about_the_same_hosts_are_refused() {
        let rules = ["10.0.0.7", "10.0.0.7=ro"].map(|text| text.parse().expect("a rule"));
        let twice = Access::new(AccessPolicy::Auto, rules.to_vec());
        assert_eq!(twice, Err(BadRule::Twice("10.0.0.7".parse().expect("a host"))));
    }
}
