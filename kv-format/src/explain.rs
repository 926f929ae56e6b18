//! What an operator asks when two engines do not share: everything that a chunk's name is made of, and the first thing in which two
//! sequences differ.
//!
//! Keys are digests: two that differ say nothing about why. What went into them does, and both sides can compute it. No text form of
//! anything here, `Debug` included, shows a tenant's salt.

use std::fmt;

use crate::{Chunk, ChunkKey, Difference, Extra, Namespace, NamespaceDigest, ObjectName, Result, chunks};

/// Everything that determines the names of a sequence's objects; its text form lists components and chunks.
#[derive(Clone, PartialEq)]
pub struct Explanation<'a> {
    namespace: &'a Namespace,
    tokens: &'a [u32],
    extras: &'a [Extra],
    chunks: Vec<Chunk>,
}

/// One chunk and all that its key and its objects' names are made of.
#[derive(Clone, PartialEq)]
pub struct ChunkExplanation<'a> {
    /// The namespace, whose components [`Namespace::components`] lists.
    pub namespace: &'a Namespace,
    /// Index, key, parent, positions of the tokens.
    pub chunk: Chunk,
    /// Inputs besides tokens that begin in the chunk.
    pub extras: &'a [Extra],
    /// Names of its objects, by slice.
    pub objects: Vec<ObjectName>,
}

/// In what two explained sequences differ. Its text form begins with the first difference: the one that alone makes every lookup
/// from there on miss.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Comparison {
    /// Components of the namespaces, in canonical order. With one there, no key is the same. The chunk size is among them.
    pub components: Vec<Difference>,
    /// Where the sequences part, whatever the namespaces.
    pub sequence: Option<SequenceDifference>,
    /// Chunks at the beginning whose keys, and so objects, are the same.
    pub shared_chunks: u32,
}

/// Where two sequences part. `chunk` counts in our chunk size.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum SequenceDifference {
    /// A token differs.
    Token {
        /// Index of the chunk.
        chunk: u32,
        /// Position in the sequence.
        position: u32,
        /// Our token id.
        ours: u32,
        /// Their token id.
        theirs: u32,
    },
    /// An input besides tokens differs, or only one side has it.
    Extra {
        /// Index of the chunk.
        chunk: u32,
        /// Ours, if we have one here.
        ours: Option<Extra>,
        /// Theirs, if they have one here.
        theirs: Option<Extra>,
    },
    /// One sequence goes on where the other ends: the last chunk of the shorter is a tail or the last that is shared.
    End {
        /// Index of the chunk.
        chunk: u32,
        /// Tokens of our sequence.
        ours: u32,
        /// Tokens of theirs.
        theirs: u32,
    },
}

/// Explains the names of a sequence's objects.
///
/// # Errors
/// As [`chunks`].
pub fn explain<'a>(
    namespace: &'a Namespace,
    tokens: &'a [u32],
    extras: &'a [Extra],
) -> Result<Explanation<'a>> {
    Ok(Explanation { namespace, tokens, extras, chunks: chunks(namespace, tokens, extras)? })
}

impl<'a> Explanation<'a> {
    /// The namespace.
    pub fn namespace(&self) -> &'a Namespace {
        self.namespace
    }

    /// The chunks.
    pub fn chunks(&self) -> &[Chunk] {
        &self.chunks
    }

    /// The chunk with an index.
    pub fn chunk(&self, index: u32) -> Option<ChunkExplanation<'a>> {
        let chunk = self.chunks.get(index as usize)?.clone();
        let within = |position| self.extras.partition_point(|extra| extra.position < position);
        let extras = &self.extras[within(chunk.tokens.start)..within(chunk.tokens.end)];
        let name = |slice| ObjectName {
            namespace: self.namespace.digest(),
            key: chunk.key,
            chunk_index: chunk.index,
            slice,
        };
        let objects = (0..).zip(self.namespace.slices().slices()).map(|(slice, _)| name(slice)).collect();
        Some(ChunkExplanation { namespace: self.namespace, chunk, extras, objects })
    }

    /// The chunk with a key, if it is one of this sequence in this namespace.
    pub fn find(&self, key: ChunkKey) -> Option<ChunkExplanation<'a>> {
        self.chunks.iter().find(|chunk| chunk.key == key).and_then(|chunk| self.chunk(chunk.index))
    }

    /// In what the two differ.
    pub fn compare(&self, theirs: &Explanation<'_>) -> Comparison {
        let mut components = self.namespace.differences(theirs.namespace);
        let order = |difference: &Difference| {
            self.namespace
                .components()
                .iter()
                .position(|c| c.name == difference.component)
                .unwrap_or(usize::MAX)
        };
        components.sort_by_key(order);
        let same = self.chunks.iter().zip(&theirs.chunks).take_while(|(a, b)| a.key == b.key).count();
        Comparison {
            components,
            sequence: self.sequence_difference(theirs),
            // A sequence has fewer than 2^32 chunks, as it has tokens.
            shared_chunks: u32::try_from(same).unwrap_or(u32::MAX),
        }
    }

    fn sequence_difference(&self, theirs: &Explanation<'_>) -> Option<SequenceDifference> {
        let chunk = |position: u32| position / self.namespace.chunk_tokens();
        let token = (0..)
            .zip(self.tokens.iter().zip(theirs.tokens))
            .find(|(_, (ours, theirs))| ours != theirs)
            .map(|(position, (ours, theirs))| SequenceDifference::Token {
                chunk: chunk(position),
                position,
                ours: *ours,
                theirs: *theirs,
            });
        let length = |tokens: &[u32]| u32::try_from(tokens.len()).unwrap_or(u32::MAX);
        let (ours, end) = (length(self.tokens), length(theirs.tokens));
        let end =
            (ours != end).then(|| SequenceDifference::End { chunk: chunk(ours.min(end)), ours, theirs: end });
        // `None` is the end of both lists, which differs from nothing.
        let at = (0..self.extras.len().max(theirs.extras.len()))
            .find(|index| self.extras.get(*index) != theirs.extras.get(*index));
        let extra = at.and_then(|index| {
            let (ours, theirs) = (self.extras.get(index).copied(), theirs.extras.get(index).copied());
            let position = ours.into_iter().chain(theirs).map(|extra| extra.position).min()?;
            // At another position it is another input: the earlier one is missing on the other side.
            let (ours, theirs) = (here(ours, position), here(theirs, position));
            Some(SequenceDifference::Extra { chunk: chunk(position), ours, theirs })
        });
        [token, extra, end].into_iter().flatten().min_by_key(SequenceDifference::position)
    }
}

