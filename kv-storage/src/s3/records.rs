//! Records: small objects, created under a free name, replaced by their tag.

use std::sync::Arc;

use futures_util::StreamExt;
use kv_format::RecordName;
use object_store::{GetOptions, PutPayload};

use super::core::Core;
use super::failure::{Class, Failure};
use super::lanes::Lane;
use super::observe::Answer;
use super::publish::{Only, Put};
use super::tag::Tag;
use crate::{Error, ErrorKind, MAX_RECORD_BYTES, Record, Result, Version};

impl Core {
    pub(super) async fn create_record(
        self: Arc<Self>,
        lane: Lane,
        name: RecordName,
        body: Vec<u8>,
    ) -> Result<Option<Version>> {
        if !self.conditions().create {
            return Err(self.unconditional("create", "If-None-Match"));
        }
        self.put_record(&lane, &name, body, Only::IfFree).await
    }

    pub(super) async fn replace_record(
        self: Arc<Self>,
        lane: Lane,
        name: RecordName,
        expected: Version,
        body: Vec<u8>,
    ) -> Result<Option<Version>> {
        if !self.conditions().replace {
            return Err(self.unconditional("replace", "If-Match"));
        }
        let tag = match Tag::parse(&expected.0) {
            Some(tag) => tag,
            // Nothing that was ever given out, or of a server with tags of its own kind.
            None => {
                let head = self.head(&lane, &self.path(&name.to_string())).await;
                let head =
                    head.map_err(|failure| self.error(failure, &format!("replace the record {name}")))?;
                let now = head.and_then(|head| head.tag).filter(|tag| tag.to_string() == expected.0);
                let Some(now) = now else { return Ok(None) };
                now
            }
        };
        self.put_record(&lane, &name, body, Only::IfMatch(tag)).await
    }

    async fn put_record(
        &self,
        lane: &Lane,
        name: &RecordName,
        body: Vec<u8>,
        only: Only,
    ) -> Result<Option<Version>> {
        let path = self.path(&name.to_string());
        let put = self.put(lane, &path, PutPayload::from(body), only).await;
        match put.map_err(|failure| self.error(failure, &format!("write the record {name}")))? {
            Put::Refused => Ok(None),
            Put::Stored(Some(tag)) => Ok(Some(Version(tag.to_string()))),
            Put::Stored(None) => {
                let message =
                    format!("no entity tag for the record {name}: this server does not speak enough of S3");
                Err(Error::new(ErrorKind::Unsupported, &self.label, message))
            }
        }
    }

    pub(super) async fn read_record(self: Arc<Self>, lane: Lane, name: RecordName) -> Result<Option<Record>> {
        let (mut number, mut refreshed) = (1, false);
        loop {
            let failure = match self.read_record_once(&lane, &name).await {
                Ok(record) => return Ok(record),
                Err(failure) => failure,
            };
            if !self.again(&failure, number, &mut refreshed).await {
                return Err(self.error(failure, &format!("read the record {name}")));
            }
            number += 1;
        }
    }

    async fn read_record_once(&self, lane: &Lane, name: &RecordName) -> Result<Option<Record>, Failure> {
        let path = self.path(&name.to_string());
        let Some(result) = self.get(lane, &path, &GetOptions::default()).await? else { return Ok(None) };
        let (len, tag) = (result.meta.size, Tag::of(&result.meta));
        if len > MAX_RECORD_BYTES as u64 {
            let message = format!("it has {len} bytes: expected at most {MAX_RECORD_BYTES}");
            return Err(Failure::local(Class::Other, message));
        }
        let Some(tag) = tag else {
            return Err(Failure::local(Class::Unknown, "it came without an entity tag"));
        };
        let mut body = Vec::new();
        let mut stream = result.into_stream();
        loop {
            let late = self.environment.clock.sleep(self.deadlines.first_byte);
            let piece = tokio::select! {
                piece = stream.next() => piece,
                () = late => return Err(Failure::local(Class::Transient, "the body stopped")),
            };
            match piece {
                None => break,
                Some(Ok(piece)) if (body.len() + piece.len()) as u64 <= len => body.extend_from_slice(&piece),
                Some(Ok(_)) => {
                    return Err(Failure::local(Class::Other, format!("it is longer than its {len} bytes")));
                }
                Some(Err(error)) => {
                    return Err(Failure::new(error, Answer::default()).with_class(Class::Transient));
                }
            }
        }
        if body.len() as u64 != len {
            let message = format!("the body ended behind {} of {len} bytes", body.len());
            return Err(Failure::local(Class::Transient, message));
        }
        Ok(Some(Record { body, version: Version(tag.to_string()) }))
    }

    fn unconditional(&self, what: &str, header: &str) -> Error {
        let message = format!(
            "cannot {what} records: the server ignores {header}, so two owners could both succeed; keep records in another store"
        );
        Error::new(ErrorKind::Unsupported, &self.label, message)
    }
}
