//! Whether what NIXL calls done has arrived. Up to 1.4 it called short transfers done.
//!
//! A transfer that ends early leaves the end as it was. So a mark is put there before a read: if it is still there, not everything came.
//! A file is asked for the end of what was written to it, as far as that needs no waiting. Bytes that happen to equal the mark are taken for
//! missing, and whoever asked reads them another way; what is missing in the middle only checksums find.

use std::os::fd::OwnedFd;

use rustix::fs::{FsWord, fstatfs};
use rustix::io::{Errno, IoSliceMut, ReadWriteFlags, pread, preadv2};

use super::agent::{Step, Target, Way};

/// Bytes at the end of a step that are looked at.
const LOOKED_AT: usize = 8;

/// Makes marks that nobody can foresee.
pub(super) struct Arrival {
    state: u64,
}

impl Arrival {
    pub(super) fn new(seed: u64) -> Self {
        Self { state: seed }
    }

    /// Marks the end of what is to be read; the mark.
    pub(super) fn prepare(&mut self, step: &mut Step) -> u64 {
        // Steele, Lea and Flood's splitmix64.
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.state ^ (self.state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        let mark = mixed ^ (mixed >> 31);
        if step.way == Way::In {
            let end = step.start + step.len;
            let begin = end - step.len.min(LOOKED_AT);
            if let Some(tail) = step.buffer.get_mut(begin..end) {
                tail.iter_mut().zip(mark.to_le_bytes()).for_each(|(byte, mark)| *byte = mark);
            }
        }
        mark
    }

    /// Whether the end of a step that is done has been moved, as far as can be said at once.
    pub(super) fn arrived(step: &Step, mark: u64) -> bool {
        let end = step.start + step.len;
        let looked_at = step.len.min(LOOKED_AT);
        let Some(tail) = step.buffer.get(end - looked_at..end) else { return false };
        match (&step.target, step.way) {
            (_, Way::In) => tail != &mark.to_le_bytes()[..looked_at],
            (Target::File(file), Way::Out) => {
                let at = step.offset + (step.len - looked_at) as u64;
                written(file, at, looked_at).is_none_or(|written| tail == &written[..looked_at])
            }
            #[cfg(feature = "s3")]
            (Target::Object { .. }, Way::Out) => true,
        }
    }
}

/// Bytes of a file that can be read without waiting; `None` where that is not known.
fn written(file: &OwnedFd, at: u64, len: usize) -> Option<[u8; LOOKED_AT]> {
    // Memory: it cannot wait, and does not know the flag.
    const TMPFS: FsWord = 0x0102_1994;
    let mut found = [0; LOOKED_AT];
    let now = preadv2(file, &mut [IoSliceMut::new(&mut found[..len])], at, ReadWriteFlags::NOWAIT);
    let read = match now {
        Err(Errno::OPNOTSUPP) if fstatfs(file).ok()?.f_type == TMPFS => pread(file, &mut found[..len], at),
        read => read,
    };
    // Bytes behind the end of the file stay zeros here, and are missing if they should be others.
    read.is_ok().then_some(found)
}
