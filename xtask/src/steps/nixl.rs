//! The stores whose bytes NIXL moves, with NIXL's wheels of PyPI.

use super::{Bench, Outcome};
use crate::programs::{Program, Programs};
use crate::{python, s3_lab};
use anyhow::Result;

/// What the tests use, and what they refuse. Their packages have Python to import, for which more packages would be needed.
const WHEEL: &str = "nixl-cu12==1.5.1";
const OLD_WHEEL: &str = "nixl-cu12==1.4.0";

/// Environment variables by which the store finds the one, and a test the other.
const FOUND_BY: &str = "KVBRIDGE_NIXL";
const OLD_FOUND_BY: &str = "KVBRIDGE_NIXL_OLD";

/// Its own tests, and those that take every engine that there is.
const TESTS: [&str; 5] = ["nixl", "nixl_old", "conformance", "crash", "io_engines"];

/// The one of `nixl` that needs an S3 server of somebody else.
const ON_A_SERVER: &str = "objects::the_contract_on_a_server_of_somebody_else";

/// The libraries that some of them load instead: examples, which no test has cargo build.
const EMULATED: [&str; 2] = ["fake_nixl", "fake_nixl_old"];

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
    let wanted: Vec<_> = TESTS.map(Program::Test).into_iter().chain(EMULATED.map(Program::Example)).collect();
    let programs = Programs::build(&bench.processes, &bench.root.join("kv-storage"), &wanted)?;
    let mut failed = Vec::new();
    for name in TESTS {
        if !bench.run(programs.command(name)?.env(FOUND_BY, &new).env(OLD_FOUND_BY, &old))? {
            failed.push(name);
        }
    }
    let on_a_server =
        s3_lab::with_server(&bench.processes, &bench.metadata.target_directory, |environment| {
            let mut command = programs.command(TESTS[0])?;
            bench.run(
                command.args(["--exact", "--nocapture", ON_A_SERVER]).env(FOUND_BY, &new).envs(environment),
            )
        });
    match on_a_server {
        Ok(true) => {}
        Ok(false) => failed.push("nixl on SeaweedFS"),
        Err(error) if error.is::<python::Unavailable>() && failed.is_empty() => {
            return Ok(Outcome::Skipped(error.to_string()));
        }
        Err(error) => return Err(error),
    }
    let why = || format!("tests of {} (see above)", failed.join(", "));
    Ok(if failed.is_empty() { Outcome::Passed } else { Outcome::Failed(why()) })
}
