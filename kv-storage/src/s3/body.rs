//! The bytes of one run as they come: read straight from the connection where that is possible, and copied out of what the client read
//! where it is not.
//!
//! A body that breaks off is asked for again from where it broke off; one that is shorter or longer than was asked for is never taken for
//! the object.

use std::ops::Range;

use bytes::{Buf, Bytes};
use futures_util::StreamExt;
use futures_util::stream::BoxStream;
use kv_memory::HostBuf;
use object_store::{Error as StoreError, GetResult};

use super::core::Head;
use super::failure::{Class, Failure};
use super::lanes::Lane;
use super::observe::Answer;
use super::read::{Reading, Target, range_of};
use super::straight::{RawBody, handed_over, straight};

/// Where bytes come from.
enum Source {
    Straight(RawBody),
    /// What the client reads, and the rest of the last piece, which has no buffer yet.
    Pieces(BoxStream<'static, object_store::Result<Bytes>>, Bytes),
}

/// The bytes of one run.
pub(super) struct Body<'a, T> {
    reading: &'a Reading<T>,
    lane: &'a Lane,
    source: Option<Source>,
    /// The next byte that has no place in a buffer yet, and that is asked for should the body break off.
    at: u64,
    end: u64,
    /// Attempts at the body so far.
    number: u32,
    refreshed: bool,
}

impl Source {
    fn of(mut answer: GetResult) -> Self {
        match handed_over(&mut answer) {
            Some(raw) => Self::Straight(raw),
            None => Self::Pieces(answer.into_stream(), Bytes::new()),
        }
    }

    /// Reads some bytes; `None` at the end. More than `most`, which is what is left of the run, are never taken.
    async fn read(&mut self, into: &mut [u8], most: u64) -> Result<Option<usize>, Failure> {
        let too_many = || Failure::local(Class::Other, "the server sent more bytes than it was asked for");
        // Whatever a body breaks off with, the rest of it may still be had.
        let broke_off = |error| Failure::new(error, Answer::default()).with_class(Class::Transient);
        match self {
            Self::Straight(raw) if raw.remaining() > most => Err(too_many()),
            Self::Straight(raw) => {
                let read = raw.read(into).await;
                let read = read.map_err(|error| {
                    broke_off(StoreError::Generic { store: "S3", source: Box::new(error) })
                })?;
                Ok(Some(read).filter(|read| *read > 0))
            }
            Self::Pieces(stream, rest) => {
                while rest.is_empty() {
                    // Let go first: a connection reads into the same memory again only if nobody has a handle to it.
                    *rest = Bytes::new();
                    match stream.next().await {
                        Some(piece) => *rest = piece.map_err(broke_off)?,
                        None => return Ok(None),
                    }
                }
                if rest.len() as u64 > most {
                    return Err(too_many());
                }
                let len = rest.len().min(into.len());
                rest.copy_to_slice(&mut into[..len]);
                Ok(Some(len))
            }
        }
    }
}

impl<'a, T: Target> Body<'a, T> {
    /// The bytes of `run`, of which `begun` is the answer if it was asked for already.
    pub(super) fn new(
        reading: &'a Reading<T>,
        lane: &'a Lane,
        run: Range<u64>,
        begun: Option<GetResult>,
    ) -> Self {
        let Range { start: at, end } = run;
        Self { reading, lane, source: begun.map(Source::of), at, end, number: 1, refreshed: false }
    }

    /// Fills a buffer.
    pub(super) async fn fill(&mut self, buffer: &mut HostBuf) -> Result<(), Failure> {
        let mut filled = 0;
        while filled < buffer.len() {
            filled += self.read(&mut buffer[filled..]).await?;
        }
        Ok(())
    }

    /// The next bytes, of as many requests as that takes.
    async fn read(&mut self, into: &mut [u8]) -> Result<usize, Failure> {
        loop {
            let failure = match self.of_one_request(into).await {
                Ok(Some(read)) => return Ok(read),
                Ok(None) => {
                    let message = format!("the body ended {} bytes early", self.end - self.at);
                    Failure::local(Class::Transient, message)
                }
                Err(failure) => failure,
            };
            self.source = None;
            let (core, number) = (&self.reading.core, self.number);
            if !core.again(&failure, number, &mut self.refreshed).await {
                return Err(failure);
            }
            self.number += 1;
        }
    }

    /// The next bytes of one request; `None` at its end.
    async fn of_one_request(&mut self, into: &mut [u8]) -> Result<Option<usize>, Failure> {
        let core = &self.reading.core;
        if self.source.is_none() {
            self.source = Some(self.open().await?);
        }
        let Some(source) = &mut self.source else { return Ok(None) };
        let late = core.environment.clock.sleep(core.deadlines.first_byte);
        let read = tokio::select! {
            biased;
            read = source.read(into, self.end - self.at) => read?,
            () = late => {
                let message = format!("the body stopped for {} ms", core.deadlines.first_byte.as_millis());
                return Err(Failure::local(Class::Transient, message));
            }
        };
        self.at += read.unwrap_or_default() as u64;
        Ok(read)
    }

    /// Asks for what is left, of the version that the first request saw.
    async fn open(&mut self) -> Result<Source, Failure> {
        let Reading { core, path, head, .. } = self.reading;
        let options = range_of(self.at, self.end, head.etag.as_deref());
        let replaced =
            |what: &str| Failure::local(Class::Changed, format!("it was {what} while it was read"));
        match straight(core.get(self.lane, path, &options)).await {
            Ok(Some(result)) if Head::of(&result).version == head.version => {
                if result.range != (self.at..self.end) {
                    let message = format!("asked for {:?}, answered {:?}", self.at..self.end, result.range);
                    return Err(Failure::local(Class::Other, message));
                }
                Ok(Source::of(result))
            }
            Ok(Some(_)) => Err(replaced("replaced")),
            Ok(None) => Err(replaced("removed")),
            Err(failure) if failure.class == Class::Refused => Err(replaced("replaced")),
            Err(failure) => Err(failure),
        }
    }

    /// Fails if the server has more than was asked for.
    pub(super) async fn expect_end(&mut self) -> Result<(), Failure> {
        if self.source.is_none() {
            return Ok(());
        }
        match self.of_one_request(&mut [0]).await {
            // The end, or a connection that broke when all bytes had come.
            Ok(_) => Ok(()),
            Err(failure) if failure.class == Class::Other => Err(failure),
            Err(_) => Ok(()),
        }
    }
}
