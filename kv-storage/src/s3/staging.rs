//! An object on its way in: its bytes in parts of the store's staging, each where there was room, and sent without being put together.
//!
//! An object is written once, in pieces of any size and order; a part of the staging takes many small pieces or one large one. What a
//! source fills is filled in place. What overlaps is overwritten.

use std::collections::BTreeMap;

use bytes::Bytes;
use kv_memory::HostBuf;
use object_store::PutPayload;

/// A run of the object's bytes in one part.
#[derive(Debug, Clone, Copy)]
struct Piece {
    len: usize,
    part: usize,
    at: usize,
}

/// One part and how much of it is in use.
#[derive(Debug)]
struct Part {
    /// `None` while a source fills it.
    buffer: Option<HostBuf>,
    used: usize,
}

/// The bytes of one object.
#[derive(Debug)]
pub(super) struct Staged {
    parts: Vec<Part>,
    pieces: BTreeMap<u64, Piece>,
}

/// A whole part that a source may fill.
#[derive(Debug)]
pub(super) struct Lent {
    pub(super) buffer: HostBuf,
    part: usize,
}

impl Staged {
    /// In these buffers, whose whole capacity is used.
    pub(super) fn new(buffers: Vec<HostBuf>) -> Self {
        let whole = |mut buffer: HostBuf| {
            // A capacity is always a possible length.
            let _ = buffer.set_len(buffer.capacity());
            Part { buffer: Some(buffer), used: 0 }
        };
        Self { parts: buffers.into_iter().map(whole).collect(), pieces: BTreeMap::new() }
    }

    /// Takes bytes at an offset of the object; `false` if there is no room, which there is unless a source fills a part meanwhile.
    #[must_use]
    pub(super) fn write(&mut self, offset: u64, bytes: &[u8]) -> bool {
        let mut done = 0;
        while done < bytes.len() {
            let at = offset + done as u64;
            let rest = &bytes[done..];
            match self.piece_at(at) {
                Some((inside, piece)) => {
                    let len = rest.len().min(piece.len - inside);
                    let Some(buffer) = self.parts[piece.part].buffer.as_mut() else { return false };
                    let start = piece.at + inside;
                    buffer[start..start + len].copy_from_slice(&rest[..len]);
                    done += len;
                }
                None => {
                    let next = self.pieces.range(at..).next().map(|(&start, _)| start - at);
                    let gap = next.map_or(rest.len(), |gap| index(gap).min(rest.len()));
                    let appended = self.append(at, &rest[..gap]);
                    if appended == 0 {
                        return false;
                    }
                    done += appended;
                }
            }
        }
        true
    }

    /// The piece that holds a byte, and where in it.
    fn piece_at(&self, at: u64) -> Option<(usize, Piece)> {
        let (start, piece) = self.pieces.range(..=at).next_back()?;
        let inside = index(at - start);
        (inside < piece.len).then_some((inside, *piece))
    }

    /// Puts bytes behind what a part holds; as many as fit there.
    fn append(&mut self, offset: u64, bytes: &[u8]) -> usize {
        let room = |part: &Part| part.buffer.as_ref().map_or(0, |buffer| buffer.len() - part.used);
        let Some(number) = self.parts.iter().position(|part| room(part) > 0) else { return 0 };
        let part = &mut self.parts[number];
        let len = room(part).min(bytes.len());
        let at = part.used;
        if let Some(buffer) = &mut part.buffer {
            buffer[at..at + len].copy_from_slice(&bytes[..len]);
        }
        part.used += len;
        self.pieces.insert(offset, Piece { len, part: number, at });
        len
    }

    /// An unused part for `len` bytes at `offset` of which none was written, with that length.
    pub(super) fn lend(&mut self, offset: u64, len: usize) -> Option<Lent> {
        let end = offset.checked_add(len as u64)?;
        let before = self.pieces.range(..end).next_back();
        if before.is_some_and(|(&start, piece)| start + piece.len as u64 > offset) {
            return None;
        }
        let fits = |part: &Part| part.used == 0 && part.buffer.as_ref().is_some_and(|b| b.len() >= len);
        let part = self.parts.iter().position(fits)?;
        let mut buffer = self.parts[part].buffer.take()?;
        if buffer.set_len(len).is_err() {
            self.parts[part].buffer = Some(buffer);
            return None;
        }
        Some(Lent { buffer, part })
    }

