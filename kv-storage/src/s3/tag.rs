//! What a conditional replacement names: S3 and Azure compare the entity tag, Google the generation.

use std::fmt;

use object_store::{ObjectMeta, PutResult, UpdateVersion};

/// One upload under a name, as the server tells it apart from others.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Tag {
    etag: String,
    /// Google's generation, or the version of a bucket that keeps versions.
    generation: Option<String>,
}

/// The text that records' versions are, read back by [`Tag::parse`].
impl fmt::Display for Tag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.generation {
            Some(generation) => write!(f, "{}#{generation}", self.etag),
            None => f.write_str(&self.etag),
        }
    }
}

impl Tag {
    /// Of a name's object now.
    pub(super) fn of(meta: &ObjectMeta) -> Option<Self> {
        Some(Self { etag: meta.e_tag.clone()?, generation: meta.version.clone() })
    }

    /// Of what was just uploaded.
    pub(super) fn of_upload(stored: PutResult) -> Option<Self> {
        Some(Self { etag: stored.e_tag?, generation: stored.version })
    }

    /// One that no object has: MD5 of nothing that anybody stores, and a generation of 1970.
    pub(super) fn of_nothing() -> Self {
        Self { etag: "\"00000000000000000000000000000000\"".to_owned(), generation: Some("1".to_owned()) }
    }

    /// The tag that a text stands for; `None` for what was never given out, or cannot be told from it: servers take such a header amiss.
    pub(super) fn parse(text: &str) -> Option<Self> {
        let (etag, generation) = match text.rsplit_once('#') {
            Some((etag, generation)) => (etag, Some(generation.to_owned())),
            None => (text, None),
        };
        let quoted = etag.len() > 2 && etag.starts_with('"') && etag.ends_with('"');
        quoted.then(|| Self { etag: etag.to_owned(), generation })
    }

    /// Whether it is certainly another upload's. A server may keep a generation to itself in some of its answers.
    pub(super) fn differs(&self, other: &Self) -> bool {
        let generations = self.generation.as_ref().zip(other.generation.as_ref());
        self.etag != other.etag || generations.is_some_and(|(one, other)| one != other)
    }
}

impl From<Tag> for UpdateVersion {
    fn from(tag: Tag) -> Self {
        Self { e_tag: Some(tag.etag), version: tag.generation }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_are_read_back_and_others_are_no_tags() {
        for generation in [None, Some("1700000000000000".to_owned())] {
            let tag = Tag { etag: "\"abc#1\"".to_owned(), generation: generation.clone() };
            // An entity tag with a hash of its own can only be told from a generation with one.
            assert_eq!(Tag::parse(&tag.to_string()), generation.is_some().then_some(tag));
        }
        for text in ["", "\"\"", "abc", "abc#1", "nobody's", "\"abc"] {
            assert_eq!(Tag::parse(text), None, "{text}");
        }
        let tag = |etag: &str, generation: Option<&str>| Tag {
            etag: etag.to_owned(),
            generation: generation.map(str::to_owned),
        };
        assert!(tag("a", None).differs(&tag("b", None)));
        assert!(tag("a", Some("1")).differs(&tag("a", Some("2"))));
        assert!(!tag("a", Some("1")).differs(&tag("a", None)));
    }
}
