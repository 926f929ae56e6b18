//! The README's table of rules is whole: each has a source, a test that breaks it, and a sabotage that is found; and none is missing.
#![expect(clippy::unwrap_used, clippy::panic, reason = "the functions that tests share are test code too")]

const README: &str = include_str!("../README.md");
const MISUSE: &str = include_str!("misuse.rs");
const SABOTAGE: &str = include_str!("sabotage.rs");
const VARIANTS: &str = include_str!("../src/sabotage.rs");
const HEAD: &str = "| rule | source | misuse test, code | sabotage | found by |\n|---|---|---|---|---|\n";

/// The cells of each rule.
fn rules() -> Vec<[&'static str; 5]> {
    let (_, table) = README.split_once(HEAD).unwrap();
    let rows = table.lines().take_while(|line| line.starts_with('|'));
    let cells = |row: &'static str| {
        let cells: Vec<&str> = row.trim_matches('|').split('|').map(str::trim).collect();
        <[&str; 5]>::try_from(cells).unwrap_or_else(|cells| panic!("not five cells: {cells:?}"))
    };
    rows.map(cells).collect()
}

/// What stands first in backquotes.
fn name(cell: &str) -> &str {
    cell.split('`').nth(1).unwrap_or_else(|| panic!("no name in {cell}"))
}

#[test]
fn every_rule_has_a_source_a_misuse_and_a_sabotage_that_exist() {
    for [rule, source, misuse, sabotage, found] in rules() {
        assert!(!rule.is_empty() && !source.is_empty() && !found.is_empty(), "{rule}");
        assert!(MISUSE.contains(&format!("fn {}()", name(misuse))), "{rule}: {misuse}");
        assert!(misuse.contains(": "), "{rule}: which code, {misuse}");
        assert!(SABOTAGE.contains(&format!("Sabotage::{}", name(sabotage))), "{rule}: {sabotage}");
    }
}

#[test]
fn every_misuse_and_every_sabotage_stands_in_the_table() {
    let rules = rules();
    let tests = MISUSE.split("#[test]\nfn ").skip(1).map(|rest| rest.split('(').next().unwrap());
    for test in tests {
        assert!(rules.iter().any(|[_, _, misuse, ..]| misuse.contains(&format!("`{test}`"))), "{test}");
    }
    let (_, variants) = VARIANTS.split_once("pub enum Sabotage {").unwrap();
    let (variants, _) = variants.split_once('}').unwrap();
    for variant in variants.lines().filter_map(|line| line.trim().strip_suffix(',')) {
        assert!(rules.iter().any(|[_, _, _, sabotage, _]| name(sabotage) == variant), "{variant}");
    }
}
