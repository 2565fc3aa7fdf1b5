//! The two texts of exportfs: the file that we write, and the table that it keeps. Only texts:
//! nothing is opened here.
//!
//! ```text
//! # 7b0c… 41d6…                                       volume and subvolume
//! /pool/volumes/7b0c… 10.0.0.7(rw,…,fsid=…) 10.0.0.8(ro,…,fsid=…)
//! ```

use std::fmt::Write;
use std::net::IpAddr;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use cobalt_core::{Admits, Grant, Squash, SubvolumeUuid, VolumeId};

use super::{Export, ExportTable, Exported, fsid};
use crate::layout::VOLUMES;

/// What all our exports have in common. `subtree_check` is what keeps a forged file handle from
/// opening a neighbour in the same pool: without it the server looks only at the file system.
const COMMON: &str = "sync,subtree_check,secure,sec=sys";

/// A path that would need quoting, in a file that has two ways of it, is not taken.
pub(super) fn check_path(pool: &Path) -> Result<(), String> {
    let plain = |b: &u8| b.is_ascii_alphanumeric() || b"/._-+@:,~".contains(b);
    match pool.is_absolute() && pool.as_os_str().as_bytes().iter().all(plain) {
        true => Ok(()),
        false => Err(format!(
            "the pool's path {} cannot be exported: use letters, digits and /._-+@:,~ only",
            pool.display()
        )),
    }
}

/// The whole file.
pub(super) fn file(pool: &Path, table: &ExportTable) -> String {
    let mut file = String::from("# Made by cobaltd, which replaces it: changes here are lost.\n");
    for (volume, export) in table.iter().filter(|(_, export)| !export.admits.is_empty()) {
        // Writing to a text cannot fail.
        let _ = write!(file, "# {volume} {}\n{}", export.subvolume, path(pool, *volume));
        let fsid = fsid(*volume, export.subvolume);
        for (host, grant) in &export.admits {
            let (mode, squash) = (grant.mode(), grant.squash.as_str());
            let _ = write!(file, " {host}({mode},{squash},{COMMON},fsid={fsid})");
        }
        file.push('\n');
    }
    file
}

fn path(pool: &Path, volume: VolumeId) -> String {
    pool.join(VOLUMES).join(volume.to_string()).display().to_string()
}

/// Reads our file back. The error is the number of the line that is none of ours.
pub(super) fn parse_file(file: &str) -> Result<ExportTable, usize> {
    let mut table = ExportTable::new();
    let mut about = None;
    for (line, number) in file.lines().zip(1_usize..) {
        if let Some(comment) = line.strip_prefix('#') {
            about = parse_about(comment);
            continue;
        }
        let (volume, subvolume) = about.take().ok_or(number)?;
        let mut words = line.split(' ');
        words.next().filter(|path| path.ends_with(&volume.to_string())).ok_or(number)?;
        let admits: Option<Admits> = words.map(parse_client).collect();
        table.insert(volume, Export { subvolume, admits: admits.ok_or(number)? });
    }
    Ok(table)
}

fn parse_about(comment: &str) -> Option<(VolumeId, SubvolumeUuid)> {
    let (volume, subvolume) = comment.trim().split_once(' ')?;
    Some((volume.parse().ok()?, subvolume.parse().ok()?))
}

/// `10.0.0.7(rw,…)`.
fn parse_client(word: &str) -> Option<(IpAddr, Grant)> {
    let (host, options) = word.strip_suffix(')')?.split_once('(')?;
    let mut options = options.split(',');
    let has = |name: &str| options.clone().any(|option| option == name);
    let write = match (has("rw"), has("ro")) {
        (true, false) => true,
        (false, true) => false,
        (true, true) | (false, false) => return None,
    };
    let squash = match (has("all_squash"), has("root_squash"), has("no_root_squash")) {
        (true, _, _) => Squash::All,
        (false, true, false) => Squash::Root,
        (false, false, true) => Squash::None,
        (false, true, true) | (false, false, false) => return None,
    };
    options.next()?;
    Some((host.parse().ok()?, Grant { write, squash }))
}

