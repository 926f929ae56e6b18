//! Which functions were called, how often, and which of those calls fail.

use std::collections::BTreeMap;
use std::fmt::Write as _;

/// Longest log, in entries: a test that calls more often asks for counts.
const LONGEST: usize = 100_000;

/// Any symbol, in a fault.
pub(super) const ANY: &str = "*";

/// Calls and copies so far, and the script of faults.
#[derive(Debug, Default)]
pub struct Calls {
    counts: BTreeMap<&'static str, u64>,
    log: Vec<&'static str>,
    faults: Vec<Fault>,
    /// Copies until the device is lost, and how many thousandths of that copy it makes.
    losing: Option<(u64, u64)>,
    /// Each copy: direction, bytes, start and end by the model.
    copies: Vec<String>,
}

#[derive(Debug)]
struct Fault {
    symbol: String,
    /// Calls from now, 1 is the next.
    left: u64,
    code: i32,
}

impl Calls {
    /// Counts a call; the code that it must answer instead of doing anything.
    pub(super) fn enter(&mut self, symbol: &'static str) -> Option<i32> {
        *self.counts.entry(symbol).or_insert(0) += 1;
        if self.log.len() < LONGEST {
            self.log.push(symbol);
        }
        let mut code = None;
        self.faults.retain_mut(|fault| {
            if fault.symbol != ANY && fault.symbol != symbol {
                return true;
            }
            fault.left -= 1;
            if fault.left == 0 {
                code = Some(fault.code);
            }
            fault.left > 0
        });
        code
    }

    /// Counts a copy that begins; the thousandths of it that are made before the device is lost, if it is.
    pub(super) fn begin_copy(&mut self) -> Option<u64> {
        let (left, thousandths) = self.losing.as_mut()?;
        *left -= 1;
        let lost = (*left == 0).then_some(*thousandths);
        if lost.is_some() {
            self.losing = None;
        }
        lost
    }

    pub(super) fn fail(&mut self, symbol: &str, nth: u64, code: i32) {
        self.faults.push(Fault { symbol: symbol.to_owned(), left: nth.max(1), code });
    }

    pub(super) fn lose(&mut self, copies: u64, thousandths: u64) {
        self.losing = Some((copies.max(1), thousandths));
    }

    pub(super) fn clear_faults(&mut self) {
        self.faults.clear();
        self.losing = None;
    }

    pub(super) fn clear_log(&mut self) {
        self.counts.clear();
        self.log.clear();
        self.copies.clear();
    }

    pub(super) fn copied(&mut self, line: String) {
        if self.copies.len() < LONGEST {
            self.copies.push(line);
        }
    }

    pub(super) fn counts(&self) -> String {
        let mut text = String::new();
        for (symbol, count) in &self.counts {
            let _ = writeln!(text, "{symbol} {count}"); // a string takes all
        }
        text
    }

    pub(super) fn log(&self) -> String {
        self.log.join("\n")
    }

    pub(super) fn copies(&self) -> String {
        self.copies.join("\n")
    }
}
