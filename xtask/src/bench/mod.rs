//! `cargo xtask bench`: how close save and load come to what this machine can do, on every store that it has.
//!
//! The figures come from the benchmark `path_efficiency` of kv-pipeline, one process per store; this command finds the places,
//! mounts a huge-page tmpfs where it is asked to and may, and gathers tables and JSON.

mod huge_tmpfs;
mod places;

use crate::processes::{Processes, Stdout};
use crate::workspace::{Metadata, cargo, root};
use anyhow::{Context as _, Result, bail};
use places::{Place, Places};
use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

/// A cold build on two slow cores.
const BUILD_LIMIT: Duration = Duration::from_secs(60 * 60);
/// One store on a slow disk, in full.
const RUN_LIMIT: Duration = Duration::from_secs(60 * 60);

/// Measure save and load of Llama-3.1-70B-shaped chunks beside the ceilings of the same run.
///
/// For each store: plain copies, checksums, plain write and read loops, and the full pipeline with verification at TP8 and TP1, all
/// measured in turns in one process, medians with min-max spread. `/ copy + store` is the figure to look at: what was achieved,
/// divided by the best plain loop that also moves every byte once between engine-sized memory and the file. The mission's targets
/// are judged `met`, `below`, or `out of reach here` if that plain loop does not reach them either. Close everything else first:
/// a busy machine widens the spread. Page-cache and tmpfs figures are named as what they are: they are not storage figures.
#[derive(clap::Args)]
#[command(after_help = "Examples:
  cargo xtask bench --quick                     memory, disk and /dev/shm, under 3 minutes after the build
  cargo xtask bench --huge                      also a huge-page tmpfs (needs root; mounted for the run, then unmounted)
  cargo xtask bench --store file:///mnt/nfs/kv  one store: an existing folder; a subfolder is made and removed
  cargo xtask bench --micro                     also the criterion benches of kv-format and kv-storage

Tables go to standard output at the end, progress to standard error, every figure to target/bench/path_efficiency.json.")]
pub(crate) struct Options {
    /// Measure only this store: memory:// or file:///absolute/path [default: memory, target/ on disk, /dev/shm].
    #[arg(long, value_name = "URL", value_parser = places::parse)]
    store: Option<String>,
    /// Also mount a tmpfs of huge pages (huge=always) where root allows it, and unmount it at the end.
    #[arg(long)]
    huge: bool,
    /// Half the bytes and fewer rounds.
    #[arg(long)]
    quick: bool,
    /// Write the figures of all stores here [default: target/bench/path_efficiency.json].
    #[arg(long, value_name = "PATH")]
    json: Option<PathBuf>,
    /// Also run the small benches: copy kernels beside plain copies, headers, keys, plans, checksums, objects of each store.
    #[arg(long)]
    micro: bool,
}

/// Runs the benchmarks.
pub(crate) fn run(options: &Options) -> Result<()> {
    let processes = Processes::new()?;
    let root = root()?;
    let target = Metadata::read(&root)?.target_directory;
    // Before a build that takes minutes.
    options.store.as_deref().map_or(Ok(()), places::exists)?;
    let folder = target.join("bench");
    std::fs::create_dir_all(&folder).with_context(|| format!("{} cannot be made", folder.display()))?;

    let bench = |arguments: &[&str]| {
        let mut command = Command::new(cargo());
        command.args(["bench", "--quiet"]).args(arguments).current_dir(&root);
        command
    };
    eprintln!("building kv-pipeline's benchmark path_efficiency");
    let pipeline = ["-p", "kv-pipeline", "--bench", "path_efficiency"];
    let built =
        processes.run(bench(&pipeline).arg("--no-run"), Stdout::Inherit, BUILD_LIMIT)?.status.success();
    if !built {
        bail!("the benchmark does not build (the compiler's message is above)");
    }

    // Mounted only after the build; every way out of this function drops it, and so unmounts and removes it.
    let places = Places::find(options.store.as_deref(), options.huge, &folder)?;
    let (mut tables, mut figures) = (String::new(), Vec::new());
    for place in places.iter() {
        eprintln!("\n-- {}", place.label);
        let json = tempfile::NamedTempFile::new_in(&folder)?;
        let mut command = bench(&pipeline);
        command.args(["--", "--store", &place.url, "--json"]).arg(json.path());
        if options.quick {
            command.arg("--quick");
        }
        let finished = processes.run(&mut command, Stdout::Capture, RUN_LIMIT)?;
        if !finished.status.success() {
            bail!("measuring {} failed (the reason is above)", place.label);
        }
        tables.push_str(&format!("\n## {}\n{}", place.label, finished.stdout));
        figures.push(labelled(place, json.path())?);
    }
    let left_out = places.left_out().to_vec();
    drop(places);

    if options.micro {
        micro(&processes, options.quick, &bench)?;
    }
    println!("{tables}");
    left_out.iter().for_each(|reason| println!("left out: {reason}"));
    let path = options.json.clone().unwrap_or_else(|| folder.join("path_efficiency.json"));
    let text = serde_json::to_string_pretty(&json!({ "runs": figures, "left_out": left_out }))?;
    std::fs::write(&path, text + "\n").with_context(|| format!("{} cannot be written", path.display()))?;
    println!("every figure: {}", path.display());
    Ok(())
}

/// One store's figures under its name.
fn labelled(place: &Place, path: &Path) -> Result<Value> {
    let text = std::fs::read_to_string(path)?;
    let figures: Value =
        serde_json::from_str(&text).context("the benchmark wrote JSON that cannot be read")?;
    Ok(json!({ "label": place.label, "figures": figures }))
}

/// The small benches, straight to the terminal.
fn micro(processes: &Processes, quick: bool, bench: &impl Fn(&[&str]) -> Command) -> Result<()> {
    for arguments in [
        &["-p", "kv-format", "--bench", "kernels", "--bench", "format", "--bench", "checksum"][..],
        &["-p", "kv-storage", "--features", "io-uring", "--bench", "objects", "--bench", "store_alone"],
    ] {
        let mut command = bench(arguments);
        command.arg("--");
        if quick {
            command.arg("--quick");
        }
        if !processes.run(&mut command, Stdout::Inherit, RUN_LIMIT)?.status.success() {
            bail!("cargo bench {} failed (the reason is above)", arguments.join(" "));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Parser)]
    struct Bench {
        #[command(flatten)]
        options: Options,
    }

    #[test]
    fn a_store_without_plain_loops_to_compare_with_is_refused() {
        let parse = |url: &str| Bench::try_parse_from(["bench", "--store", url]).map(|bench| bench.options);
        assert_eq!(parse("memory://").unwrap().store.as_deref(), Some("memory://"));
        assert!(parse("file:///mnt/kv").is_ok());
        for wrong in ["null://", "s3://bucket", "file://relative", "/mnt/kv"] {
            let error = parse(wrong).err().expect(wrong).to_string();
            assert!(error.contains("memory:// or file:///absolute/path"), "{error}");
        }
    }

    #[test]
    fn the_figures_of_a_store_stand_under_its_label() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), "{\"rows\": [1]}").unwrap();
        let place = Place { label: "a disk".into(), url: "file:///x".into() };
        assert_eq!(
            labelled(&place, file.path()).unwrap(),
            json!({"label": "a disk", "figures": {"rows": [1]}})
        );
        std::fs::write(file.path(), "").unwrap();
        assert!(labelled(&place, file.path()).is_err());
    }
}
