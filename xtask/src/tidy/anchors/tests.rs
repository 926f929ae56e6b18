//! Made-up documents and tests, each breaking one rule.

use super::*;
use crate::tidy::tree::of;

const SPEC: &str = "kv-format/SPEC.md";
const SEMANTICS: &str = "kv-storage/SEMANTICS.md";
/// In two halves: a line of this file that begins with it would be a citation.
const CITE: &str = concat!("//", "= ");

fn found(spec: &str, semantics: &str, tests: &[(&str, String)]) -> Vec<String> {
    let mut files = vec![(SPEC, spec), (SEMANTICS, semantics)];
    files.extend(tests.iter().map(|(path, text)| (*path, text.as_str())));
    check(&of(&files)).iter().map(ToString::to_string).collect()
}

fn cites(path: &'static str, anchor: &str) -> (&'static str, String) {
    (path, format!("//! T.\n\n{CITE}{anchor}\n#[test]\nfn t() {{}}\n"))
}

const GOOD: &str =
    "# Spec\n\nA reader may.\n\n- `[magic]` The magic MUST be `KV`,\n  always.\n- It may be long.\n";

#[test]
fn a_cited_promise_is_fine_wherever_the_test_is() {
    let none: Vec<String> = Vec::new();
    for path in [
        "kv-format/tests/a.rs",
        "kv-format/tests/deep/a.rs",
        "kv-device/src/conformance/a.rs",
        "a/src/b/tests.rs",
    ] {
        assert_eq!(found(GOOD, "", &[cites(path, "SPEC.md#magic")]), none, "{path}");
    }
    let module = format!("//! M.\n#[cfg(test)]\nmod tests {{\n    {CITE}SPEC.md#magic\n}}\n");
    assert_eq!(found(GOOD, "", &[("kv-format/src/header.rs", module)]), none);
}

#[test]
fn a_citation_outside_of_tests_does_not_count() {
    let text = found(GOOD, "", &[cites("kv-format/src/header.rs", "SPEC.md#magic")]);
    let expected = "kv-format/SPEC.md:5: no test cites magic with a line //= SPEC.md#magic \
                    (kv-format/src/header.rs:3 is not in test code)";
    assert_eq!(text, [expected]);
}

#[test]
fn a_promise_without_an_anchor_is_found_in_every_kind_of_block() {
    for (block, line) in [
        ("It MUST be so.", 3),
        ("It is\nso and MUST be.", 3),
        ("- first\n- it MUST", 4),
        ("1. it MUST", 3),
        ("| a | MUST |\n|---|---|", 3),
        ("see `[x]` which MUST", 3),
        ("`[Not An Anchor]` it MUST", 3),
        ("- `[a]` first\n\n  and a paragraph that MUST", 5),
    ] {
        let text = found(&format!("# T\n\n{block}\n"), "", &[]);
        assert_eq!(text.len(), 1, "{block:?}: {text:?}");
        assert!(text[0].starts_with(&format!("kv-format/SPEC.md:{line}: ")), "{block:?}: {text:?}");
    }
}

#[test]
fn words_under_discussion_headings_and_code_promise_nothing() {
    let spec = "# What MUST be\n\nThe word `MUST` is a promise.\n\n```text\nMUST\n\n- MUST\n```\n\nMUSTARD\n";
    assert_eq!(found(spec, "", &[]), Vec::<String>::new());
}

#[test]
fn unknown_anchors_unknown_documents_and_duplicates_are_found() {
    let test = cites("kv-format/tests/a.rs", "SPEC.md#magic");
    let text = found(GOOD, "", &[test.clone(), cites("kv-format/tests/b.rs", "SPEC.md#gone")]);
    assert_eq!(text, ["kv-format/tests/b.rs:3: cites SPEC.md#gone, which kv-format/SPEC.md does not have"]);

    let text = found(GOOD, "", &[test.clone(), cites("kv-format/tests/b.rs", "OTHER.md#magic")]);
    assert_eq!(text, ["kv-format/tests/b.rs:3: cites OTHER.md, expected SPEC.md or SEMANTICS.md"]);

    let text = found(&format!("{GOOD}- `[magic]` again\n"), "", &[test]);
    assert_eq!(text, ["kv-format/SPEC.md:8: the anchor magic stands already in line 5"]);
}

#[test]
fn every_sentence_of_the_semantics_is_a_test() {
    let semantics = "Some words.\n\n- `[atomic]` A reader sees all or nothing.\n* without an anchor\n";
    let text = found("", semantics, &[]);
    assert_eq!(text.len(), 2, "{text:?}");
    assert!(text[0].starts_with("kv-storage/SEMANTICS.md:3: no test cites atomic"), "{text:?}");
    assert!(text[1].starts_with("kv-storage/SEMANTICS.md:4: a list item begins with an anchor"), "{text:?}");
    let cited = [cites("kv-storage/src/conformance/publish.rs", "SEMANTICS.md#atomic")];
    assert_eq!(found("", "- `[atomic]` All or nothing.\n", &cited), Vec::<String>::new());
}

#[test]
fn a_missing_document_is_found() {
    let text: Vec<String> = check(&of(&[(SPEC, "")])).iter().map(ToString::to_string).collect();
    assert_eq!(text, ["kv-storage/SEMANTICS.md:1: is missing: the promises stand there"]);
}
