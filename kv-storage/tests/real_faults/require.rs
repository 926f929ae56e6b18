//! What a test does where the machine lacks what it needs.

/// Says on stderr why a test is skipped; fails where `KV_REQUIRE`, a list with commas, has `faults`.
pub(crate) fn skip<T>(why: &str) -> Option<T> {
    let required = std::env::var("KV_REQUIRE").unwrap_or_default();
    assert!(!required.split(',').any(|name| name.trim() == "faults"), "KV_REQUIRE=faults: {why}");
    eprintln!("SKIPPED: {why}");
    None
}
