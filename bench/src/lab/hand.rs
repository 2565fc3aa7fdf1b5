//! A hand: this program once more, inside a machine or a container, which does single things and
//! says how long each took. So no start of a program stands between the clock and what is
//! measured, unless that start is part of it.

use std::fs::{File, OpenOptions};
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::Instant;

use nix::fcntl::{PosixFadviseAdvice, posix_fadvise};
use serde_json::{Value, json};

use super::exports::Many;
use crate::{Fault, micros};

/// The argument that makes this program a hand.
pub(crate) const COMMAND: &str = "lab-hand";

/// What is read or written at once.
const BLOCK: usize = 1 << 20;
/// A small file.
const SMALL: usize = 4096;

/// A hand that runs.
#[derive(Debug)]
pub(super) struct Hand {
    child: Child,
    input: Option<ChildStdin>,
    output: BufReader<ChildStdout>,
}

impl Hand {
    /// Starts it by a command that ends in [`COMMAND`].
    pub(super) fn start(mut command: Command) -> Result<Hand, Fault> {
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
        let input = child.stdin.take();
        let output = BufReader::new(child.stdout.take().ok_or("a hand without output")?);
        let mut hand = Hand { child, input, output };
        hand.ask(&["nothing"])?;
        Ok(hand)
    }

    /// Lets it do something; how long that took each time, in microseconds.
    pub(super) fn ask(&mut self, words: &[&str]) -> Result<Vec<f64>, Fault> {
        let input = self.input.as_mut().ok_or("a hand without input")?;
        writeln!(input, "{}", json!(words))?;
        input.flush()?;
        let mut line = String::new();
        self.output.read_line(&mut line)?;
        let answer: Value = serde_json::from_str(&line)
            .map_err(|_| format!("{words:?}: the hand broke off: {line:?}"))?;
        match answer["took"].as_array() {
            Some(took) => Ok(took.iter().filter_map(Value::as_f64).collect()),
            None => Err(format!("{words:?}: {}", answer["error"]).into()),
        }
    }

    /// The same for what is done once.
    pub(super) fn once(&mut self, words: &[&str]) -> Result<f64, Fault> {
        Ok(*self.ask(words)?.first().ok_or("a hand did nothing")?)
    }
}

impl Drop for Hand {
    fn drop(&mut self) {
        // The end of its input ends it.
        self.input = None;
        let _ = self.child.wait();
    }
}

/// All of `main` when the program was called so.
pub(crate) fn main() -> Result<(), Fault> {
    let mut many = None;
    for line in std::io::stdin().lines() {
        let words: Vec<String> = serde_json::from_str(&line?)?;
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        let answer = match act(&words, &mut many) {
            Ok(took) => json!({ "took": took }),
            Err(error) => json!({ "error": error.to_string() }),
        };
        let mut output = std::io::stdout().lock();
        writeln!(output, "{answer}")?;
        output.flush()?;
    }
    Ok(())
}

fn act(words: &[&str], many: &mut Option<Many>) -> Result<Vec<f64>, Fault> {
    match words {
        ["nothing"] => Ok(Vec::new()),
        ["run", program, arguments @ ..] => Ok(vec![run(program, arguments)?]),
        ["put", path, text] => timed(|| Ok(std::fs::write(path, text)?)),
        ["write", path, mib] => timed(|| write(Path::new(path), mib.parse()?)),
        ["read", path] => read(Path::new(path)),
        ["files", folder, count] => files(Path::new(folder), count.parse()?),
        ["sync", path, count] => sync(Path::new(path), count.parse()?),
        ["stat", path, count] => repeat(count.parse()?, |_| {
            std::fs::metadata(path)?;
            Ok(())
        }),
        ["open", path, count] => repeat(count.parse()?, |_| {
            File::open(path)?.read_exact(&mut [0; SMALL])?;
            Ok(())
        }),
        ["exports", pool, count] => {
            *many = Some(Many::new(Path::new(pool), count.parse()?)?);
            Ok(Vec::new())
        }
        ["export", all, changed] => {
            let many = many.as_mut().ok_or("there are no exports yet")?;
            many.prepare(all.parse()?, changed.parse()?);
            timed(|| many.order())
        }
        other => Err(format!("{other:?} is nothing that a hand can do").into()),
    }
}

fn timed(mut act: impl FnMut() -> Result<(), Fault>) -> Result<Vec<f64>, Fault> {
    repeat(1, |_| act())
}

fn repeat(
    count: usize,
    mut act: impl FnMut(usize) -> Result<(), Fault>,
) -> Result<Vec<f64>, Fault> {
    let once = |turn| {
        let start = Instant::now();
        act(turn)?;
        Ok(micros(start))
    };
    (0..count).map(once).collect()
}

fn run(program: &str, arguments: &[&str]) -> Result<f64, Fault> {
    let start = Instant::now();
    let done = Command::new(program).args(arguments).stdin(Stdio::null()).output()?;
    let took = micros(start);
    match done.status.success() {
        true => Ok(took),
        false => Err(String::from_utf8_lossy(&done.stderr).trim().to_owned().into()),
    }
}

fn write(path: &Path, mib: usize) -> Result<(), Fault> {
    let mut file = File::create(path)?;
    let block = vec![0x5a; BLOCK];
    for _ in 0..mib {
        file.write_all(&block)?;
    }
    Ok(file.sync_all()?)
}

/// Nothing of it is in this machine's cache before.
fn read(path: &Path) -> Result<Vec<f64>, Fault> {
    let mut file = File::open(path)?;
    posix_fadvise(&file, 0, 0, PosixFadviseAdvice::POSIX_FADV_DONTNEED)?;
    let mut block = vec![0; BLOCK];
    timed(|| {
        while file.read(&mut block)? > 0 {}
        Ok(())
    })
}

/// One file after the other: created, written, closed. They are removed afterwards.
fn files(folder: &Path, count: usize) -> Result<Vec<f64>, Fault> {
    let path = |turn: usize| folder.join(format!("small-{turn}"));
    let start = Instant::now();
    for turn in 0..count {
        File::create(path(turn))?.write_all(&[0x5a; SMALL])?;
    }
    let took = micros(start);
    for turn in 0..count {
        std::fs::remove_file(path(turn))?;
    }
    Ok(vec![took])
}

/// Each a small write in place that is on the other machine's disk then.
fn sync(path: &Path, count: usize) -> Result<Vec<f64>, Fault> {
    let file = OpenOptions::new().create(true).truncate(false).write(true).open(path)?;
    file.write_all_at(&[0; SMALL], 0)?;
    file.sync_all()?;
    repeat(count, |turn| {
        file.write_all_at(&[(turn % 251) as u8; SMALL], 0)?;
        Ok(file.sync_data()?)
    })
}
