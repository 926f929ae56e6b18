//! The command line.

use std::path::PathBuf;

/// Save and load of Llama-3.1-70B-shaped chunks through the full pipeline, beside the ceilings of the same run.
///
/// Measures in turns: every ceiling and every pipeline row once per round, the first round dropped, medians with min-max spread.
/// Path efficiency is what was achieved divided by the best plain loop over the same bytes in the same run.
#[derive(Debug, clap::Parser)]
#[command(
    name = "path_efficiency",
    after_help = "Examples:
  cargo bench -p kv-pipeline --bench path_efficiency -- --quick
  cargo bench -p kv-pipeline --bench path_efficiency -- --store memory://
  cargo bench -p kv-pipeline --bench path_efficiency -- --store file:///mnt/scratch --json /tmp/figures.json"
)]
pub(crate) struct Arguments {
    /// memory:// or file:///absolute/path of an existing folder, in which a folder of its own is made and removed
    /// [default: a folder in the system's temp folder].
    #[arg(long, value_name = "URL", value_parser = parse_store)]
    pub(crate) store: Option<Target>,
    /// Half the bytes and fewer rounds.
    #[arg(long)]
    pub(crate) quick: bool,
    /// Also write every figure to this file.
    #[arg(long, value_name = "PATH")]
    pub(crate) json: Option<PathBuf>,
    /// Measure only rows whose name contains this, for a profiler; may be given several times.
    #[arg(long, value_name = "TEXT")]
    pub(crate) only: Vec<String>,
    /// Rounds that count [default: 9, or 5 with --quick].
    #[arg(long, value_name = "N")]
    pub(crate) rounds: Option<usize>,
    /// What cargo says to a benchmark.
    #[arg(long, hide = true)]
    bench: bool,
}

/// A store whose ceilings are known.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Target {
    Memory,
    Folder(PathBuf),
}

fn parse_store(text: &str) -> Result<Target, String> {
    match text.split_once("://") {
        Some(("memory", "")) => Ok(Target::Memory),
        Some(("file", path)) if path.starts_with('/') => Ok(Target::Folder(PathBuf::from(path))),
        _ => Err(
            "expected memory:// or file:///absolute/path: plain loops to compare with are known for these"
                .into(),
        ),
    }
}
