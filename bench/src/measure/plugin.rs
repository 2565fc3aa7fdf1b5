//! The plugin's socket, with many volumes, beside a plugin that does nothing.

use std::collections::HashMap;
use std::path::Path;
use std::time::{Duration, Instant};

use crate::figure::{Figure, Goal, Samples, both};
use crate::http::Client;
use crate::measure::filled;
use crate::null_plugin::NullPlugin;
use crate::traffic::Traffic;
use crate::{Bench, Fault, turns};

const CALLS: [&str; 3] = ["/VolumeDriver.Get", "/VolumeDriver.Path", "/VolumeDriver.List"];
/// How long the plugin may take to know all volumes.
const KNOWN: Duration = Duration::from_secs(60);

pub(super) fn measure(bench: &mut Bench) -> Result<(), Fault> {
    let volumes = bench.plan.many;
    let mut ours = Client::new(&bench.many.plugin_socket());
    wait_known(&mut ours, volumes)?;
    let body = |index: usize| format!("{{\"Name\":\"{}\"}}", filled(index));
    let mut answers = HashMap::new();
    for call in CALLS {
        answers.insert(call.to_owned(), ours.expect(&[200], "POST", call, &body(1))?);
    }
    let socket = Path::new("/run/null-plugin.sock");
    let _null_plugin = NullPlugin::start(socket, answers)?;
    let mut null = Client::new(socket);
    let etcd = bench.many.etcd.client_url().to_owned();
    let before = Traffic::read(&etcd)?;
    for call in CALLS {
        let count = if call.ends_with("List") { bench.plan.count } else { bench.plan.count * 10 };
        let mut taken = [Samples::default(), Samples::default()];
        for _ in 0..bench.plan.rounds {
            turns(&mut taken, count, |way, turn| {
                let client = if way == 0 { &mut null } else { &mut ours };
                client.expect(&[200], "POST", call, &body(turn % volumes))?;
                Ok(())
            })?;
        }
        let name = format!("plugin {}", call.trim_start_matches("/VolumeDriver."));
        let goals = [Goal::AtMost(2.0), Goal::None];
        for figure in both(&name, &taken[1], &taken[0], goals) {
            bench.keep(figure.at(volumes));
        }
    }
    let asked = Traffic::read(&etcd)?.since(&before);
    let reads = asked.get("Range").copied().unwrap_or(0.0);
    let reads = Figure::alone("plugin calls: reads of etcd", "", reads);
    bench.keep(reads.goal(Goal::Absolute(0.0)).at(volumes));
    let plugin = bench.many.plugin.as_ref().ok_or("the plugin does not run")?;
    let children = if plugin.child_faults()? > 0 { 1.0 } else { 0.0 };
    let children = Figure::alone("plugin calls: processes started", "", children);
    bench.keep(children.goal(Goal::Absolute(0.0)).at(volumes));
    let memory = bench.many.plugin.as_ref().ok_or("the plugin does not run")?.resident_mb()?;
    bench.keep(Figure::alone("plugin: memory", "MB", memory).at(volumes));
    Ok(())
}

fn wait_known(plugin: &mut Client, volumes: usize) -> Result<(), Fault> {
    let end = Instant::now() + KNOWN;
    loop {
        let list = plugin.expect(&[200], "POST", "/VolumeDriver.List", "{}")?;
        let list: serde_json::Value = serde_json::from_slice(&list)?;
        if list["Volumes"].as_array().is_some_and(|list| list.len() >= volumes) {
            return Ok(());
        }
        if Instant::now() >= end {
            return Err("the plugin does not list all volumes".into());
        }
        std::thread::sleep(Duration::from_millis(100));
    }
}
