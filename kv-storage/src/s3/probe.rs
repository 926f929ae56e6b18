//! Tries at open what the server keeps to, with an object of its own: create-only, replace-only, ranges, marks, uploads in parts.

use std::sync::Arc;

use object_store::{GetOptions, GetRange, PutPayload};

use super::core::Core;
use super::failure::{Class, Failure};
use super::lanes::Lane;
use super::publish::{Only, Put};
use super::tag::Tag;

const BODY: &[u8] = b"kvbridge probe: safe to delete";

/// Which conditions a server keeps to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub struct Conditions {
    /// `If-None-Match: *`: an upload under a taken name is refused. Without it objects are published after a look, which two racing
    /// commits may both pass, and records are refused.
    pub create: bool,
    /// `If-Match`: an upload over another version is refused. Without it records cannot be replaced.
    pub replace: bool,
    /// An upload in parts is completed under a free name only. Without it, or untried, objects that are larger than the staging are
    /// refused.
    pub parts: bool,
}

impl Default for Conditions {
    fn default() -> Self {
        Self { create: true, replace: true, parts: false }
    }
}

impl Core {
    /// Finds out what the server keeps to, and leaves nothing there.
    ///
    /// # Errors
    /// What the server says to the first upload: this is where wrong buckets, regions and credentials are noticed.
    pub(super) async fn probe(self: &Arc<Self>, lane: &Lane) -> Result<Conditions, Failure> {
        let path = self.path(&format!("probe/{}", self.mark()));
        let put = |only| self.put(lane, &path, PutPayload::from_static(BODY), only);
        if let Put::Refused = put(Only::IfFree).await? {
            return Err(Failure::local(
                Class::Unknown,
                "it refuses If-None-Match: * for a name that is free",
            ));
        }
        let found = async {
            let create = matches!(put(Only::IfFree).await?, Put::Refused);
            let replace = self.probe_replacement(lane, &path).await?;
            self.probe_reading(lane, &path).await?;
            // Whatever comes instead, objects that fit the staging do without.
            let parts =
                self.probe_parts(lane).await.map_err(|failure| self.without_parts(failure.to_string()));
            Ok(Conditions { create, replace, parts: parts.is_ok() })
        };
        let found = found.await;
        let removed = self.remove(lane, &path).await;
        let conditions = found?;
        removed?;
        Ok(conditions)
    }

    /// Whether a stale tag is refused, and the right one is not.
    async fn probe_replacement(&self, lane: &Lane, path: &object_store::path::Path) -> Result<bool, Failure> {
        let put = |tag| self.put(lane, path, PutPayload::from_static(BODY), Only::IfMatch(tag));
        let stale = match put(Tag::of_nothing()).await {
            Ok(Put::Refused) => true,
            Ok(Put::Stored(_)) => false,
            Err(failure) if failure.class == Class::Unknown => false,
            Err(failure) => return Err(failure),
        };
        let Some(tag) = self.head(lane, path).await?.and_then(|head| head.tag) else { return Ok(false) };
        Ok(stale && matches!(put(tag).await?, Put::Stored(_)))
    }

    /// Reads a range back, with the mark.
    async fn probe_reading(&self, lane: &Lane, path: &object_store::path::Path) -> Result<(), Failure> {
        let unfit = |what: &str| Failure::local(Class::Unknown, what.to_owned());
        let head = self.head(lane, path).await?;
        if head.is_none_or(|head| head.mark.is_none()) {
            return Err(unfit(
                "it does not keep metadata (x-amz-meta-*), by which an upload knows itself again",
            ));
        }
        let range = 9..14;
        let options = GetOptions { range: Some(GetRange::Bounded(range.clone())), ..GetOptions::default() };
        let Some(result) = self.get(lane, path, &options).await? else {
            return Err(unfit("what was just uploaded cannot be read"));
        };
        let whole = result.range == range;
        let read = result.bytes().await;
        if !whole || !read.is_ok_and(|read| read == BODY[9..14]) {
            return Err(unfit("a range that is read back differs from what was uploaded"));
        }
        Ok(())
    }
}
