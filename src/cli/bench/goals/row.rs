//! What a row of the table is: its goals, and what came of it.

use super::Bench;

/// On which side of it a figure must be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Direction {
    AtLeast,
    AtMost,
}

impl Direction {
    /// As a sign.
    pub(super) const fn sign(self) -> &'static str {
        match self {
            Self::AtLeast => "≥",
            Self::AtMost => "≤",
        }
    }

    const fn holds(self, reached: f64, bound: f64) -> bool {
        match self {
            Self::AtLeast => reached >= bound,
            Self::AtMost => reached <= bound,
        }
    }
}

/// A figure that a row is about.
#[derive(Debug, Clone, Copy)]
pub(super) struct Goal {
    pub(super) name: &'static str,
    /// The unit; `× floor` for a ratio to the bare broadcaster.
    pub(super) unit: &'static str,
    pub(super) direction: Direction,
    pub(super) must: f64,
    pub(super) aim: Option<f64>,
}

/// A goal's name and unit, of which there is to be so much at least.
pub(super) const fn at_least(name: &'static str, unit: &'static str, must: f64, aim: f64) -> Goal {
    Goal { name, unit, direction: Direction::AtLeast, must, aim: Some(aim) }
}

/// A goal's name and unit, of which there is to be so much at most.
pub(super) const fn at_most(name: &'static str, unit: &'static str, must: f64, aim: Option<f64>) -> Goal {
    Goal { name, unit, direction: Direction::AtMost, must, aim }
}

impl Goal {
    pub(super) const fn must_met(&self, reached: f64) -> bool {
        self.direction.holds(reached, self.must)
    }

    /// `None` where there is nothing beyond the must.
    pub(super) fn aim_met(&self, reached: f64) -> Option<bool> {
        self.aim.map(|aim| self.direction.holds(reached, aim))
    }
}

/// A row of the table.
#[derive(Debug)]
pub(super) struct Row {
    /// For `--only`.
    pub(super) name: &'static str,
    /// What is measured, in words.
    pub(super) what: &'static str,
    pub(super) goals: &'static [Goal],
    /// Measures; a figure for each goal, in their order.
    pub(super) run: fn(&Bench) -> anyhow::Result<Outcome>,
}

/// A figure measured several times.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Spread {
    pub(super) median: f64,
    pub(super) least: f64,
    pub(super) most: f64,
}

impl Spread {
    /// Of no figures, it is not a number, and no goal is met by it.
    pub(super) fn of(figures: impl IntoIterator<Item = f64>) -> Self {
        let mut figures: Vec<f64> = figures.into_iter().collect();
        figures.sort_by(f64::total_cmp);
        let middle = figures.len() / 2;
        let median = match figures.len() {
            0 => f64::NAN,
            count if count % 2 == 1 => figures[middle],
            _ => f64::midpoint(figures[middle - 1], figures[middle]),
        };
        let end = |figure: Option<&f64>| figure.copied().unwrap_or(f64::NAN);
        Self { median, least: end(figures.first()), most: end(figures.last()) }
    }
}

/// What came of a goal.
#[derive(Debug, Clone, Copy)]
pub(super) struct Reached {
    /// In the goal's unit.
    pub(super) value: Spread,
    /// Where the goal is a ratio, or has the floor beside it: both sides, in the same unit.
    pub(super) tidegate: Option<f64>,
    pub(super) floor: Option<f64>,
}

impl Reached {
    /// A figure that stands for itself.
    pub(super) fn alone(figures: impl IntoIterator<Item = f64>) -> Self {
        let value = Spread::of(figures);
        Self { value, tidegate: Some(value.median), floor: None }
    }
}

