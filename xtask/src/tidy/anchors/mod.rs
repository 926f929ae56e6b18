//! Sentences that promise something carry an anchor, and a test cites it: `//= SPEC.md#header-magic`.
//!
//! A promise without a test is a wish, and a test that cites a sentence which is gone tests something else by now.

use super::Violation;
use super::tree::Tree;
use std::collections::BTreeMap;

/// A document, and which of its sentences are promises.
struct Document {
    path: &'static str,
    is_promise: fn(&Block) -> bool,
    promise: &'static str,
}

const DOCUMENTS: [Document; 2] = [
    Document {
        path: "kv-format/SPEC.md",
        is_promise: Block::says_must,
        promise: "a paragraph or list item with MUST",
    },
    Document { path: "kv-storage/SEMANTICS.md", is_promise: |block| block.is_item, promise: "a list item" },
];

/// A paragraph, a list item, or the rows of a table.
#[derive(Debug, PartialEq, Eq)]
struct Block {
    line: usize,
    is_item: bool,
    /// Without the list marker.
    text: String,
}

impl Block {
    /// Whether MUST stands outside of code spans, where it would be a word under discussion.
    fn says_must(&self) -> bool {
        self.text.split('`').step_by(2).any(|part| super::mask::has_word(part, "MUST"))
    }

    /// The name in a leading `` `[name]` ``.
    fn anchor(&self) -> Option<&str> {
        let (name, _) = self.text.strip_prefix("`[")?.split_once("]`")?;
        let plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
        (!name.is_empty() && name.bytes().all(plain)).then_some(name)
    }
}

/// One `//= FILE.md#anchor` line.
struct Citation<'a> {
    path: &'a str,
    line: usize,
    document: &'a str,
    anchor: &'a str,
    in_test: bool,
}

/// Checks the documents against the tests and the tests against the documents.
pub(super) fn check(tree: &Tree) -> Vec<Violation> {
    let citations: Vec<Citation<'_>> = tree.rust().flat_map(|(path, text)| citations(path, text)).collect();
    let mut found = Vec::new();
    for document in &DOCUMENTS {
        match tree.text(document.path) {
            None => found.push(Violation::new(document.path, 1, "is missing: the promises stand there")),
            Some(text) => check_document(document, text, &citations, &mut found),
        }
    }
    for citation in &citations {
        if DOCUMENTS.iter().all(|document| name(document.path) != citation.document) {
            let text = format!("cites {}, expected SPEC.md or SEMANTICS.md", citation.document);
            found.push(Violation::new(citation.path, citation.line, text));
        }
    }
    found
}

fn check_document(document: &Document, text: &str, citations: &[Citation<'_>], found: &mut Vec<Violation>) {
    let name = name(document.path);
    let citations: Vec<&Citation<'_>> =
        citations.iter().filter(|citation| citation.document == name).collect();
    let mut anchors = BTreeMap::new();
    for block in blocks(text) {
        let Some(anchor) = block.anchor() else {
            if (document.is_promise)(&block) {
                let text = format!(
                    "{} begins with an anchor such as `[header-magic]`, this one does not",
                    document.promise
                );
                found.push(Violation::new(document.path, block.line, text));
            }
            continue;
        };
        if let Some(first) = anchors.insert(anchor.to_owned(), block.line) {
            let text = format!("the anchor {anchor} stands already in line {first}");
            found.push(Violation::new(document.path, block.line, text));
        }
        if (document.is_promise)(&block) && !citations.iter().any(|c| c.in_test && c.anchor == anchor) {
            let elsewhere = citations.iter().find(|citation| citation.anchor == anchor);
            let hint =
                elsewhere.map_or(String::new(), |c| format!(" ({}:{} is not in test code)", c.path, c.line));
            let text = format!("no test cites {anchor} with a line //= {name}#{anchor}{hint}");
            found.push(Violation::new(document.path, block.line, text));
        }
    }
    for citation in citations.iter().filter(|citation| !anchors.contains_key(citation.anchor)) {
        let text = format!("cites {name}#{}, which {} does not have", citation.anchor, document.path);
        found.push(Violation::new(citation.path, citation.line, text));
    }
}

fn name(path: &str) -> &str {
    path.rsplit('/').next().unwrap_or(path)
}

/// The citations in one Rust file.
fn citations<'a>(path: &'a str, text: &'a str) -> Vec<Citation<'a>> {
    let mut in_test = is_test_file(path);
    let mut found = Vec::new();
    for (line, content) in (1..).zip(text.lines()) {
        let content = content.trim();
        in_test |= content == "#[cfg(test)]";
        if let Some((document, anchor)) = content.strip_prefix("//= ").and_then(|cited| cited.split_once('#'))
        {
            found.push(Citation { path, line, document, anchor, in_test });
        }
    }
    found
}

/// A file of tests from its first line on.
fn is_test_file(path: &str) -> bool {
    let mut folders: Vec<&str> = path.split('/').collect();
    let file = folders.pop();
    folders.iter().any(|folder| matches!(*folder, "tests" | "conformance"))
        || matches!(file, Some("tests.rs" | "conformance.rs"))
}

/// The blocks of a Markdown text; headings and fenced code are none.
fn blocks(text: &str) -> Vec<Block> {
    let mut blocks: Vec<Block> = Vec::new();
    let mut open = false;
    let mut fence = None;
    for (line, raw) in (1..).zip(text.lines()) {
        let content = raw.trim();
        let marker = ["```", "~~~"].into_iter().find(|marker| content.starts_with(marker));
        if let Some(inside) = fence {
            if marker == Some(inside) {
                fence = None;
            }
            continue;
        }
        if marker.is_some() {
            fence = marker;
            open = false;
            continue;
        }
        if content.is_empty() || content.starts_with('#') {
            open = false;
            continue;
        }
        match (list_item(content), blocks.last_mut().filter(|_| open)) {
            (Some(text), _) => blocks.push(Block { line, is_item: true, text: text.into() }),
            (None, Some(block)) => {
                block.text.push('\n');
                block.text.push_str(content);
            }
            (None, None) => blocks.push(Block { line, is_item: false, text: content.into() }),
        }
        open = true;
    }
    blocks
}

/// What follows the marker of a list item.
fn list_item(content: &str) -> Option<&str> {
    let number = content.trim_start_matches(|c: char| c.is_ascii_digit());
    let text = if number.len() < content.len() {
        number.strip_prefix(['.', ')'])?
    } else {
        content.strip_prefix(['-', '*', '+'])?
    };
    (text.is_empty() || text.starts_with(' ')).then(|| text.trim_start())
}

#[cfg(test)]
mod tests;
