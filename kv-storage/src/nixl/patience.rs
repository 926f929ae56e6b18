//! When the thread asks what has come of a step: not long before it can be over, and then at pauses that are short beside what it took.
//!
//! A question is not free: where the kernel moves the bytes on threads of its own, each one takes its turn from them.

use std::time::{Duration, Instant};

use super::agent::Way;

/// For so long a step is asked about in turns with other threads, without a pause.
const EAGER: Duration = Duration::from_micros(50);
/// The shortest pause, and the longest.
const SHORTEST: Duration = Duration::from_micros(10);
const LONGEST: Duration = Duration::from_millis(5);

/// What steps took of late, each way: of how many bytes, and how long.
#[derive(Debug, Default)]
pub(super) struct Pace([Option<(usize, Duration)>; 2]);

impl Pace {
    /// A step of `len` bytes begins now.
    pub(super) fn begin(&self, way: Way, len: usize) -> Span {
        let began = Instant::now();
        // Three quarters of the time: what is faster than the last ones is noticed, and becomes what is known.
        let expected = self.known(way).map_or(Duration::ZERO, |(of, took)| {
            let share = u32::try_from(len.min(of) * 48 / of.max(1)).unwrap_or_default();
            took * share / 64
        });
        Span { began, due: began + expected.min(LONGEST) }
    }

    /// A step has ended.
    pub(super) fn end(&mut self, way: Way, len: usize, span: Span) {
        self.learn(way, len, span.began.elapsed());
    }

    /// A step that took longer than the last may have been held up: it counts for an eighth.
    fn learn(&mut self, way: Way, len: usize, took: Duration) {
        let learned = match self.known(way) {
            Some((of, known)) if of == len && took > known => known + (took - known) / 8,
            _ => took,
        };
        if let Some(known) = self.0.get_mut(way as usize) {
            *known = Some((len, learned));
        }
    }

    fn known(&self, way: Way) -> Option<(usize, Duration)> {
        self.0.get(way as usize).copied().flatten()
    }
}

/// A step's beginning, and the moment at which it may be over.
#[derive(Debug, Clone, Copy)]
pub(super) struct Span {
    began: Instant,
    due: Instant,
}

/// The pause before the next question about steps that are under way; `None`: no pause.
pub(super) fn pause(steps: impl Iterator<Item = Span>) -> Option<Duration> {
    let now = Instant::now();
    steps.map(|step| until_asked(step, now)).min().filter(|pause| !pause.is_zero())
}

/// A sixty-fourth of the time for which a step that may be over has not been: a hung one costs two hundred questions a second.
fn until_asked(step: Span, now: Instant) -> Duration {
    let early = step.due.saturating_duration_since(now);
    if early > SHORTEST {
        return early;
    }
    let waited = now.saturating_duration_since(step.began);
    if waited < EAGER { Duration::ZERO } else { (waited / 64).clamp(SHORTEST, LONGEST) }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: usize = 1 << 20;

    /// For how long a step is not asked about.
    fn expected(pace: &Pace, way: Way, len: usize) -> Duration {
        let Span { began, due } = pace.begin(way, len);
        due - began
    }

    #[test]
    fn a_step_is_asked_about_when_it_may_be_over_and_then_ever_more_rarely() {
        let mut pace = Pace::default();
        let first = pace.begin(Way::In, MIB);
        assert_eq!(until_asked(first, first.began), Duration::ZERO, "nothing is known");
        let took = Duration::from_micros(6400);
        pace.learn(Way::In, MIB, took);
        assert_eq!(expected(&pace, Way::In, MIB), took * 3 / 4);
        assert_eq!(expected(&pace, Way::In, 2 * MIB), took * 3 / 4, "more bytes may be as fast");
        assert_eq!(expected(&pace, Way::In, MIB / 2), took * 3 / 8);
        assert_eq!(expected(&pace, Way::Out, MIB), Duration::ZERO, "the other way is another matter");
        let step = pace.begin(Way::In, MIB);
        assert_eq!(until_asked(step, step.began), took * 3 / 4);
        assert_eq!(until_asked(step, step.began + took), took / 64);
        assert_eq!(
            until_asked(step, step.began + Duration::from_secs(60)),
            LONGEST,
            "a hung one costs little"
        );
    }

    #[test]
    fn one_that_was_held_up_hardly_counts_and_a_faster_one_does_at_once() {
        let mut pace = Pace::default();
        pace.learn(Way::In, MIB, Duration::from_millis(1));
        pace.learn(Way::In, MIB, Duration::from_millis(9));
        assert_eq!(expected(&pace, Way::In, MIB), Duration::from_millis(2) * 3 / 4);
        pace.learn(Way::In, MIB, Duration::from_micros(100));
        assert_eq!(expected(&pace, Way::In, MIB), Duration::from_micros(75));
        pace.learn(Way::In, MIB, Duration::from_secs(60));
        assert_eq!(expected(&pace, Way::In, MIB), LONGEST);
    }

    #[test]
    fn the_step_that_is_due_first_is_waited_for() {
        let now = Instant::now();
        let [soon, late] = [1, 3].map(|s| Span { began: now, due: now + Duration::from_secs(s) });
        let paused = pause([late, soon].into_iter()).unwrap();
        assert!(paused <= Duration::from_secs(1), "{paused:?}");
        assert_eq!(pause(std::iter::empty()), None);
    }
}
