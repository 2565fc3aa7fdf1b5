//! All measures, in their order. Those that stop the daemons come last.

mod calls;
mod crowd;
mod docker;
mod idle;
mod neighbour;
mod peers;
mod plugin;
mod restart;
mod survey;
mod trash;

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use crate::figure::Figure;
use crate::ground::start_dockerd;
use crate::{Bench, Fault};

/// How many callers a crowd has.
const CALLERS: usize = 64;

/// Figures that are measured together, in the order in which they are.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub(crate) enum Group {
    Create,
    Crowd,
    Trash,
    Plugin,
    Docker,
    Neighbour,
    Idle,
    Restart,
    Survey,
    Peers,
}

/// What they are called by whoever wants only some.
const GROUPS: [(&str, Group); 10] = [
    ("create", Group::Create),
    ("crowd", Group::Crowd),
    ("trash", Group::Trash),
    ("plugin", Group::Plugin),
    ("docker", Group::Docker),
    ("neighbour", Group::Neighbour),
    ("idle", Group::Idle),
    ("restart", Group::Restart),
    ("survey", Group::Survey),
    ("peers", Group::Peers),
];

/// The groups that a list such as `create,plugin` names; all of them when it is empty, but what
/// is `beside_peers` only when asked for.
pub(crate) fn chosen(list: &str, beside_peers: bool) -> Result<BTreeSet<Group>, Fault> {
    if list.trim().is_empty() {
        let all = GROUPS.iter().map(|(_, group)| *group);
        return Ok(all.filter(|group| beside_peers || *group != Group::Peers).collect());
    }
    let known = |word: &str| GROUPS.iter().find(|(name, _)| *name == word).map(|(_, group)| *group);
    let names = || GROUPS.map(|(name, _)| name).join(", ");
    list.split(',')
        .map(str::trim)
        .map(|word| {
            known(word).ok_or_else(|| {
                let some = format!("give some of {}, or lab alone", names());
                format!("BENCH_ONLY: there is no group \"{word}\": {some}").into()
            })
        })
        .collect()
}

pub(crate) fn all(bench: &mut Bench) -> Result<(), Fault> {
    fill(bench)?;
    let only = bench.only.clone();
    let wanted = |group: Group| only.contains(&group);
    if wanted(Group::Create) {
        bench.say("create, resize, get, delete, one caller");
        calls::measure(bench)?;
    }
    if wanted(Group::Crowd) {
        bench.say("create and delete, 64 callers");
        crowd::measure(bench)?;
    }
    if wanted(Group::Peers) {
        peers::measure(bench)?;
    }
    if wanted(Group::Trash) {
        bench.say("emptying the trash");
        trash::measure(bench)?;
    } else {
        trash::clear(bench)?;
    }
    beside_plugins(bench, wanted)?;
    if wanted(Group::Restart) {
        bench.say("restart");
        restart::measure(bench)?;
    }
    if wanted(Group::Survey) {
        bench.say("survey");
        bench.few.cobaltd = None;
        bench.many.cobaltd = None;
        survey::measure(bench)?;
    }
    bench.say("done");
    Ok(())
}

/// What is measured while the plugins run.
fn beside_plugins(bench: &mut Bench, wanted: impl Fn(Group) -> bool) -> Result<(), Fault> {
    if [Group::Plugin, Group::Docker, Group::Idle].into_iter().any(&wanted) {
        bench.few.start_plugin()?;
        bench.many.start_plugin()?;
        // The agents have news of the trash; what they write is none of the plugin's.
        settle(bench);
    }
    if wanted(Group::Plugin) {
        bench.say("the plugin's calls");
        plugin::measure(bench)?;
    }
    if wanted(Group::Docker) {
        bench.say("docker volume create");
        let _dockerd = start_dockerd(&bench.places)?;
        docker::measure(bench)?;
    }
    if wanted(Group::Neighbour) {
        bench.say("create beside a busy neighbour");
        neighbour::measure(bench)?;
    }
    if wanted(Group::Idle) {
        bench.say("nothing at all");
        idle::measure(bench)?;
    }
    bench.few.plugin = None;
    bench.many.plugin = None;
    Ok(())
}

/// Makes the volumes that are there all the time.
fn fill(bench: &mut Bench) -> Result<(), Fault> {
    let (few, many) = (bench.plan.few, bench.plan.many);
    bench.say(&format!("making {few} and {many} volumes"));
    let empty = resident(bench)?;
    crowd::fill(&bench.few, few)?;
    let start = Instant::now();
    crowd::fill(&bench.many, many)?;
    let rate = many as f64 / start.elapsed().as_secs_f64();
    bench.keep(Figure::alone("filling the pool", "/s", rate).at(many).callers(CALLERS));
    // Let the surveys that follow see and report all of them.
    settle(bench);
    let grown = resident(bench)? - empty;
    bench.keep(Figure::alone("cobaltd, all in one: memory when empty", "MB", empty));
    bench.keep(Figure::alone("cobaltd, all in one: growth after filling", "MB", grown).at(many));
    Ok(())
}

fn resident(bench: &Bench) -> Result<f64, Fault> {
    bench.many.cobaltd.as_ref().ok_or("cobaltd does not run")?.resident_mb()
}

/// Longer than an agent takes to look at its pool again and to say what it found.
fn settle(bench: &Bench) {
    bench.say("letting it settle");
    std::thread::sleep(Duration::from_secs(12));
}

/// What the volumes are called that are there all the time.
fn filled(index: usize) -> String {
    format!("v{index:05}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn some_groups_are_chosen_by_name_and_peers_only_when_asked_for() {
        let some = chosen("survey, create", false).expect("both are groups");
        assert_eq!(some.into_iter().collect::<Vec<_>>(), [Group::Create, Group::Survey]);
        assert_eq!(chosen("", false).expect("all").len(), GROUPS.len() - 1);
        assert_eq!(chosen("", true).expect("all").len(), GROUPS.len());
        assert!(chosen("peers", false).expect("a group").contains(&Group::Peers));
    }

    #[test]
    fn an_unknown_group_is_refused_with_all_that_are_known() {
        let said = chosen("create,speed", false).expect_err("no group").to_string();
        for (name, _) in GROUPS {
            assert!(said.contains(name), "{said}");
        }
    }
}
