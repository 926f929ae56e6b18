//! The device crates and the emulated runtimes that they load, both instrumented by AddressSanitizer, which the stable toolchain brings.

use super::checks::{cargo_with, has};
use super::{Bench, Outcome};
use crate::processes::Stdout;
use anyhow::{Context as _, Result, ensure};
use std::path::Path;
use std::process::Command;
use std::time::Duration;

/// The flags are for this target alone, and not for what runs while compiling.
const TARGET: &str = "x86_64-unknown-linux-gnu";
/// `kv_asan` makes memory forbidden that the sanitizer knows nothing of (kv-memory). The runtime is in the executable, which must show
/// it to the libraries that it loads; and a library that lacks a function on purpose must not need it for itself.
const FLAGS: &str = "-Zsanitizer=address --cfg kv_asan -Clink-arg=-Wl,--export-dynamic-symbol=__asan_* \
    -Clink-arg=-Wl,-Bsymbolic-functions";
const CRATES: [&str; 5] = [
    "-pkv-device-rocm",
    "-pkv-device-hpu",
    "--features=kv-device-rocm/emulation",
    "--features=kv-device-rocm/sabotage",
    "--features=kv-device-hpu/sabotage",
];
const EXAMPLES: [&str; 4] = ["fake_hip", "fake_synapse", "rocm_device_info", "hpu_device_info"];
/// Of either crate: not the backends that are wrong on purpose, and not what reckons with a clock. `asan` shows that mistakes are found.
const TESTS: [&str; 7] = ["asan", "conformance", "faults", "fences", "loading", "misuse", "regions"];
const LIMIT: Duration = Duration::from_secs(60);

pub(super) fn run(bench: &Bench) -> Result<Outcome> {
    if !has_runtime(bench)? {
        let why = format!("the Rust toolchain has no AddressSanitizer for {TARGET} (rustup's has)");
        return Ok(Outcome::Skipped(why));
    }
    let target = bench.metadata.target_directory.join("asan");
    let instrumented = |words: &[&str]| {
        let mut cargo = cargo_with(words);
        cargo.args(["--target", TARGET]).args(CRATES).env("RUSTC_BOOTSTRAP", "1").env("RUSTFLAGS", FLAGS);
        cargo.env_remove("CARGO_ENCODED_RUSTFLAGS").env("CARGO_TARGET_DIR", &target);
        // What reports need, and no more: tests copy and search these libraries.
        cargo.env("CARGO_PROFILE_DEV_DEBUG", "line-tables-only");
        // Leaks are found when a test's process ends.
        cargo.env("ASAN_OPTIONS", "detect_leaks=1").env_remove("LSAN_OPTIONS");
        cargo
    };
    let mut examples = instrumented(&["build"]);
    examples.args(EXAMPLES.iter().flat_map(|name| ["--example", name]));
    let mut tests =
        instrumented(if has("nextest") { &["nextest", "run"] } else { &["test", "--no-fail-fast"] });
    tests.args(TESTS.iter().flat_map(|name| ["--test", name]));
    let passed = bench.run(&mut examples)? && bench.run(&mut tests)?;
    Ok(if passed { Outcome::Passed } else { Outcome::Failed("the failing tests are above".into()) })
}

/// Whether the toolchain has the sanitizer's runtime: distributions leave it out.
fn has_runtime(bench: &Bench) -> Result<bool> {
    let mut rustc = Command::new(std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into()));
    rustc.args(["--print", "target-libdir", "--target", TARGET]);
    let printed = bench.processes.run(&mut rustc, Stdout::Capture, LIMIT)?;
    ensure!(printed.status.success(), "rustc does not tell where its libraries are");
    let folder = Path::new(printed.stdout.trim());
    let Ok(files) = std::fs::read_dir(folder) else { return Ok(false) };
    for file in files {
        let file = file.with_context(|| folder.display().to_string())?;
        if file.file_name().to_string_lossy().ends_with("_rt.asan.a") {
            return Ok(true);
        }
    }
    Ok(false)
}
