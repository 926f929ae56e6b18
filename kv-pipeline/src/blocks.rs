//! Which blocks hold a sequence, for each KV group of the model: engines page the groups apart.

/// Block ids by KV group, as a request borrows them.
#[derive(Debug, Clone, Default)]
pub(crate) struct GroupBlocks<'a>(Vec<(u32, &'a [u32])>);

/// Block ids by KV group, as an operation owns them.
#[derive(Debug, Clone, Default)]
pub(crate) struct SequenceBlocks(Vec<(u32, Vec<u32>)>);

impl<'a> GroupBlocks<'a> {
    /// Gives the blocks of a group, in place of those that were given before.
    pub(crate) fn set(&mut self, group: u32, blocks: &'a [u32]) {
        self.0.retain(|(other, _)| *other != group);
        self.0.push((group, blocks));
    }

    /// The blocks of a group: none unless some were given.
    pub(crate) fn of(&self, group: u32) -> &'a [u32] {
        self.0.iter().find(|(other, _)| *other == group).map_or(&[], |(_, blocks)| *blocks)
    }

    /// A copy for the operation.
    pub(crate) fn to_owned(&self) -> SequenceBlocks {
        SequenceBlocks(self.0.iter().map(|(group, blocks)| (*group, blocks.to_vec())).collect())
    }
}

impl SequenceBlocks {
    /// The blocks of a group: none unless some were given.
    pub(crate) fn of(&self, group: u32) -> &[u32] {
        self.0.iter().find(|(other, _)| *other == group).map_or(&[], |(_, blocks)| blocks)
    }
}
