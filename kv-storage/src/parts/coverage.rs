//! Which bytes of an upload were written, so that an incomplete object can never be published.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::{Error, ErrorKind, Result};

/// The bytes of one upload that are written.
#[derive(Debug)]
pub struct Coverage {
    store: String,
    name: String,
    len: u64,
    written: Mutex<Written>,
}

#[derive(Debug, Default)]
struct Written {
    /// Disjoint ranges that do not touch: start -> end.
    ranges: BTreeMap<u64, u64>,
    /// A write was dropped: its operation may still go on, so the object must not be published under it.
    abandoned: bool,
}

/// A write that goes on. Dropped before [`done`](Self::done) or [`failed`](Self::failed), it makes the upload unpublishable.
#[derive(Debug)]
pub struct Writing<'a> {
    coverage: &'a Coverage,
    start: u64,
    end: u64,
    answered: bool,
}

impl Coverage {
    /// Of an upload of `len` bytes as `name`; `store` and `name` stand in errors.
    pub fn new(store: String, name: String, len: u64) -> Self {
        Self { store, name, len, written: Mutex::default() }
    }

    /// Announces a write.
    ///
    /// # Errors
    /// `Invalid` if it reaches behind the end.
    pub fn writing(&self, offset: u64, bytes: usize) -> Result<Writing<'_>> {
        let end = u64::try_from(bytes)
            .ok()
            .and_then(|bytes| offset.checked_add(bytes))
            .filter(|&end| end <= self.len);
        let Some(end) = end else {
            let Self { name, len, .. } = self;
            return Err(self.invalid(format!(
                "{bytes} bytes at offset {offset} of {name} reach behind the {len} bytes announced at the begin"
            )));
        };
        Ok(Writing { coverage: self, start: offset, end, answered: false })
    }

    /// Checks that the object may be published.
    ///
    /// # Errors
    /// `Invalid` unless every byte was written and no write was dropped.
    pub fn complete(&self) -> Result<()> {
        let Self { name, len, .. } = self;
        let written = self.written();
        if written.abandoned {
            return Err(self.invalid(format!(
                "a write of {name} was dropped before it ended: abort the upload and begin again"
            )));
        }
        let have: u64 = written.ranges.iter().map(|(start, end)| end - start).sum();
        if have != *len {
            return Err(self.invalid(format!(
                "{name} is incomplete: {have} of {len} bytes were written; write the rest before the commit"
            )));
        }
        Ok(())
    }

    fn written(&self) -> MutexGuard<'_, Written> {
        self.written.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn invalid(&self, message: String) -> Error {
        Error::new(ErrorKind::Invalid, &self.store, message)
    }
}

impl Writing<'_> {
    /// The bytes are written.
    pub fn done(mut self) {
        self.answered = true;
        let (mut start, mut end) = (self.start, self.end);
        if start == end {
            return;
        }
        let ranges = &mut self.coverage.written().ranges;
        // Swallow every range that overlaps or touches, from the right.
        while let Some((&s, &e)) = ranges.range(..=end).next_back().filter(|&(_, &e)| e >= start) {
            ranges.remove(&s);
            start = start.min(s);
            end = end.max(e);
        }
        ranges.insert(start, end);
    }

    /// The backend refused and has let go: the range may be written again.
    pub fn failed(mut self) {
        self.answered = true;
    }
}

impl Drop for Writing<'_> {
    fn drop(&mut self) {
        if !self.answered {
            self.coverage.written().abandoned = true;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn coverage(len: u64) -> Coverage {
        Coverage::new("test".into(), "object".into(), len)
    }

    #[test]
    fn ranges_in_any_order_with_overlap_cover_the_object() {
        let c = coverage(100);
        for (offset, bytes) in [(60, 40), (0, 10), (20, 10), (5, 20), (30, 30), (50, 0)] {
            assert!(c.complete().is_err(), "complete before {offset}+{bytes}");
            c.writing(offset, bytes).unwrap().done();
            if offset == 30 {
                break;
            }
        }
        c.complete().unwrap();
        assert_eq!(c.written().ranges.len(), 1);
    }

    #[test]
    fn writing_twice_does_not_count_twice() {
        let c = coverage(20);
        c.writing(0, 10).unwrap().done();
        c.writing(0, 10).unwrap().done();
        assert!(c.complete().is_err());
        c.writing(10, 10).unwrap().failed();
        assert!(c.complete().is_err());
        c.writing(10, 10).unwrap().done();
        c.complete().unwrap();
    }

    #[test]
    fn a_dropped_write_and_a_write_behind_the_end_are_refused() {
        let c = coverage(10);
        for (offset, bytes) in [(0, 11), (10, 1), (11, 0), (u64::MAX, 1)] {
            assert_eq!(c.writing(offset, bytes).unwrap_err().kind(), ErrorKind::Invalid);
        }
        c.writing(0, 10).unwrap().done();
        drop(c.writing(0, 1).unwrap());
        assert_eq!(c.complete().unwrap_err().kind(), ErrorKind::Invalid);
    }
}
