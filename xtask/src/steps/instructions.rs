//! Instructions of the hot loops, counted by callgrind: a slowdown shows whatever else the machine is doing.

use super::checks::cargo_with;
use super::{Bench, Outcome};
use crate::table::Table;
use anyhow::{Context, Result};
use std::path::Path;
use std::process::{Command, Stdio};

/// Most instructions of one turn of each loop of `kv-pipeline/examples/hot_loops.rs`, in thousands: a tenth above what was measured
/// with rustc 1.95 on x86-64 with AVX2 (callgrind shows programs no AVX-512, so the kernels counted are those of AVX2). Lower them when a
/// loop becomes better. Fewer is not always faster: a gather spends instructions on fetching each line of the next block ahead, which
/// the time of `cargo bench -p kv-format --bench kernels` justifies.
const LIMITS: [(&str, u64); 9] = [
    ("header", 168),
    ("keys", 192),
    ("plan", 13),
    ("checksum", 388),
    ("gather-token-major", 148),
    ("gather-one-head", 800),
    ("gather-head-major", 627),
    ("gather-x-packed", 956),
    ("gather-transposed", 1_318),
];

/// Turns of the short and of the long run: their difference is free of what a start costs.
const TURNS: (u64, u64) = (2, 10);

pub(super) fn run(bench: &Bench) -> Result<Outcome> {
    let version =
        Command::new("valgrind").arg("--version").stdout(Stdio::null()).stderr(Stdio::null()).status();
    if !version.is_ok_and(|status| status.success()) {
        return Ok(Outcome::Skipped("valgrind is not installed (apt-get install valgrind)".into()));
    }
    let build = ["build", "--release", "-p", "kv-pipeline", "--example", "hot_loops"];
    if !bench.run(&mut cargo_with(&build))? {
        return Ok(Outcome::Failed("the hot loops do not build".into()));
    }
    let program = bench.metadata.target_directory.join("release/examples/hot_loops");
    let log = tempfile::NamedTempFile::new()?;
    let mut table = Table::new(["loop", "thousand instructions", "at most"]);
    let mut over = Vec::new();
    for (name, limit) in LIMITS {
        let short = count(bench, &program, log.path(), name, TURNS.0)?;
        let long = count(bench, &program, log.path(), name, TURNS.1)?;
        let thousands = long.saturating_sub(short) / (TURNS.1 - TURNS.0) / 1000;
        table.row([name.to_owned(), thousands.to_string(), limit.to_string()].to_vec());
        if thousands > limit {
            over.push(name);
        }
    }
    print!("{}", table.render());
    Ok(match over.as_slice() {
        [] => Outcome::Passed,
        names => Outcome::Failed(format!("more instructions than before in {}", names.join(", "))),
    })
}

/// Instructions of `turns` turns of a loop.
fn count(bench: &Bench, program: &Path, log: &Path, name: &str, turns: u64) -> Result<u64> {
    let mut command = Command::new("valgrind");
    command.args(["--tool=callgrind", "--callgrind-out-file=/dev/null"]);
    command.arg(format!("--log-file={}", log.display())).arg(program).args([name, &turns.to_string()]);
    anyhow::ensure!(bench.run(&mut command)?, "{name} failed under valgrind");
    collected(&std::fs::read_to_string(log)?).with_context(|| format!("callgrind said nothing about {name}"))
}

/// The figure of callgrind's line `Collected : N`.
fn collected(log: &str) -> Option<u64> {
    log.lines().find_map(|line| line.split_once("Collected : ")?.1.split_whitespace().next()?.parse().ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_figure_is_read_from_callgrinds_log() {
        assert_eq!(
            collected("==7== Callgrind\n==7== Events    : Ir\n==7== Collected : 4873151\n"),
            Some(4_873_151)
        );
        assert_eq!(collected("==7== Callgrind\n"), None);
    }
}
