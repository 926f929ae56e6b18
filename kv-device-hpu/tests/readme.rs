//! The README's table of rules is whole: each has a source, a test that breaks it, and a sabotage that is noticed; and no test is missing.
#![expect(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

const README: &str = include_str!("../README.md");
const MISUSE: &str = include_str!("misuse.rs");
const SABOTAGE: &str = include_str!("sabotage.rs");
const BREAKS: &str = include_str!("../src/sabotage.rs");

/// The cells of each rule.
fn rules() -> Vec<[&'static str; 4]> {
    let (_, table) =
        README.split_once("| rule | source | misuse test | sabotage |\n|---|---|---|---|\n").unwrap();
    let rows = table.lines().take_while(|line| line.starts_with('|'));
    let cells = |row: &'static str| {
        let cells: Vec<&str> = row.trim_matches('|').split('|').map(str::trim).collect();
        <[&str; 4]>::try_from(cells).unwrap_or_else(|cells| panic!("not four cells: {cells:?}"))
    };
    rows.map(cells).collect()
}

#[test]
fn every_rule_has_a_source_a_misuse_and_a_sabotage_that_exist() {
    let rules = rules();
    assert!(rules.len() >= 16);
    for [rule, source, misuse, sabotage] in rules {
        assert!(!rule.is_empty() && !source.is_empty(), "{rule}");
        let (misuse, sabotage) = (misuse.trim_matches('`'), sabotage.trim_matches('`'));
        assert!(MISUSE.contains(&format!("fn {misuse}()")), "{rule}: {misuse}");
        assert!(SABOTAGE.contains(&format!(": {sabotage};")), "{rule}: {sabotage}");
    }
}

#[test]
fn every_misuse_and_every_sabotage_stands_in_the_table() {
    let named = |name: &str| rules().iter().flatten().any(|cell| cell.trim_matches('`') == name);
    for line in MISUSE.lines() {
        if let Some(test) = line.strip_prefix("fn ").and_then(|rest| rest.strip_suffix("() {")) {
            assert!(named(test), "{test}");
        }
    }
    let (_, variants) = BREAKS.split_once("pub enum Break {").unwrap();
    let (variants, _) = variants.split_once('}').unwrap();
    for variant in variants.lines().filter_map(|line| line.trim().strip_suffix(',')) {
        assert!(named(variant), "{variant}");
    }
}