/// What came of a row.
#[derive(Debug, Default)]
pub(super) struct Outcome {
    /// For each of its goals.
    pub(super) reached: Vec<Reached>,
    /// Further figures, by name.
    pub(super) figures: Vec<(String, f64)>,
    /// Events lost, doubled or out of order, and streams that ended.
    pub(super) wrong: u64,
    /// Settings that the row needs, beside those for all.
    pub(super) settings: Vec<(&'static str, String)>,
}

impl Outcome {
    pub(super) fn figure(&mut self, name: impl Into<String>, value: f64) {
        self.figures.push((name.into(), value));
    }
}

/// Runs of one side between runs of the other: floor, ours, floor, ours, floor.
#[derive(Debug)]
pub(super) struct Beside<T> {
    /// One more than of the others.
    pub(super) floors: Vec<T>,
    pub(super) ours: Vec<T>,
}

impl<T> Beside<T> {
    /// Runs both sides in turns, `runs` times ours.
    ///
    /// # Errors
    /// The first run's that fails.
    pub(super) fn run(
        runs: usize,
        mut floor: impl FnMut() -> anyhow::Result<T>,
        mut ours: impl FnMut() -> anyhow::Result<T>,
    ) -> anyhow::Result<Self> {
        let mut beside = Self { floors: vec![floor()?], ours: Vec::new() };
        for _ in 0..runs {
            beside.ours.push(ours()?);
            beside.floors.push(floor()?);
        }
        Ok(beside)
    }

    /// Of each run of ours to the mean of the floors before and after it.
    pub(super) fn ratio(&self, pick: impl Fn(&T) -> f64) -> Spread {
        let floors = self.floors.windows(2).map(|pair| f64::midpoint(pick(&pair[0]), pick(&pair[1])));
        Spread::of(self.ours.iter().zip(floors).map(|(ours, floor)| pick(ours) / floor))
    }

    /// The median of ours.
    pub(super) fn ours(&self, pick: impl Fn(&T) -> f64) -> f64 {
        Spread::of(self.ours.iter().map(pick)).median
    }

    /// The median of the floor's.
    pub(super) fn floor(&self, pick: impl Fn(&T) -> f64) -> f64 {
        Spread::of(self.floors.iter().map(pick)).median
    }

    /// A goal that is the ratio of both.
    pub(super) fn as_ratio(&self, pick: impl Fn(&T) -> f64 + Copy) -> Reached {
        Reached { value: self.ratio(pick), tidegate: Some(self.ours(pick)), floor: Some(self.floor(pick)) }
    }

    /// A goal that is our figure, with the floor's beside it.
    pub(super) fn as_figure(&self, pick: impl Fn(&T) -> f64 + Copy) -> Reached {
        let value = Spread::of(self.ours.iter().map(pick));
        Reached { value, tidegate: Some(value.median), floor: Some(self.floor(pick)) }
    }

    /// The sum over all runs of both.
    pub(super) fn sum(&self, pick: impl Fn(&T) -> u64) -> u64 {
        self.floors.iter().chain(&self.ours).map(pick).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_spread_is_the_middle_and_both_ends() {
        assert_eq!(Spread::of([3.0, 1.0, 2.0]), Spread { median: 2.0, least: 1.0, most: 3.0 });
        assert_eq!(Spread::of([4.0, 1.0]), Spread { median: 2.5, least: 1.0, most: 4.0 });
        let none = Spread::of([]);
        assert!(none.median.is_nan());
        assert!(!at_least("a", "b", 0.0, 0.0).must_met(none.median), "nothing measured meets nothing");
        assert!(!at_most("a", "b", 1.0, None).must_met(none.median));
    }

    #[test]
    fn a_run_is_held_against_the_floors_next_to_it() {
        let mut floors = [10.0, 20.0, 40.0].into_iter();
        let mut ours = [15.0, 60.0].into_iter();
        let beside = Beside::run(2, || Ok(floors.next().unwrap()), || Ok(ours.next().unwrap())).unwrap();
        assert_eq!(beside.ratio(|figure| *figure), Spread { median: 1.5, least: 1.0, most: 2.0 });
        assert_eq!((beside.ours(|figure| *figure), beside.floor(|figure| *figure)), (37.5, 20.0));
        let reached = beside.as_figure(|figure| *figure);
        assert_eq!((reached.value.median, reached.floor), (37.5, Some(20.0)));
    }

    #[test]
    fn goals_have_a_side() {
        let rate = at_least("rate", "/s", 10.0, 20.0);
        assert_eq!((rate.must_met(10.0), rate.must_met(9.9), rate.aim_met(19.0)), (true, false, Some(false)));
        let late = at_most("late", "ms", 10.0, None);
        assert_eq!((late.must_met(10.0), late.must_met(10.1), late.aim_met(1.0)), (true, false, None));
    }
}
