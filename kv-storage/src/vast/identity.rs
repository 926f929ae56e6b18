//! One object seen by paths of several kinds.
//!
//! A mount and an S3 endpoint mark an object differently, and nothing that both show tells two objects of one length apart. But no mark is
//! ever used for two objects of one name. So if one kind shows the same mark before and after another kind showed its own, both saw the
//! same object in between: the two marks belong together, and a read by either can go on by the other.

use kv_format::ObjectName;

use super::Vast;
use super::by_another::Asked;
use super::path::key_of;
use crate::{Error, ErrorKind, KvStore, ObjectMeta, Operation, Result, Version};

/// How often an object may be replaced while it is looked at.
const LOOKS: usize = 3;

/// One object, and how it is marked by each kind of path.
#[derive(Debug, Clone)]
pub(super) struct Identity {
    /// As the store shows it.
    pub(super) meta: ObjectMeta,
    /// By kind; `None` for those that did not answer.
    marks: Vec<Option<Version>>,
}

impl Identity {
    /// Whether a path of `kind` may be asked for the object, and shows it if it answers with this.
    pub(super) fn known_to(&self, kind: usize) -> Option<&Version> {
        self.marks.get(kind)?.as_ref()
    }
}

impl Vast {
    /// Whether versions differ between the paths.
    pub(super) fn has_kinds(&self) -> bool {
        self.shared.kinds.len() > 1
    }

    /// What a path of `kind` knows of an object, as this store shows it.
    pub(super) fn shown(&self, kind: usize, meta: ObjectMeta) -> ObjectMeta {
        ObjectMeta { version: self.tagged(kind, meta.version), ..meta }
    }

    /// A version with the kind that gave it, where there are several.
    pub(super) fn tagged(&self, kind: usize, version: Version) -> Version {
        match self.has_kinds() {
            true => Version(format!("{}:{}", self.shared.kinds[kind], version.0)),
            false => version,
        }
    }

    /// The kind that gave a version, and its own version; `None` for a version that this store never gave.
    pub(super) fn untagged(&self, version: &Version) -> Option<(usize, Version)> {
        if !self.has_kinds() {
            return Some((0, version.clone()));
        }
        let (kind, version) = version.0.split_once(':')?;
        let kind = self.shared.kinds.iter().position(|known| known == kind)?;
        Some((kind, Version(version.to_owned())))
    }

    /// What a path of some kind, the first that answers, or of one kind knows of an object, untagged.
    pub(super) async fn head_by(
        &self,
        name: &ObjectName,
        asked: Asked,
    ) -> Result<(usize, Option<ObjectMeta>)> {
        let name = *name;
        let call = move |gate: crate::HealthGate| async move { gate.head(&name).await };
        let answered = self.by_any(Operation::Head, key_of(&name), asked, call).await?;
        Ok((answered.path.kind, answered.answer))
    }

    /// How every kind marks the object.
    ///
    /// # Errors
    /// Those of the paths; `Unavailable` if it is replaced again and again.
    pub(super) async fn identify(&self, name: &ObjectName) -> Result<Option<Identity>> {
        for _ in 0..LOOKS {
            let (first, Some(meta)) = self.head_by(name, Asked::First(0)).await? else { return Ok(None) };
            let mut marks = vec![None; self.shared.kinds.len()];
            for kind in (0..marks.len()).filter(|kind| *kind != first) {
                if let Ok((_, Some(other))) = self.head_by(name, Asked::Only(kind)).await {
                    marks[kind] = Some(other.version).filter(|_| other.len == meta.len);
                }
            }
            if marks.iter().any(Option::is_some) {
                match self.head_by(name, Asked::Only(first)).await? {
                    (_, Some(again)) if again.version == meta.version => {}
                    (_, None) => return Ok(None),
                    _ => continue,
                }
            }
            marks[first] = Some(meta.version.clone());
            return Ok(Some(Identity { meta: self.shown(first, meta), marks }));
        }
        Err(self.replaced(name))
    }

    pub(super) fn replaced(&self, name: &ObjectName) -> Error {
        let message = format!("{name} was replaced while it was read: read it again");
        Error::new(ErrorKind::Unavailable, self, message)
    }
}
