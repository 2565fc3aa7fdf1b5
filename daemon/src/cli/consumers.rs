//! The hosts that a volume is noted to be mounted on: how they are shown and picked, and what it
//! means to release one. Asks nobody.

use cobalt_api::wire::{Consumer, Volume};
use jiff::Timestamp;

use super::failure::Failure;
use super::text::{age, plain, table};

/// One host a line.
pub(super) fn host_table(hosts: &[Consumer], now: Timestamp) -> String {
    let row =
        |host: &Consumer| [host.hostname.clone(), age(&host.since, now), host.host_id.clone()];
    let rows: Vec<_> = hosts.iter().map(row).collect();
    table(["HOST", "AGE", "ID"], &rows)
}

/// The one host of this name or id.
///
/// # Errors
/// When no host of that name is noted, or several are.
pub(super) fn pick<'a>(volume: &'a Volume, host: &str) -> Result<&'a Consumer, Failure> {
    let name = &volume.name;
    let named = |noted: &&Consumer| noted.host_id == host || noted.hostname == host;
    let found: Vec<_> = volume.consumers.iter().filter(named).collect();
    match found.as_slice() {
        [one] => Ok(one),
        [] => Err(Failure::missing(format!(
            "volume \"{name}\" is not noted as mounted on \"{host}\""
        ))
        .hint(format!("see where it is: cobalt volume consumers {name}"))),
        several => {
            let said = format!("{} hosts are called \"{host}\"; give the id of one", several.len());
            let ids = several.iter().map(|noted| noted.host_id.clone());
            Err(ids.fold(Failure::usage(said), Failure::hint))
        }
    }
}

/// What is asked before.
pub(super) fn question(volume: &str, host: &Consumer, now: Timestamp) -> String {
    let (host, since) = (plain(&host.hostname), age(&host.since, now));
    format!(
        "{host} has {volume} mounted, it said {since} ago. Once released, {volume} can be deleted \
         even if containers there still use it: do it only for a host that is gone for good.\n\
         release {volume} from {host}? [y/N] "
    )
}

/// What is said afterwards to those who were not asked.
pub(super) fn consequence(volume: &str, host: &Consumer) -> String {
    let host = plain(&host.hostname);
    format!("{volume} can be deleted now, even if {host} is not gone and still has it mounted")
}

#[cfg(test)]
mod tests {
    use super::super::show::tests::{now, web};
    use super::*;

    fn host(number: u8, name: &str) -> Consumer {
        let host_id = format!("00000000-0000-4000-8000-0000000000{number:02}");
        Consumer {
            host_id,
            hostname: name.into(),
            since: "2024-05-03T09:00:00Z".into(),
            ..Consumer::default()
        }
    }

    fn mounted(hosts: &[Consumer]) -> Volume {
        Volume { consumers: hosts.to_vec(), ..web() }
    }

    #[test]
    fn hosts_are_listed_with_their_ids() {
        let expected = "\
HOST      AGE   ID
docker1   1h    00000000-0000-4000-8000-000000000001
";
        assert_eq!(host_table(&[host(1, "docker1")], now()), expected);
    }

    #[test]
    fn a_host_is_known_by_its_name_and_by_its_id() {
        let volume = mounted(&[host(1, "docker1"), host(2, "docker2")]);
        for said in ["docker2", "00000000-0000-4000-8000-000000000002"] {
            assert_eq!(pick(&volume, said).expect("it is noted"), &host(2, "docker2"));
        }
    }

    #[test]
    fn an_unknown_host_is_refused_with_the_way_to_see_all() {
        let text = pick(&mounted(&[]), "docker1").expect_err("none is noted").text();
        assert!(text.contains("not noted as mounted on \"docker1\""), "{text}");
        assert!(text.contains("cobalt volume consumers web"), "{text}");
    }

    #[test]
    fn of_two_hosts_of_one_name_the_id_is_asked_for() {
        let volume = mounted(&[host(1, "debian"), host(2, "debian")]);
        let text = pick(&volume, "debian").expect_err("which?").text();
        assert!(text.contains("give the id of one"), "{text}");
        assert!(text.contains(&host(1, "").host_id) && text.contains(&host(2, "").host_id));
    }

    #[test]
    fn the_question_says_what_releasing_means() {
        let asked = question("web", &host(1, "docker1"), now());
        assert!(asked.contains("can be deleted even if containers there still use it"), "{asked}");
        assert!(asked.ends_with("release web from docker1? [y/N] "), "{asked}");
    }
}
