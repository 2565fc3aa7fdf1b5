//! Tells our programs where to fail. They are built with failpoints and look into a file, so
//! that nothing has to be started anew for each point.

use std::path::PathBuf;

use crate::world::World;

/// What happens at a point, once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// The process ends as by `kill -9`.
    Kill,
    /// The code there panics.
    Panic,
    /// The effect fails.
    Error,
    /// It is held up for longer than a lease of three seconds lasts.
    Delay,
}

impl Kind {
    /// All of them.
    pub const ALL: [Kind; 4] = [Kind::Kill, Kind::Panic, Kind::Error, Kind::Delay];

    /// As the failpoints spell it.
    pub fn action(self) -> &'static str {
        match self {
            Kind::Kill => "1*return(kill)",
            Kind::Panic => "1*panic",
            Kind::Error => "1*return(error)",
            Kind::Delay => "1*sleep(3500)",
        }
    }
}

/// The points of one program.
#[derive(Clone, Debug)]
pub struct Failpoints {
    file: PathBuf,
}

impl Failpoints {
    /// Those of the program called `name` in a world.
    pub fn of(world: &World, name: &str) -> Failpoints {
        Failpoints { file: world.folder().join(format!("{name}.failpoints")) }
    }

    /// The file the program has to look into, for its variable `FAILPOINTS_FILE`.
    pub fn file(&self) -> &std::path::Path {
        &self.file
    }

    /// From now on `kind` happens at `point`, once in each process.
    ///
    /// # Panics
    /// When the file cannot be written.
    pub fn set(&self, point: &str, kind: Kind) {
        self.clear();
        let _ = std::fs::remove_file(self.reached());
        let new = self.file.with_extension("new");
        let written = std::fs::write(&new, format!("{point}={}\n", kind.action()));
        written.and_then(|()| std::fs::rename(&new, &self.file)).expect("a file for failpoints");
    }

    /// From now on nothing happens.
    pub fn clear(&self) {
        let _ = std::fs::remove_file(&self.file);
    }

    /// Whether `point` was reached since it was set.
    pub fn was_reached(&self, point: &str) -> bool {
        let reached = std::fs::read_to_string(self.reached()).unwrap_or_default();
        reached.lines().any(|line| line == point)
    }

    fn reached(&self) -> PathBuf {
        let mut path = self.file.clone().into_os_string();
        path.push(".reached");
        path.into()
    }
}
