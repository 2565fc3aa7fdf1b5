//! The actor: this test program once more, in a world, with the plugin's library in its hands. It
//! does what each line it reads says, and answers with a line.

use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Stdio};

use cobalt_docker_plugin::mounts::helper::Helper;
use cobalt_docker_plugin::mounts::{Holder, Mounts, Order, Source};
use cobalt_integration::binaries::binary;
use cobalt_integration::world::World;

/// The volume.
pub(crate) const ID: &str = "0a0b0c0d-0000-4000-8000-000000000001";
const ANSWER: &str = "answer: ";

/// What the test `actor_runs` does: nothing, unless it is the actor.
pub(crate) fn run() {
    let Some(state_dir) = std::env::var_os("LAYERS_STATE") else { return };
    cobalt_failpoint::arm();
    let helper = Helper::at(binary("cobalt-docker-plugin"));
    let mounts = Mounts::open_with(Path::new(&state_dir), helper).unwrap();
    mounts.identify("layers-actor");
    let pool = PathBuf::from(std::env::var_os("LAYERS_POOL").unwrap());
    for line in std::io::stdin().lines() {
        let said = act(&mounts, &pool, &line.unwrap());
        println!("\n{ANSWER}{said}");
    }
}

/// `VERB[-ro] [PATH ADDRESS…]`: of the pool here without a path, else of a storage node.
fn act(mounts: &Mounts, pool: &Path, line: &str) -> String {
    let id = ID.parse().unwrap();
    let mut words = line.split(' ');
    let verb = words.next().unwrap_or_default();
    let read_only = verb.ends_with("-ro");
    let options = Vec::new();
    if verb == "redirect" {
        let mut address = || words.next().unwrap().parse().unwrap();
        let done = mounts.redirect(&id, address(), address());
        return done.map_or_else(|error| error.to_string(), |()| "done".to_owned());
    }
    let source = match words.next() {
        None => Source::Local { pool: pool.to_owned(), options, read_only },
        Some(path) => {
            let addresses = words.map(|address| address.parse().unwrap()).collect();
            Source::Nfs { addresses, path: path.to_owned(), options, read_only }
        }
    };
    let outcome = match verb.trim_end_matches("-ro") {
        "mount" => {
            let holder = Holder::new("a".into(), None);
            let order = Order { id, name: "web".into(), source, holder };
            mounts.mount(&order, &|| false).map(drop)
        }
        "away" => mounts.take_away(&id),
        "give" => mounts.give(&id, &source),
        "renew" => mounts.renew(&id, &source),
        "state" => return format!("{:?}", mounts.state(&id)),
        "give-up" => {
            let done = mounts.give_up(ID);
            return done.map_or_else(|error| error.to_string(), |()| "done".to_owned());
        }
        "unmount" => {
            mounts.unmount("web", "a");
            Ok(())
        }
        other => panic!("{other} is not known"),
    };
    outcome.map_or_else(|error| error.to_string(), |()| "done".to_owned())
}

/// Seen from the test. It is started when it is asked, and again when it died.
pub(crate) struct Actor {
    world: World,
    running: Option<Running>,
}

struct Running {
    child: Child,
    output: BufReader<ChildStdout>,
}

impl Actor {
    /// One that has mounted nothing; its pool is the world's folder `pool`.
    pub(crate) fn new(world: &World) -> Actor {
        std::fs::create_dir_all(world.folder().join("plugin")).unwrap();
        Actor { world: world.clone(), running: None }
    }

    /// Where it mounts the volume.
    pub(crate) fn target(&self) -> String {
        self.world.folder().join("plugin/mounts").join(ID).display().to_string()
    }

    /// What it answers; `None` when it died of what these failpoints say.
    pub(crate) fn ask(&mut self, what: &str, failpoints: &str) -> Option<String> {
        let mut running = match self.running.take().filter(|_| failpoints.is_empty()) {
            Some(running) => running,
            None => self.start(failpoints),
        };
        writeln!(running.child.stdin.as_mut().unwrap(), "{what}").unwrap();
        let mut line = String::new();
        while running.output.read_line(&mut line).unwrap() > 0 {
            if let Some(answer) = line.strip_prefix(ANSWER) {
                let answer = answer.trim().to_owned();
                match failpoints.is_empty() {
                    true => self.running = Some(running),
                    false => drop(running),
                }
                return Some(answer);
            }
            line.clear();
        }
        None
    }

    /// The same for what must succeed.
    pub(crate) fn must(&mut self, what: &str) {
        let answer = self.ask(what, "");
        assert_eq!(answer.as_deref(), Some("done"), "{what}");
    }

    /// What containers see, as it knows it.
    pub(crate) fn state(&mut self) -> String {
        self.ask("state", "").unwrap()
    }

    fn start(&self, failpoints: &str) -> Running {
        let mut command = self.world.command(std::env::current_exe().unwrap());
        command.args(["--exact", "actor_runs", "--nocapture"]);
        command.env("LAYERS_STATE", self.world.folder().join("plugin"));
        command.env("LAYERS_POOL", self.world.folder().join("pool"));
        command.env("COBALT_BIN_DIR", binary("cobalt-docker-plugin").parent().unwrap());
        command.env("FAILPOINTS", failpoints);
        let log = std::fs::File::create(self.world.log("actor")).unwrap();
        let command = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(log);
        let mut child = command.spawn().unwrap();
        let output = BufReader::new(child.stdout.take().unwrap());
        Running { child, output }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // It ends with its input.
        drop(self.child.stdin.take());
        let _ = self.child.wait();
    }
}
