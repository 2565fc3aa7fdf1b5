//! The two looks that an agent takes at its pool, without any daemon: what every volume holds,
//! every few seconds, beside one search of the quota tree; and everything, now and then, beside
//! the searches and listings that it is made of.

use std::fs::File;
use std::path::Path;

use cobalt_host::{BtrfsPool, Expect, Found, Pool};
use serde_json::Value;

use crate::figure::{Figure, Goal, Samples, both};
use crate::{Bench, Fault, btrfs, turns};

pub(super) fn measure(bench: &mut Bench) -> Result<(), Fault> {
    let path = bench.many.pool_path();
    let Found::Pool(pool) = BtrfsPool::open(&path, &whose(&path)?)? else {
        return Err("the pool is blank".into());
    };
    let root = File::open(&path)?;
    // Reads what lies where, as every agent does at its start.
    drop(pool.survey()?);
    let mut taken = <[Samples; 4]>::default();
    for _ in 0..bench.plan.rounds {
        turns(&mut taken, bench.plan.count / 6, |way, _| {
            match way {
                0 => drop(btrfs::pass(&root, btrfs::QUOTA_TREE)?),
                1 => drop(pool.holdings()?),
                2 => drop(pool.survey()?),
                _ => {
                    btrfs::pass(&root, btrfs::QUOTA_TREE)?;
                    btrfs::pass(&root, btrfs::ROOT_TREE)?;
                    for folder in [".cobalt/identity", ".cobalt/trash"] {
                        std::fs::read_dir(path.join(folder))?.flatten().count();
                    }
                }
            }
            Ok(())
        })?;
    }
    let seen = pool.holdings()?.used.len();
    let goals = [Goal::AtMost(2.0), Goal::None];
    for figure in both("usage (one search of the quota tree)", &taken[1], &taken[0], goals) {
        bench.keep(figure.at(seen));
    }
    let name = "survey (two searches and two listings), p50";
    bench.keep(Figure::new(name, "us", taken[2].p50(), taken[3].p50()).at(seen));
    Ok(())
}

/// Whose pool it says it is.
fn whose(pool: &Path) -> Result<Expect, Fault> {
    let said: Value = serde_json::from_slice(&std::fs::read(pool.join(".cobalt/pool.json"))?)?;
    let said = said.get("v1").unwrap_or(&said);
    let text = |key: &str| said[key].as_str().ok_or(format!("pool.json without {key}"));
    Ok(Expect { cluster: text("cluster")?.parse()?, cluster_id: text("cluster_id")?.to_owned() })
}