/// What of the volumes under `pool` the table of exportfs has. One that is exported under another
/// file system id than `wanted` is not the export that was asked for.
pub(super) fn parse_etab(etab: &str, pool: &Path, wanted: &ExportTable) -> Exported {
    let folder = format!("{}/", pool.join(VOLUMES).display());
    let mut found = Exported::default();
    for line in etab.lines() {
        let Some((path, client)) = line.split_once('\t') else { continue };
        let id = path.strip_prefix(&folder).and_then(|id| id.parse::<VolumeId>().ok());
        let Some(volume) = id else { continue };
        let ours = wanted
            .get(&volume)
            .filter(|export| client.contains(&format!("fsid={}", fsid(volume, export.subvolume))));
        match ours.zip(parse_client(client.trim_end())) {
            Some((export, (host, grant))) => {
                let empty = || Export { subvolume: export.subvolume, admits: Admits::new() };
                found.table.entry(volume).or_insert_with(empty).admits.insert(host, grant);
            }
            None => drop(found.stray.insert(volume)),
        }
    }
    // Nobody was to be let in, and nobody is.
    for (volume, export) in wanted.iter().filter(|(_, export)| export.admits.is_empty()) {
        found.table.entry(*volume).or_insert_with(|| export.clone());
    }
    found
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    const VOLUME: VolumeId = VolumeId([7; 16]);
    const DATA: SubvolumeUuid = SubvolumeUuid([2; 16]);

    fn table(rules: &[&str]) -> ExportTable {
        let admits = rules.iter().map(|text| {
            let rule: cobalt_core::Rule = text.parse().expect("a rule");
            rule.who.one_host().zip(rule.grant).expect("it lets in a host")
        });
        let export = Export { subvolume: DATA, admits: admits.collect() };
        ExportTable::from([(VOLUME, export)])
    }

    #[test]
    fn our_file_reads_back_as_it_was_written() {
        let table = table(&["10.0.0.7=rw", "10.0.0.8=ro+all_squash", "fd00::7=rw+root_squash"]);
        let file = file(Path::new("/srv/pool"), &table);
        assert_eq!(parse_file(&file), Ok(table));
    }

    #[test]
    fn every_entry_has_the_one_id_of_its_volume_and_checks_its_subtree() {
        let file = file(Path::new("/srv/pool"), &table(&["10.0.0.7=rw", "10.0.0.8=ro"]));
        let line = file.lines().find(|line| line.starts_with('/')).expect("an entry");
        assert!(line.starts_with(&format!("/srv/pool/volumes/{VOLUME} 10.0.0.7(rw,")), "{line}");
        assert_eq!(line.matches(&format!("fsid={}", fsid(VOLUME, DATA))).count(), 2, "{line}");
        assert_eq!(line.matches(",subtree_check,").count(), 2, "{line}");
    }

    #[test]
    fn a_volume_that_lets_nobody_in_has_no_line() {
        let file = file(Path::new("/srv/pool"), &table(&[]));
        assert!(file.lines().all(|line| line.starts_with('#')), "{file}");
    }

    #[test]
    fn a_file_that_somebody_changed_is_not_half_believed() {
        for text in [
            "/srv/pool/volumes/x 10.0.0.7(rw)",
            &format!("# {VOLUME} {DATA}\n/elsewhere 10.0.0.7(rw,root_squash)"),
            &format!("# {VOLUME} {DATA}\n/p/volumes/{VOLUME} *(rw,root_squash)"),
            &format!("# {VOLUME} {DATA}\n/p/volumes/{VOLUME} 10.0.0.7(rw,ro,root_squash)"),
        ] {
            assert!(parse_file(text).is_err(), "{text}");
        }
    }

    #[test]
    fn the_table_of_exportfs_is_read_for_our_volumes_only() {
        let wanted = table(&["10.0.0.7=rw"]);
        let id = fsid(VOLUME, DATA);
        let line = |path: &str, host: &str, id: &str| {
            format!(
                "{path}\t{host}(rw,sync,wdelay,hide,nocrossmnt,secure,no_root_squash,\
                 no_all_squash,subtree_check,secure_locks,acl,no_pnfs,fsid={id},anonuid=65534,\
                 anongid=65534,sec=sys,rw,secure,no_root_squash,no_all_squash)\n"
            )
        };
        let ours = line(&format!("/srv/pool/volumes/{VOLUME}"), "10.0.0.7", &id.to_string());
        let others = line("/home", "*", "0") + &line("/srv/pool/volumes/x", "10.0.0.9", "1");
        let pool = Path::new("/srv/pool");
        let all = Exported { table: wanted.clone(), stray: BTreeSet::new() };
        assert_eq!(parse_etab(&(others.clone() + &ours), pool, &wanted), all);
        assert_eq!(parse_etab(&others, pool, &wanted), Exported::default());
        let stray = Exported { table: ExportTable::new(), stray: BTreeSet::from([VOLUME]) };
        let stale = line(&format!("/srv/pool/volumes/{VOLUME}"), "10.0.0.7", "0");
        assert_eq!(parse_etab(&stale, pool, &wanted), stray);
        assert_eq!(parse_etab(&ours, pool, &ExportTable::new()), stray, "not ordered any more");
    }

    #[test]
    fn a_path_that_needs_quoting_is_refused() {
        assert!(check_path(Path::new("/var/lib/cobalt/pool")).is_ok());
        for path in ["relative", "/with space", "/q\"uote", "/new\nline", "/ha#sh", "/back\\slash"]
        {
            assert!(check_path(Path::new(path)).is_err(), "{path}");
        }
    }
}
