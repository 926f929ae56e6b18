//! The lines of test programs on a guest's console: which tests passed, and the figures they print.

use serde::{Deserialize, Serialize};

/// What begins a line with a figure.
const FIGURE: &str = "figure: ";

/// What host a's tests said.
#[derive(Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Results {
    pub passed: Vec<String>,
    pub failed: Vec<String>,
    pub figures: Vec<String>,
    /// Exit status of a host's jobs, not 0 if that of any job was not; `None` if the jobs did not end.
    pub status: Option<i32>,
}

impl Results {
    /// Takes a line in; whether it was a result.
    pub(super) fn read(&mut self, line: &str) -> bool {
        if let Some(figure) = line.strip_prefix(FIGURE) {
            self.figures.push(figure.to_owned());
            return true;
        }
        let Some((name, verdict)) = line.strip_prefix("test ").and_then(|rest| rest.rsplit_once(" ... "))
        else {
            return false;
        };
        match verdict {
            "ok" => self.passed.push(name.to_owned()),
            "FAILED" => self.failed.push(name.to_owned()),
            _ => return false,
        }
        true
    }

    /// Takes in whether a host's jobs have ended with this line.
    pub(super) fn ended(&mut self, line: &str) -> bool {
        let status = line.strip_prefix("KV-LAB done ").and_then(|status| status.parse().ok());
        self.status = status.filter(|_| self.status.unwrap_or(0) == 0).or(self.status);
        status.is_some()
    }

    /// Why it is not a success.
    pub(super) fn objection(&self) -> Option<String> {
        match (self.failed.as_slice(), self.status) {
            ([], Some(0)) if self.passed.is_empty() => Some("no test ran".into()),
            ([], Some(0)) => None,
            ([], Some(status)) => Some(format!("a program of host a ended with status {status}")),
            ([], None) => Some("host a did not end its tests".into()),
            (failed, _) => Some(format!("failed: {}", failed.join(", "))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn results(lines: &[&str]) -> Results {
        let mut results = Results::default();
        for line in lines {
            results.read(line);
            results.ended(line);
        }
        results
    }

    #[test]
    fn results_are_what_the_test_programs_say() {
        let good = results(&[
            "running 2 tests",
            "test races::two ... ok",
            "test agent::serves ... ignored, run by the lab",
            "figure: visibility: 500 of 500",
            "test result: ok. 1 passed; 0 failed; 1 ignored",
            "KV-LAB done 0",
        ]);
        assert_eq!((good.passed.as_slice(), good.objection()), (["races::two".to_owned()].as_slice(), None));
        assert_eq!(good.figures, ["visibility: 500 of 500"]);
    }

    #[test]
    fn anything_less_than_tests_that_passed_and_ended_is_a_failure() {
        for (lines, words) in [
            (&["KV-LAB done 0"][..], "no test ran"),
            (&["test a ... ok"], "did not end"),
            (&["test a ... ok", "KV-LAB done 137"], "status 137"),
            (&["test a ... ok", "KV-LAB done 2", "KV-LAB done 0"], "status 2"),
            (&["test a ... ok", "test b ... FAILED", "KV-LAB done 101"], "failed: b"),
        ] {
            let objection = results(lines).objection().unwrap();
            assert!(objection.contains(words), "{objection}");
        }
    }
}
