//! How a range of an object lies over its spans.

use kv_memory::HostBuf;

use super::Striped;
use super::index::Index;
use crate::{Error, ErrorKind, Result};

/// A part of a range that lies in one span.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Piece {
    pub(super) span: usize,
    /// In the span.
    pub(super) offset: u64,
    /// In the range.
    pub(super) at: usize,
    pub(super) len: usize,
}

/// The pieces of `len` bytes at `offset`, which lie within the object. An empty range has none.
pub(super) fn pieces(index: &Index, offset: u64, len: usize) -> Vec<Piece> {
    let mut pieces = Vec::new();
    let mut at = 0;
    while at < len {
        let position = offset + at as u64;
        let within = position % index.span;
        let left = usize::try_from(index.span - within).unwrap_or(usize::MAX);
        let piece = left.min(len - at);
        let span = usize::try_from(position / index.span).unwrap_or(usize::MAX);
        pieces.push(Piece { span, offset: within, at, len: piece });
        at += piece;
    }
    pieces
}

impl Striped {
    /// Memory for an index, the end of a span, or a piece of a range that lies over two spans.
    pub(super) fn scratch(&self, len: usize) -> Result<HostBuf> {
        let none = |error: kv_memory::Error| {
            Error::new(
                ErrorKind::Unavailable,
                self,
                format!("no memory for a range over two members: {error}"),
            )
        };
        let page = self.pages.try_acquire().filter(|page| page.capacity() >= len);
        let mut buffer = page.map_or_else(|| HostBuf::allocate(len.max(1)), Ok).map_err(none)?;
        buffer.set_len(len).map_err(none)?;
        Ok(buffer)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_range_is_cut_where_spans_meet() {
        let index = Index::new(3 * 4096, 3, 0, [0; 32]);
        let piece = |span, offset, at, len| Piece { span, offset, at, len };
        assert_eq!(pieces(&index, 0, 0), []);
        assert_eq!(pieces(&index, 4096, 4096), [piece(1, 0, 0, 4096)]);
        assert_eq!(
            pieces(&index, 4000, 5000),
            [piece(0, 4000, 0, 96), piece(1, 0, 96, 4096), piece(2, 0, 4192, 808)]
        );
    }
}
