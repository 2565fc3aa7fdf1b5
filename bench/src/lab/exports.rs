//! Many exports changed in one batch, beside one: until they are in effect and were seen to be.

use std::fs::File;
use std::path::Path;

use cobalt_core::{Admits, Grant, NodeId, Squash, SubvolumeUuid, VolumeId};
use cobalt_host::{Export, ExportTable, Exports, KernelExports};

use super::{Scene, hand_on};
use crate::figure::{Figure, Goal, Samples, both};
use crate::{Fault, SIZE, btrfs};

/// Volumes that are there to be exported.
pub(super) struct Many {
    exports: KernelExports,
    /// All that may be exported; what is changed in it is ordered next.
    all: ExportTable,
    wanted: ExportTable,
}

impl Many {
    /// Makes so many volumes in a folder of a btrfs.
    pub(super) fn new(pool: &Path, count: usize) -> Result<Many, Fault> {
        let volumes = pool.join("volumes");
        std::fs::create_dir_all(&volumes)?;
        let folder = File::open(&volumes)?;
        let mut all = ExportTable::new();
        for index in 0..count {
            let id = VolumeId(u128::try_from(index)?.to_be_bytes());
            btrfs::create(&folder, &id.to_string(), SIZE)?;
            let host = std::net::Ipv4Addr::new(10, 77, 250, 7).into();
            let admits = Admits::from([(host, grant(true))]);
            all.insert(id, Export { subvolume: SubvolumeUuid([1; 16]), admits });
        }
        folder.sync_all()?;
        let exports = KernelExports::new(Path::new("/run/many"), NodeId([9; 16]), pool);
        Ok(Many { exports, all, wanted: ExportTable::new() })
    }

    /// The next order is the first `all` volumes, of which the first `changed` may read only if
    /// they could write, and the other way round.
    pub(super) fn prepare(&mut self, all: usize, changed: usize) {
        for export in self.all.values_mut().take(changed) {
            for admitted in export.admits.values_mut() {
                *admitted = grant(!admitted.write);
            }
        }
        self.wanted = self.all.iter().take(all).map(|(id, one)| (*id, one.clone())).collect();
    }

    /// Orders it, and looks that it is so.
    pub(super) fn order(&self) -> Result<(), Fault> {
        let seen = self.exports.order(&self.wanted)?;
        match seen.table == self.wanted && seen.stray.is_empty() {
            true => Ok(()),
            false => Err("the exports are not as they were ordered".into()),
        }
    }
}

fn grant(write: bool) -> Grant {
    Grant { write, squash: Squash::None }
}

pub(super) fn measure(scene: &mut Scene) -> Result<(), Fault> {
    let pool = scene.storage.daemon.pool_inside().join("many").display().to_string();
    let mut hand = hand_on(&scene.storage.machine)?;
    let (plan, many) = (scene.plan, scene.plan.many.to_string());
    hand.ask(&["exports", &pool, &many])?;
    let mut taken = <[Samples; 3]>::default();
    for _ in 0..plan.rounds {
        taken.iter_mut().for_each(Samples::begin);
        let [alone, one, all] = &mut taken;
        hand.ask(&["export", "1", "1"])?;
        for _ in 0..plan.exports {
            alone.add(hand.once(&["export", "1", "1"])?);
        }
        hand.ask(&["export", &many, "1"])?;
        for turn in 0..plan.exports {
            for step in 0..2 {
                match (turn + step) % 2 {
                    0 => one.add(hand.once(&["export", &many, "1"])?),
                    _ => all.add(hand.once(&["export", &many, &many])?),
                }
            }
        }
        hand.ask(&["export", "0", "0"])?;
    }
    let [alone, one, all] = &taken;
    let what = "1,000 exports changed (one of them)";
    let goals = [Goal::AtMost(3.0), Goal::AtMost(3.0)];
    let figures = both(what, all, one, goals).map(|figure| figure.at(plan.many));
    scene.figures.extend(figures);
    let what = "1,000 exports changed (one, and no others there), p50";
    scene.figures.push(Figure::new(what, "us", all.p50(), alone.p50()).at(plan.many));
    Ok(())
}
