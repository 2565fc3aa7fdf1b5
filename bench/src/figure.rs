//! Samples, what is said of them, and how that is shown. Nothing is measured here.

use std::fmt::Write;

use serde_json::{Value, json};

/// Durations in microseconds, by rounds.
#[derive(Clone, Debug, Default)]
pub(crate) struct Samples(Vec<Vec<f64>>);

impl Samples {
    /// Another round begins.
    pub(crate) fn begin(&mut self) {
        self.0.push(Vec::new());
    }

    /// Takes one in.
    pub(crate) fn add(&mut self, micros: f64) {
        if self.0.is_empty() {
            self.begin();
        }
        if let Some(round) = self.0.last_mut() {
            round.push(micros);
        }
    }

    /// The median over the rounds of each round's median.
    pub(crate) fn p50(&self) -> f64 {
        let medians = self.0.iter().map(|round| percentile(round.clone(), 0.5)).collect();
        percentile(medians, 0.5)
    }

    /// Over all rounds: a round alone has too few samples for it.
    pub(crate) fn p99(&self) -> f64 {
        percentile(self.0.concat(), 0.99)
    }

    /// The longest of all.
    pub(crate) fn worst(&self) -> f64 {
        percentile(self.0.concat(), 1.0)
    }
}

/// The median of some values.
pub(crate) fn median(values: &[f64]) -> f64 {
    percentile(values.to_vec(), 0.5)
}

fn percentile(mut values: Vec<f64>, part: f64) -> f64 {
    values.retain(|value| value.is_finite());
    values.sort_by(f64::total_cmp);
    let last = values.len().saturating_sub(1);
    values.get((last as f64 * part).round() as usize).copied().unwrap_or(f64::NAN)
}

/// What a figure should be.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Goal {
    /// It only informs.
    None,
    /// At most so many times the floor.
    AtMost(f64),
    /// At least so many times the floor.
    AtLeast(f64),
    /// At most this, whatever the floor.
    Absolute(f64),
}

/// One line of the result.
#[derive(Clone, Debug)]
pub(crate) struct Figure {
    pub(crate) name: String,
    pub(crate) unit: &'static str,
    pub(crate) ours: f64,
    pub(crate) floor: Option<f64>,
    pub(crate) goal: Goal,
    pub(crate) volumes: usize,
    pub(crate) callers: usize,
}

impl Figure {
    /// One with a floor and one caller.
    pub(crate) fn new(name: &str, unit: &'static str, ours: f64, floor: f64) -> Figure {
        let (name, goal) = (name.to_owned(), Goal::None);
        Figure { name, unit, ours, floor: Some(floor), goal, volumes: 0, callers: 1 }
    }

    /// One without a floor.
    pub(crate) fn alone(name: &str, unit: &'static str, ours: f64) -> Figure {
        Figure { floor: None, ..Figure::new(name, unit, ours, 0.0) }
    }

    /// What it should be.
    pub(crate) fn goal(self, goal: Goal) -> Figure {
        Figure { goal, ..self }
    }

    /// How many volumes there were.
    pub(crate) fn at(self, volumes: usize) -> Figure {
        Figure { volumes, ..self }
    }

    /// How many called at the same time.
    pub(crate) fn callers(self, callers: usize) -> Figure {
        Figure { callers, ..self }
    }

    /// Ours against the floor.
    pub(crate) fn ratio(&self) -> Option<f64> {
        self.floor.filter(|floor| *floor > 0.0).map(|floor| self.ours / floor)
    }

    /// `None` without a goal.
    fn met(&self) -> Option<bool> {
        match self.goal {
            Goal::None => None,
            Goal::AtMost(most) => self.ratio().map(|ratio| ratio <= most),
            Goal::AtLeast(least) => self.ratio().map(|ratio| ratio >= least),
            Goal::Absolute(most) => Some(self.ours <= most),
        }
    }

    fn goal_text(&self) -> Option<String> {
        match self.goal {
            Goal::None => None,
            Goal::AtMost(most) => Some(format!("<= {most}x")),
            Goal::AtLeast(least) => Some(format!(">= {least}x")),
            Goal::Absolute(most) => Some(format!("<= {most} {}", self.unit)),
        }
    }
}

/// The p50 and the p99 of one thing against its floor.
pub(crate) fn both(name: &str, ours: &Samples, floor: &Samples, goals: [Goal; 2]) -> [Figure; 2] {
    let p50 = Figure::new(&format!("{name}, p50"), "us", ours.p50(), floor.p50());
    let p99 = Figure::new(&format!("{name}, p99"), "us", ours.p99(), floor.p99());
    [p50.goal(goals[0]), p99.goal(goals[1])]
}

/// A table for people.
pub(crate) fn table(figures: &[Figure]) -> String {
    let mut text = String::new();
    let widest = figures.iter().map(|figure| figure.name.chars().count()).max().unwrap_or(0);
    let mut row = |name: &str, cells: [&str; 7]| {
        let [volumes, callers, ours, floor, ratio, goal, met] = cells;
        // Writing into a text cannot fail.
        let _ = writeln!(
            text,
            "{name:<widest$}  {volumes:>7}  {callers:>7}  {ours:>13}  {floor:>13}  {ratio:>7}  \
             {goal:>9}  {met}"
        );
    };
    row("", ["volumes", "callers", "ours", "floor", "ratio", "goal", ""]);
    for figure in figures {
        let count = |count: usize| if count == 0 { "".to_owned() } else { count.to_string() };
        let measured = |value: f64| format!("{} {}", short(value), figure.unit);
        row(
            &figure.name,
            [
                &count(figure.volumes),
                &count(figure.callers),
                &measured(figure.ours),
                &figure.floor.map(measured).unwrap_or_default(),
                &figure.ratio().map(times).unwrap_or_default(),
                &figure.goal_text().unwrap_or_default(),
                match figure.met() {
                    Some(true) => "met",
                    Some(false) => "MISSED",
                    None => "",
                },
            ],
        );
    }
    text
}

fn times(ratio: f64) -> String {
    if ratio < 0.1 { format!("{ratio:.4}x") } else { format!("{ratio:.2}x") }
}

fn short(value: f64) -> String {
    // Sums of nothing are -0.
    let value = value + 0.0;
    match value.abs() {
        ..10.0 if value.fract() != 0.0 => format!("{value:.2}"),
        ..100.0 if value.fract() != 0.0 => format!("{value:.1}"),
        _ => format!("{value:.0}"),
    }
}

/// The same for machines.
pub(crate) fn json(figures: &[Figure]) -> Value {
    let one = |figure: &Figure| {
        json!({
            "name": figure.name, "unit": figure.unit, "ours": figure.ours, "floor": figure.floor,
            "ratio": figure.ratio(), "goal": figure.goal_text(), "volumes": figure.volumes,
            "callers": figure.callers,
        })
    };
    figures.iter().map(one).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn medians_are_taken_by_round_and_then_over_the_rounds() {
        let samples = Samples(vec![vec![1.0, 2.0, 3.0], vec![9.0, 9.0, 9.0], vec![4.0]]);
        assert_eq!(samples.p50(), 4.0);
        assert_eq!(samples.p99(), 9.0);
    }

    #[test]
    fn a_goal_may_be_a_most_or_a_least() {
        let figure = Figure::new("rate", "/s", 80.0, 100.0);
        assert_eq!(figure.clone().goal(Goal::AtLeast(0.7)).met(), Some(true));
        assert_eq!(figure.clone().goal(Goal::AtMost(0.7)).met(), Some(false));
        assert_eq!(figure.met(), None);
    }
}