    /// Takes a lent part back, filled for `offset` or not.
    pub(super) fn take_back(&mut self, lent: Lent, filled: Option<u64>) {
        let Lent { mut buffer, part } = lent;
        let len = buffer.len();
        let _ = buffer.set_len(buffer.capacity());
        // The upload was committed or dropped meanwhile: the buffer goes back to its pool.
        let Some(place) = self.parts.get_mut(part) else { return };
        place.buffer = Some(buffer);
        if let Some(offset) = filled {
            place.used = len;
            self.pieces.insert(offset, Piece { len, part, at: 0 });
        }
    }

    /// The object's bytes in their order, as many views of the parts. `sent` says what becomes of each part's memory and how much of it
    /// is used.
    pub(super) fn into_payload(self, sent: impl Fn(HostBuf, usize) -> Bytes) -> PutPayload {
        let own = |part: Part| part.buffer.map_or_else(Bytes::new, |buffer| sent(buffer, part.used));
        let parts: Vec<Bytes> = self.parts.into_iter().map(own).collect();
        let mut views: Vec<(Piece, Bytes)> = Vec::new();
        for (_, piece) in self.pieces {
            match views.last_mut() {
                Some((last, view)) if last.part == piece.part && last.at + last.len == piece.at => {
                    last.len += piece.len;
                    *view = parts[piece.part].slice(last.at..last.at + last.len);
                }
                _ => views.push((piece, parts[piece.part].slice(piece.at..piece.at + piece.len))),
            }
        }
        views.into_iter().map(|(_, view)| view).collect()
    }
}

/// An offset within a buffer; one that no buffer has becomes the largest.
fn index(offset: u64) -> usize {
    usize::try_from(offset).unwrap_or(usize::MAX)
}

#[cfg(test)]
mod tests {
    use kv_memory::{HugePages, StagingPool};

    use super::*;

    struct Sent(HostBuf);

    impl AsRef<[u8]> for Sent {
        fn as_ref(&self) -> &[u8] {
            &self.0
        }
    }

    fn staged(pool: &StagingPool, parts: usize) -> Staged {
        Staged::new((0..parts).map(|_| pool.try_acquire().unwrap()).collect())
    }

    fn bytes(payload: &PutPayload) -> Vec<u8> {
        payload.iter().flat_map(|view| view.to_vec()).collect()
    }

    #[test]
    fn pieces_of_any_order_and_overlap_make_the_object_and_fit_its_parts() {
        let pool = StagingPool::new(HugePages::allocate(8 * 4096).unwrap(), 4096).unwrap();
        let object: Vec<u8> = (0..10_000_u32).map(|i| u8::try_from(i % 251).unwrap()).collect();
        let mut staged = staged(&pool, 3); // exactly as many as 10,000 bytes need
        let noise = vec![0xee; 3000];
        assert!(staged.write(1000, &noise));
        let lent = staged.lend(1000, 100);
        assert!(lent.is_none(), "a part is lent only for bytes that nobody wrote");
        let mut lent = staged.lend(4000, 4000).unwrap();
        lent.buffer.copy_from_slice(&object[4000..8000]);
        staged.take_back(lent, Some(4000));
        for range in [9_999..10_000, 0..4001, 7990..9_999] {
            assert!(staged.write(range.start as u64, &object[range]));
        }
        let payload = staged.into_payload(|buffer, _| Bytes::from_owner(Sent(buffer)));
        assert_eq!(bytes(&payload), object);
        assert_eq!(pool.usage().bytes_lent, 3 * 4096);
        drop(payload);
        assert_eq!(pool.usage().bytes_lent, 0);
    }

    #[test]
    fn adjacent_pieces_are_sent_as_one() {
        let pool = StagingPool::new(HugePages::allocate(4096).unwrap(), 4096).unwrap();
        let mut staged = staged(&pool, 1);
        for offset in 0..16_u64 {
            assert!(staged.write(offset * 256, &[7; 256]));
        }
        let payload = staged.into_payload(|buffer, used| Bytes::copy_from_slice(&buffer[..used]));
        assert_eq!(payload.iter().count(), 1);
    }
}