/// The input, if it begins at this position.
fn here(extra: Option<Extra>, position: u32) -> Option<Extra> {
    extra.filter(|extra| extra.position == position)
}

impl SequenceDifference {
    /// Position in the sequence of the first token that is concerned.
    pub fn position(&self) -> u32 {
        match self {
            Self::Token { position, .. } => *position,
            Self::Extra { ours, theirs, .. } => ours.or(*theirs).map_or(0, |extra| extra.position),
            Self::End { ours, theirs, .. } => *ours.min(theirs),
        }
    }

    /// Index of the chunk, in our chunk size.
    pub fn chunk(&self) -> u32 {
        match self {
            Self::Token { chunk, .. } | Self::Extra { chunk, .. } | Self::End { chunk, .. } => *chunk,
        }
    }
}

impl Comparison {
    /// Whether all names are the same.
    pub fn is_same(&self) -> bool {
        self.components.is_empty() && self.sequence.is_none()
    }
}

impl fmt::Display for Explanation<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_namespace(f, self.namespace)?;
        writeln!(f, "sequence of {} tokens in {} chunks", self.tokens.len(), self.chunks.len())?;
        self.chunks.iter().try_for_each(|chunk| write_chunk(f, chunk))
    }
}

impl fmt::Display for ChunkExplanation<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_namespace(f, self.namespace)?;
        write_chunk(f, &self.chunk)?;
        match self.chunk.parent {
            Some(parent) => writeln!(f, "  parent  {parent}")?,
            None => writeln!(f, "  parent  (none: the first chunk)")?,
        }
        for extra in self.extras {
            writeln!(f, "  extra   {} at token {}", extra.digest, extra.position)?;
        }
        for object in &self.objects {
            writeln!(f, "  object  {object}")?;
        }
        Ok(())
    }
}

impl fmt::Display for Comparison {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_same() {
            return write!(f, "the same: all {} chunks have the same names", self.shared_chunks);
        }
        let mut separator = "";
        for Difference { component, ours, theirs } in &self.components {
            write!(
                f,
                "{separator}namespace component {component}: ours {}, theirs {}",
                shown(ours),
                shown(theirs)
            )?;
            separator = "\n";
        }
        if let Some(difference) = &self.sequence {
            write!(f, "{separator}{difference}")?;
            separator = "\n";
        }
        write!(f, "{separator}{} chunks at the beginning have the same names", self.shared_chunks)
    }
}

impl fmt::Display for SequenceDifference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let digest = |extra: &Option<Extra>| match extra {
            Some(extra) => extra.digest.to_string(),
            None => "(none)".to_owned(),
        };
        match self {
            Self::Token { chunk, position, ours, theirs } => {
                write!(f, "chunk {chunk}, token {position}: ours {ours}, theirs {theirs}")
            }
            Self::Extra { chunk, ours, theirs } => {
                let position = self.position();
                write!(
                    f,
                    "chunk {chunk}, extra at token {position}: ours {}, theirs {}",
                    digest(ours),
                    digest(theirs)
                )
            }
            Self::End { chunk, ours, theirs } => {
                write!(f, "chunk {chunk}: our sequence ends after {ours} tokens, theirs after {theirs}")
            }
        }
    }
}

impl fmt::Debug for Explanation<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_debug(f, "Explanation", self.namespace.digest(), &self.chunks)
    }
}

impl fmt::Debug for ChunkExplanation<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_debug(f, "ChunkExplanation", self.namespace.digest(), &self.chunk)
    }
}

/// A namespace's own `Debug` holds the tenant's salt, so its digest stands for it.
fn write_debug(
    f: &mut fmt::Formatter<'_>,
    name: &str,
    namespace: NamespaceDigest,
    chunks: &dyn fmt::Debug,
) -> fmt::Result {
    f.debug_struct(name).field("namespace", &namespace).field("chunks", chunks).finish_non_exhaustive()
}

fn write_namespace(f: &mut fmt::Formatter<'_>, namespace: &Namespace) -> fmt::Result {
    writeln!(f, "namespace {}", namespace.digest())?;
    let components = namespace.components();
    components
        .iter()
        .try_for_each(|component| writeln!(f, "  {:20} {}", component.name, shown(&component.shown)))
}

fn write_chunk(f: &mut fmt::Formatter<'_>, chunk: &Chunk) -> fmt::Result {
    let Chunk { index, key, tokens, tail, .. } = chunk;
    let tail = if *tail { " (tail)" } else { "" };
    writeln!(f, "chunk {index}{tail}: {} tokens, {}..{}", tokens.len(), tokens.start, tokens.end)?;
    writeln!(f, "  key     {key}")
}

/// An empty value is shown as such.
fn shown(value: &str) -> &str {
    if value.is_empty() { "(empty)" } else { value }
}
