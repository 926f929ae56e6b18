//! One upload under a name: create-only or in place of a version, and what is true after an answer was lost.
//!
//! A request that was answered by an error may have been carried out. Its repetition is then refused, because the name is taken, by itself.
//! So every upload bears a mark of its own, and whoever is in doubt asks whose mark the object has.

use std::sync::Arc;

use object_store::path::Path;
use object_store::{Attribute, Attributes, PutMode, PutOptions, PutPayload, PutResult};

use super::core::{Core, Ended, Head, MARK};
use super::failure::{Class, Failure};
use super::lanes::Lane;
use super::tag::Tag;

/// What must be true of the name.
#[derive(Debug, Clone)]
pub(super) enum Only {
    /// It is free.
    IfFree,
    /// Its object has this tag.
    IfMatch(Tag),
    /// Nothing: the last upload stays.
    Always,
}

/// What became of an upload.
#[derive(Debug)]
pub(super) enum Put {
    /// It is the object of its name, with this tag.
    Stored(Option<Tag>),
    /// The condition did not hold; nothing changed.
    Refused,
}

/// What an upload is known again by.
pub(super) fn marked(mark: &str) -> Attributes {
    let mut attributes = Attributes::new();
    attributes.insert(Attribute::Metadata(MARK.into()), mark.to_owned().into());
    attributes
}

impl Core {
    /// Uploads `payload`.
    ///
    /// # Errors
    /// What the server says; after a transient error it is not known whether the upload was or will be stored.
    pub(super) async fn put(
        &self,
        lane: &Lane,
        path: &Path,
        payload: PutPayload,
        only: Only,
    ) -> Result<Put, Failure> {
        let mark = self.mark();
        let mode = match &only {
            Only::IfFree => PutMode::Create,
            Only::IfMatch(tag) => PutMode::Update(tag.clone().into()),
            Only::Always => PutMode::Overwrite,
        };
        let options = PutOptions { mode, attributes: marked(&mark), ..PutOptions::default() };
        let ended = self
            .attempts(self.deadlines.whole, || {
                let (store, path) = (Arc::clone(&lane.store), path.clone());
                let (payload, options) = (payload.clone(), options.clone());
                async move { store.put_opts(&path, payload, options).await }
            })
            .await;
        self.decide(lane, path, &mark, &only, ended).await
    }

    /// What an upload came to.
    pub(super) async fn decide(
        &self,
        lane: &Lane,
        path: &Path,
        mark: &str,
        only: &Only,
        ended: Ended<PutResult>,
    ) -> Result<Put, Failure> {
        let failure = match ended.result {
            Ok(stored) => return Ok(Put::Stored(Tag::of_upload(stored))),
            Err(failure) => failure,
        };
        let refused = match failure.class {
            Class::Refused => true,
            // There is nothing to replace.
            Class::Missing => matches!(only, Only::IfMatch(_)),
            Class::Busy | Class::Transient | Class::Throttled | Class::Gone => false,
            _ => return Err(failure),
        };
        if refused && !ended.doubtful {
            return Ok(Put::Refused); // by somebody else's object
        }
        self.settle(lane, path, mark, only, failure).await
    }

    /// Asks what the name holds after an answer that leaves it open.
    async fn settle(
        &self,
        lane: &Lane,
        path: &Path,
        mark: &str,
        only: &Only,
        failure: Failure,
    ) -> Result<Put, Failure> {
        let refused = failure.class == Class::Refused;
        let Ok(found) = self.head(lane, path).await else { return Err(failure) };
        match (found, only) {
            (Some(Head { mark: Some(found), tag, .. }), _) if found == mark => Ok(Put::Stored(tag)),
            (Some(_), Only::IfFree) => Ok(Put::Refused),
            (Some(Head { tag: Some(now), .. }), Only::IfMatch(expected)) if now.differs(expected) => {
                Ok(Put::Refused)
            }
            (None, Only::IfMatch(_)) => Ok(Put::Refused),
            // Somebody had it when the request was refused, and removed it since.
            (None, Only::IfFree) if refused => Ok(Put::Refused),
            _ => Err(failure),
        }
    }
}
