//! The machine and the file system, described well enough that a figure can be read next year.

use std::fs::read_to_string;
use std::path::Path;

use serde_json::{Value, json};

/// What was measured on.
pub(crate) struct Machine {
    facts: Vec<(&'static str, String)>,
}

impl Machine {
    /// Reads what the system tells; what it does not tell is `unknown`.
    pub(crate) fn describe() -> Self {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let facts = vec![
            ("cpu", field("/proc/cpuinfo", "model name")),
            ("cores", cores.to_string()),
            ("caches", caches()),
            ("memory", format!("{}, available {}", mib("MemTotal"), mib("MemAvailable"))),
            ("kernel", line("/proc/sys/kernel/osrelease")),
            (
                "huge pages",
                format!(
                    "anonymous {}; shared memory {}; reserved {}",
                    line("/sys/kernel/mm/transparent_hugepage/enabled"),
                    line("/sys/kernel/mm/transparent_hugepage/shmem_enabled"),
                    field("/proc/meminfo", "HugePages_Total"),
                ),
            ),
            ("load before", line("/proc/loadavg")),
        ];
        Self { facts }
    }

    /// Adds what is learned later.
    pub(crate) fn note(&mut self, name: &'static str, value: String) {
        self.facts.push((name, value));
    }

    pub(crate) fn facts(&self) -> &[(&'static str, String)] {
        &self.facts
    }

    pub(crate) fn to_json(&self) -> Value {
        self.facts.iter().map(|(name, value)| ((*name).to_owned(), json!(value))).collect()
    }
}

/// Huge pages that this process has now: what was asked for and what was given differ.
pub(crate) fn huge_pages_in_use() -> String {
    let rollup = "/proc/self/smaps_rollup";
    format!(
        "anonymous {} of {}; shared memory {}",
        field(rollup, "AnonHugePages"),
        field(rollup, "Rss"),
        field(rollup, "ShmemPmdMapped"),
    )
}

/// File system, device and options of the mount that holds `path`.
pub(crate) fn file_system(path: &Path) -> String {
    let mounts = read_to_string("/proc/self/mountinfo").unwrap_or_default();
    let text = path.to_string_lossy();
    let holding = mounts.lines().filter_map(|line| {
        let (before, after) = line.split_once(" - ")?;
        let point = before.split(' ').nth(4)?;
        let inside = text.strip_prefix(point)?;
        let whole = inside.is_empty() || inside.starts_with('/') || point == "/";
        let mut after = after.splitn(3, ' ');
        let (kind, device, options) = (after.next()?, after.next()?, after.next()?);
        whole.then(|| (point.len(), format!("{kind} on {point} ({device}, {options})")))
    });
    // The last of the longest: later mounts cover earlier ones.
    holding.max_by_key(|(len, _)| *len).map_or_else(unknown, |(_, text)| text)
}

fn unknown() -> String {
    "unknown".to_owned()
}

fn line(path: &str) -> String {
    read_to_string(path).map_or_else(|_| unknown(), |text| text.trim().to_owned())
}

/// The value behind `name:` in a file of the kernel.
fn field(path: &str, name: &str) -> String {
    let text = read_to_string(path).unwrap_or_default();
    let value = text.lines().find_map(|line| {
        let (key, value) = line.split_once(':')?;
        (key.trim() == name).then(|| value.trim().to_owned())
    });
    value.unwrap_or_else(unknown)
}

fn mib(name: &str) -> String {
    let kib = field("/proc/meminfo", name).trim_end_matches(" kB").parse::<u64>();
    kib.map_or_else(|_| unknown(), |kib| format!("{} MiB", kib >> 10))
}

/// Data and unified caches of the first core.
fn caches() -> String {
    let folder = "/sys/devices/system/cpu/cpu0/cache";
    let cache = |index: u32| {
        let of = |name: &str| line(&format!("{folder}/index{index}/{name}"));
        let (level, kind, size) = (of("level"), of("type"), of("size"));
        (level != unknown() && kind != "Instruction").then(|| format!("L{level} {size}"))
    };
    let found: Vec<String> = (0..5).filter_map(cache).collect();
    if found.is_empty() { unknown() } else { found.join(", ") }
}
