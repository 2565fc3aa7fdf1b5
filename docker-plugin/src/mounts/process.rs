//! Which process sent a Mount, told apart from a later one with the same number.

use serde::{Deserialize, Serialize};

/// A process of this host.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Process {
    /// Its number.
    pub pid: i32,
    /// When it was started, in clock ticks since the boot.
    started: u64,
}

impl Process {
    /// The process that has this number now.
    pub fn of(pid: i32) -> Option<Process> {
        started(pid).map(|started| Process { pid, started })
    }

    /// Whether it still runs.
    pub fn lives(&self) -> bool {
        started(self.pid) == Some(self.started)
    }
}

/// The 22nd field; the second may itself hold blanks and parentheses.
fn started(pid: i32) -> Option<u64> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let (_, rest) = stat.rsplit_once(") ")?;
    // A zombie has ended, though its line is still there.
    let mut fields = rest.split(' ');
    let state = fields.next()?;
    fields.nth(18)?.parse().ok().filter(|_| !["Z", "X"].contains(&state))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_lives_until_its_number_means_another() {
        let own = i32::try_from(std::process::id()).expect("a pid");
        let process = Process::of(own).expect("we run");
        assert!(process.lives());
        assert!(!Process { started: process.started + 1, ..process }.lives());
        assert_eq!(Process::of(i32::MAX), None);
    }
}
