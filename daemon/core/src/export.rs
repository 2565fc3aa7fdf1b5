//! Whom the export of a volume lets in: from the record and the hosts that use it to a list.

use std::collections::BTreeMap;
use std::net::IpAddr;

use crate::access::Grant;
use crate::consumer::Consumer;
use crate::volume::{Phase, Volume};

/// The hosts an export lets in, each by its address, and what they may do.
pub type Admits = BTreeMap<IpAddr, Grant>;

/// The hosts that the export of a volume must let in, and no others.
///
/// Listed hosts, and the consumers that registered and that the rules or the policy let in. A
/// consumer on the volume's own node binds it and needs no export. What is not ready, or on its
/// way out, lets in nobody.
pub fn admitted<'a>(volume: &Volume, consumers: impl IntoIterator<Item = &'a Consumer>) -> Admits {
    match volume.phase {
        Phase::Requested { .. } | Phase::Assigned { .. } | Phase::Deleting { .. } => {
            return Admits::default();
        }
        Phase::Ready { .. } => (),
    }
    let access = &volume.wish.access;
    let registered = consumers.into_iter().filter_map(|consumer| consumer.address);
    let let_in = registered.filter_map(|at| Some((at.to_canonical(), access.for_consumer(at)?)));
    access.listed_hosts().chain(let_in).collect()
}

/// Of those that are to be let in, the ones that are already, each with no more than it has.
pub fn no_wider(wanted: &Admits, now: &Admits) -> Admits {
    let both = wanted.iter().filter_map(|(host, wish)| Some((*host, wish, now.get(host)?)));
    both.map(|(host, wish, has)| {
        let squash = wish.squash.max(has.squash);
        (host, Grant { write: wish.write && has.write, squash })
    })
    .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::access::{Access, AccessPolicy, Squash};
    use crate::bytes::Bytes;
    use crate::ident::{HostId, NodeId, SubvolumeUuid, VolumeId};
    use crate::wish::Wish;

    const ID: VolumeId = VolumeId([7; 16]);

    fn volume(policy: AccessPolicy, rules: &[&str]) -> Volume {
        let rules = rules.iter().map(|text| text.parse().expect("a rule")).collect();
        let access = Access::new(policy, rules).expect("they agree");
        let wish = Wish { access, ..Wish::of(Bytes(1)) };
        let requested = Volume::new(ID, "web".parse().expect("a name"), wish, 1);
        let made = requested
            .assign(NodeId([1; 16]), 1)
            .and_then(|volume| volume.made(SubvolumeUuid([2; 16]), true));
        made.expect("the ordinary way")
    }

    fn consumer(host: u8, address: Option<&str>) -> Consumer {
        Consumer {
            volume: ID,
            host: HostId([host; 16]),
            hostname: "h".into(),
            since_ms: 1,
            address: address.map(|text| text.parse().expect("an address")),
            has: None,
            by: None,
        }
    }

    fn shown(admits: &Admits) -> Vec<String> {
        admits.iter().map(|(host, grant)| format!("{host}={grant}")).collect()
    }

    #[test]
    fn what_may_not_be_widened_keeps_the_narrower_of_both() {
        let admits = |hosts: &[(&str, bool, Squash)]| -> Admits {
            let hosts = hosts.iter().map(|&(host, write, squash)| {
                (host.parse().expect("an address"), Grant { write, squash })
            });
            hosts.collect()
        };
        let all = Squash::All;
        let none = Squash::None;
        let now = admits(&[("10.0.0.1", true, none), ("10.0.0.2", false, all)]);
        let wanted =
            admits(&[("10.0.0.1", false, all), ("10.0.0.2", true, none), ("10.0.0.3", true, none)]);
        let narrow = admits(&[("10.0.0.1", false, all), ("10.0.0.2", false, all)]);
        assert_eq!(no_wider(&wanted, &now), narrow);
        assert_eq!(no_wider(&now, &now), now);
        assert_eq!(no_wider(&Admits::new(), &now), Admits::new());
    }

    #[test]
    fn under_the_policy_auto_every_registered_consumer_is_let_in() {
        let consumers = [consumer(1, Some("10.0.0.1")), consumer(2, Some("10.0.0.2"))];
        let admits = admitted(&volume(AccessPolicy::Auto, &[]), &consumers);
        assert_eq!(shown(&admits), ["10.0.0.1=rw", "10.0.0.2=rw"]);
    }

    #[test]
    fn under_the_policy_listed_only_the_listed_are_and_hosts_also_unregistered() {
        let consumers = [consumer(1, Some("10.0.0.1")), consumer(2, Some("10.0.1.2"))];
        let rules = ["10.0.0.9=ro", "10.0.1.0/24=ro+all_squash"];
        let admits = admitted(&volume(AccessPolicy::Listed, &rules), &consumers);
        assert_eq!(shown(&admits), ["10.0.0.9=ro", "10.0.1.2=ro+all_squash"]);
    }

    #[test]
    fn a_rule_may_bar_a_consumer_that_the_policy_would_let_in() {
        let consumers = [consumer(1, Some("10.0.0.1")), consumer(2, Some("10.0.0.2"))];
        let admits = admitted(&volume(AccessPolicy::Auto, &["10.0.0.2=none"]), &consumers);
        assert_eq!(shown(&admits), ["10.0.0.1=rw"]);
    }

    #[test]
    fn a_consumer_on_the_node_itself_needs_no_export() {
        assert_eq!(admitted(&volume(AccessPolicy::Auto, &[]), &[consumer(1, None)]), Admits::new());
    }

    #[test]
    fn a_volume_on_its_way_out_lets_nobody_in() {
        let deleting = volume(AccessPolicy::Auto, &["10.0.0.9"]).delete().expect("it has data");
        assert_eq!(admitted(&deleting, &[consumer(1, Some("10.0.0.1"))]), Admits::new());
    }
}
