//! The stores whose bytes NIXL moves, with NIXL's wheels of PyPI.

use super::checks::cargo_with;
use super::{Bench, Outcome};
use crate::python;
use anyhow::Result;

/// What the tests use, and what they refuse. Their packages have Python to import, for which more packages would be needed.
const WHEEL: &str = "nixl-cu12==1.5.1";
const OLD_WHEEL: &str = "nixl-cu12==1.4.0";

/// Environment variables by which the store finds the one, and a test the other.
const FOUND_BY: &str = "KVBRIDGE_NIXL";
const OLD_FOUND_BY: &str = "KVBRIDGE_NIXL_OLD";

/// Its own tests, and those that take every engine that there is.
const TESTS: [&str; 5] = ["nixl", "nixl_old", "conformance", "crash", "io_engines"];

pub(super) fn run(bench: &Bench) -> Result<Outcome> {
    if !cfg!(all(target_os = "linux", any(target_arch = "x86_64", target_arch = "aarch64"))) {
        return Ok(Outcome::Skipped("there are no wheels of NIXL for this system".into()));
    }
    let wheel = |pinned| python::files(&bench.processes, &bench.metadata.target_directory, pinned);
    let (new, old) = match wheel(WHEEL).and_then(|new| Ok((new, wheel(OLD_WHEEL)?))) {
        Ok(wheels) => wheels,
        Err(error) if error.is::<python::Unavailable>() => return Ok(Outcome::Skipped(error.to_string())),
        Err(error) => return Err(error),
    };
    // The emulated libraries are examples, which `--test` alone does not build.
    let features = ["-p", "kv-storage", "--all-features"];
    let built = bench.run(cargo_with(&["build"]).args(features).arg("--examples"))?;
    let mut tests = cargo_with(&["test"]);
    tests.args(features).args(TESTS.map(|test| ["--test", test]).as_flattened());
    let passed = built && bench.run(tests.env(FOUND_BY, new).env(OLD_FOUND_BY, old))?;
    Ok(if passed { Outcome::Passed } else { Outcome::Failed("the failing tests are above".into()) })
}
