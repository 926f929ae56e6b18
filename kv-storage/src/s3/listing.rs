//! Listing: S3's order is that of the text, ours that of the names; they differ only among the objects of one key.

use std::sync::Arc;

use futures_util::{StreamExt, TryStreamExt};
use kv_format::{ChunkKey, NamespaceDigest, ObjectName};
use object_store::path::Path;

use super::core::{Core, Head};
use super::failure::{Class, Failure};
use super::lanes::Lane;
use super::observe::Observed;
use crate::{ObjectMeta, Result};

/// Objects whose versions are asked for at a time.
const HEADS: usize = 16;

impl Core {
    /// The first `limit` objects behind `after`. A listing does not show marks, which versions are made of, so each object is asked for its
    /// own; what is gone by then is left out.
    pub(super) async fn list_objects(
        self: Arc<Self>,
        lane: Lane,
        namespace: NamespaceDigest,
        after: Option<ObjectName>,
        limit: usize,
    ) -> Result<Vec<ObjectMeta>> {
        let mut behind = match after {
            Some(after) if after.namespace > namespace => return Ok(Vec::new()),
            Some(after) if after.namespace == namespace => Some(after),
            _ => None,
        };
        let mut found = Vec::new();
        loop {
            let wanted = limit - found.len();
            let names = self.names(&lane, namespace, behind, wanted).await?;
            let complete = names.len() < wanted;
            behind = names.last().copied().or(behind);
            let heads = futures_util::stream::iter(names).map(|name| {
                let (core, lane) = (&self, &lane);
                async move {
                    let head = core.head(lane, &core.path(&name.to_string())).await;
                    head.map(|head| head.map(|Head { len, version, .. }| ObjectMeta { name, len, version }))
                }
            });
            let heads: Result<Vec<_>, Failure> = heads.buffered(HEADS).try_collect().await;
            let heads = heads.map_err(|failure| self.error(failure, &format!("list {namespace}")))?;
            found.extend(heads.into_iter().flatten());
            if complete || found.len() >= limit {
                return Ok(found);
            }
        }
    }

    /// The first `limit` names behind `after`, repeated whole when the listing breaks off.
    async fn names(
        &self,
        lane: &Lane,
        namespace: NamespaceDigest,
        after: Option<ObjectName>,
        limit: usize,
    ) -> Result<Vec<ObjectName>> {
        let (mut number, mut refreshed) = (1, false);
        loop {
            let failure = match self.names_once(lane, namespace, after, limit).await {
                Ok(names) => return Ok(names),
                Err(failure) => failure,
            };
            if !self.again(&failure, number, &mut refreshed).await {
                return Err(self.error(failure, &format!("list {namespace}")));
            }
            number += 1;
        }
    }

    async fn names_once(
        &self,
        lane: &Lane,
        namespace: NamespaceDigest,
        after: Option<ObjectName>,
        limit: usize,
    ) -> Result<Vec<ObjectName>, Failure> {
        let directory = self.path(&format!("v1/{namespace}"));
        // Just before the first name of the key: those behind `after` may stand before it in the order of the text.
        let start = after.map(|after| {
            let text = ObjectName { chunk_index: 0, slice: 0, ..after }.to_string();
            self.path(text.trim_end_matches(".0.0"))
        });
        let mut stream = match &start {
            Some(start) => lane.store.list_with_offset(Some(&directory), start),
            None => lane.store.list(Some(&directory)),
        };
        let (mut names, mut group): (Vec<ObjectName>, Vec<ObjectName>) = (Vec::new(), Vec::new());
        while names.len() < limit {
            let place = self.limits.enter().await;
            let observed = Observed::default();
            let late = self.environment.clock.sleep(self.deadlines.first_byte);
            let next = tokio::select! {
                next = observed.scope(stream.try_next()) => {
                    next.map_err(|error| Failure::new(error, observed.answer()))
                }
                () = late => Err(Failure::local(Class::Transient, "the listing stopped")),
            };
            let listed = next.inspect_err(|failure| {
                if failure.class == Class::Throttled {
                    place.throttled();
                }
            })?;
            drop(place);
            let name = listed.as_ref().map(|listed| self.name_of(&listed.location));
            let key = |name: &ObjectName| -> ChunkKey { name.key };
            let next_key = name.flatten().filter(|name| name.namespace == namespace);
            if listed.is_none()
                || next_key.is_some_and(|next| group.first().is_some_and(|of| key(of) != next.key))
            {
                group.sort_unstable();
                names.append(&mut group);
            }
            group.extend(next_key.filter(|name| after.is_none_or(|after| *name > after)));
            if listed.is_none() {
                break;
            }
        }
        names.truncate(limit);
        Ok(names)
    }

    /// The object that a key stands for, if it is one of ours.
    pub(super) fn name_of(&self, location: &Path) -> Option<ObjectName> {
        let parts = location.prefix_match(&self.prefix)?;
        let text: Vec<String> = parts.map(|part| part.as_ref().to_owned()).collect();
        text.join("/").parse().ok()
    }
}
