//! Reading: the index, then the spans side by side.

use kv_format::ObjectName;
use kv_memory::HostBuf;

use super::Striped;
use super::index::{INDEX_BYTES, Index};
use super::pieces::pieces;
use super::together::{Call, together};
use crate::parts::out_of_range;
use crate::{Error, ErrorKind, ObjectMeta, ReadOutcome, ReadPart, Result, Version};

/// Where a piece that was read goes: a buffer of the reader's as it is, or into one.
#[derive(Clone, Copy)]
enum Goes {
    Whole { part: usize },
    Into { part: usize, at: usize },
}

/// How the spans of one index were read.
enum Spans {
    Read,
    /// One of them is gone.
    Gone {
        span: usize,
    },
}

impl Striped {
    /// The index of an object and its version in its home; `None` if there is none.
    ///
    /// # Errors
    /// `Backend` if what is there is no index of these members; otherwise as the member.
    pub(super) async fn index(&self, name: &ObjectName) -> Result<Option<(Index, Version)>> {
        let home = &self.members[self.home(name)];
        let buffer = self.scratch(INDEX_BYTES)?;
        let outcome = home.read(name, vec![ReadPart { offset: 0, buffer }]).await;
        let foreign = |what: &str| {
            let message = format!("{name} in {home} {what}: something else than this store wrote it");
            Err(Error::new(ErrorKind::Backend, self, message))
        };
        let meta = match outcome.result {
            Ok(None) => return Ok(None),
            Ok(Some(meta)) => meta,
            Err(error) if error.kind() == ErrorKind::OutOfRange => {
                return foreign("is too short for an index");
            }
            Err(error) => return Err(error),
        };
        match outcome.buffers.first().and_then(|buffer| Index::decode(buffer)) {
            Some(index)
                if usize::try_from(index.members) == Ok(self.members.len())
                    && meta.len == INDEX_BYTES as u64 =>
            {
                Ok(Some((index, meta.version)))
            }
            Some(index) => {
                foreign(&format!("lies over {} members: expected {}", index.members, self.members.len()))
            }
            None => foreign("is no index"),
        }
    }

    pub(super) fn shown(name: &ObjectName, (index, version): (Index, Version)) -> ObjectMeta {
        ObjectMeta { name: *name, len: index.len, version }
    }

    pub(super) async fn read_object(&self, name: &ObjectName, parts: Vec<ReadPart>) -> ReadOutcome {
        let offsets: Vec<u64> = parts.iter().map(|part| part.offset).collect();
        let mut buffers: Vec<HostBuf> = parts.into_iter().map(|part| part.buffer).collect();
        // Twice: an object that was replaced between its index and its spans is read as what it is now.
        for _ in 0..2 {
            let found = match self.index(name).await {
                Ok(Some(found)) => found,
                Ok(None) => return ReadOutcome { buffers, result: Ok(None) },
                Err(error) => return ReadOutcome { buffers, result: Err(error) },
            };
            let index = found.0;
            for (&offset, buffer) in offsets.iter().zip(&buffers) {
                if offset.checked_add(buffer.len() as u64).is_none_or(|end| end > index.len) {
                    let error = out_of_range(self, name, (offset, buffer.len()), index.len);
                    return ReadOutcome { buffers, result: Err(error) };
                }
            }
            let (back, read) = self.read_spans(&index, &offsets, buffers).await;
            buffers = back;
            match read {
                Ok(Spans::Read) => {
                    return ReadOutcome { buffers, result: Ok(Some(Self::shown(name, found))) };
                }
                Err(error) => return ReadOutcome { buffers, result: Err(error) },
                Ok(Spans::Gone { span }) => match self.index(name).await {
                    Ok(Some((now, _))) if now == index => {
                        let message = format!(
                            "{name} has lost span {span} in {}: delete the object, the next save heals it",
                            self.members[index.member(span)]
                        );
                        return ReadOutcome {
                            buffers,
                            result: Err(Error::new(ErrorKind::Backend, self, message)),
                        };
                    }
                    Ok(Some(_)) => {}
                    Ok(None) => return ReadOutcome { buffers, result: Ok(None) },
                    Err(error) => return ReadOutcome { buffers, result: Err(error) },
                },
            }
        }
        let message = format!("{name} is replaced again and again: read it again");
        ReadOutcome { buffers, result: Err(Error::new(ErrorKind::Unavailable, self, message)) }
    }

    /// Fills the buffers, which lie within the object. They come back in order, unless a member keeps one of them.
    async fn read_spans(
        &self,
        index: &Index,
        offsets: &[u64],
        buffers: Vec<HostBuf>,
    ) -> (Vec<HostBuf>, Result<Spans>) {
        let mut asked: Vec<Vec<(Goes, ReadPart)>> = (0..index.spans()).map(|_| Vec::new()).collect();
        let mut back: Vec<Option<HostBuf>> = Vec::with_capacity(buffers.len());
        for (part, (&offset, buffer)) in offsets.iter().zip(buffers).enumerate() {
            let cut = pieces(index, offset, buffer.len());
            if let [one] = cut[..] {
                back.push(None);
                asked[one.span].push((Goes::Whole { part }, ReadPart { offset: one.offset, buffer }));
                continue;
            }
            back.push(Some(buffer));
            for piece in cut {
                match self.scratch(piece.len) {
                    Ok(buffer) => {
                        let goes = Goes::Into { part, at: piece.at };
                        asked[piece.span].push((goes, ReadPart { offset: piece.offset, buffer }));
                    }
                    // The buffers that are asked for already are lost with the call; none is with a member.
                    Err(error) => return (Vec::new(), Err(error)),
                }
            }
        }
        let mut goes = Vec::new();
        let mut calls: Vec<Call<'_, (usize, ReadOutcome)>> = Vec::new();
        for (span, asked) in asked.into_iter().enumerate().filter(|(_, asked)| !asked.is_empty()) {
            let (to, parts): (Vec<Goes>, Vec<ReadPart>) = asked.into_iter().unzip();
            goes.push(to);
            let (member, name) = (&self.members[index.member(span)], index.name(span));
            calls.push(Box::pin(async move { (span, member.read(&name, parts).await) }));
        }
        let mut result = Ok(Spans::Read);
        for ((span, outcome), goes) in together(calls).await.into_iter().zip(goes) {
            for (goes, buffer) in goes.into_iter().zip(outcome.buffers) {
                match goes {
                    Goes::Whole { part } => back[part] = Some(buffer),
                    Goes::Into { part, at } => {
                        let into = back[part].as_mut().and_then(|into| into.get_mut(at..at + buffer.len()));
                        if let Some(into) = into {
                            into.copy_from_slice(&buffer);
                        }
                    }
                }
            }
            match outcome.result {
                Ok(Some(_)) => {}
                Ok(None) if result.is_ok() => result = Ok(Spans::Gone { span }),
                Ok(None) => {}
                Err(error) => result = Err(error),
            }
        }
        let all: Option<Vec<HostBuf>> = back.into_iter().collect();
        (all.unwrap_or_default(), result)
    }
}
