//! What of the vendors' software runs on a machine without their devices: HIP's library of Debian, CUDA's runtime of PyPI, and the
//! compilers that build the kernels.

use super::{Bench, Outcome};
use crate::kernels::{self, Compiler};
use crate::programs::{Program, Programs};
use crate::python;
use anyhow::Result;
use std::path::Path;

/// CUDA's runtime library, without a driver; its package has no Python to import.
const CUDA: &str = "nvidia-cuda-runtime-cu12==12.9.79";

/// In kv-device-rocm.
const TESTS: &str = "real_libraries";

/// Environment variables by which the tests of real libraries know that they must not skip, and where CUDA's is.
const REQUIRED: &str = "KVBRIDGE_REQUIRE_HIP";
const CUDA_FILE: &str = "KVBRIDGE_TEST_CUDART";

/// Runs the tests of real libraries, where they are installed.
pub(super) fn hip(bench: &Bench) -> Result<Outcome> {
    let folders = ["/usr/lib/x86_64-linux-gnu", "/usr/lib/aarch64-linux-gnu", "/opt/rocm/lib"];
    let names = ["libamdhip64.so.5", "libamdhip64.so.6", "libamdhip64.so.7"];
    if !folders.iter().any(|folder| names.iter().any(|name| Path::new(folder).join(name).exists())) {
        let why = "no HIP library was found (apt-get install --no-install-recommends libamdhip64-5)";
        return Ok(Outcome::Skipped(why.into()));
    }
    let cuda = match python::files(&bench.processes, &bench.metadata.target_directory, CUDA) {
        Ok(folder) => folder.join("nvidia/cuda_runtime/lib/libcudart.so.12"),
        Err(error) if error.is::<python::Unavailable>() => return Ok(Outcome::Skipped(error.to_string())),
        Err(error) => return Err(error),
    };
    let wanted = [Program::Test(TESTS), Program::Example("rocm_device_info")];
    let programs = Programs::build(&bench.processes, &bench.root.join("kv-device-rocm"), &wanted)?;
    let passed = bench.run(programs.command(TESTS)?.env(REQUIRED, "1").env(CUDA_FILE, cuda))?;
    Ok(if passed { Outcome::Passed } else { Outcome::Failed("the failing tests are above".into()) })
}

/// Compiles the kernels and compares them with the committed code objects.
pub(super) fn clang19(bench: &Bench) -> Result<Outcome> {
    let Some(compiler) = Compiler::clang19() else {
        return Ok(Outcome::Skipped("clang-19 was not found (apt-get install clang-19 lld-19)".into()));
    };
    kernels::build(&bench.processes, &bench.root, &compiler, false)?;
    Ok(Outcome::Passed)
}

/// The same for the processor that clang-19 does not know.
pub(super) fn gfx950(bench: &Bench) -> Result<Outcome> {
    let compiler = match Compiler::ziglang(&bench.processes, &bench.metadata.target_directory) {
        Ok(compiler) => compiler,
        Err(error) if error.is::<python::Unavailable>() => return Ok(Outcome::Skipped(error.to_string())),
        Err(error) => return Err(error),
    };
    kernels::build(&bench.processes, &bench.root, &compiler, false)?;
    Ok(Outcome::Passed)
}
