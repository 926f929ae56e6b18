//! Tries what a store can really do, and prints a report: `cargo run --release -p kv-storage --example probe -- file:///mnt/kv`.

use std::io::Write;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use kv_storage::probe::{Finding, probe_directory};
use kv_storage::{KvStore, PosixOptions, PosixStore, open, probe};

const HELP: &str = "\
Tries what a store can really do: this mount, with its server and its options.

Usage: probe URL

  memory://               the store in memory, for comparison
  file:///absolute/path   a directory that was formatted as a store: on a local disk, a tmpfs, an NFS mount

It writes a few small objects, one of 32 MiB and some records under random names, lets two writers race, reads back, compares, measures,
and removes all of them: it needs the right to write and 40 MiB. Empty directories stay; interrupted, it may leave objects in the namespace
6b76627269646765..., which no cache uses, and which may be deleted.

Lines begin with `yes`, with `no` for what some stores lack and options can make up for, and with `BROKEN` for what a store must do and this one
does not. Times and bandwidths are hints from caches: `cargo xtask bench` measures.

Exit status: 0 if the store does all that it must, 1 if not, 2 if it could not be opened or the arguments make no sense.
";

/// Longest time to open a directory, and to try it.
const DEADLINE: Duration = Duration::from_secs(60);

#[tokio::main]
async fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let (mut out, mut err) = (std::io::stdout(), std::io::stderr());
    ExitCode::from(run(&arguments, &mut out, &mut err).await)
}

/// The exit status. What cannot be written to a closed pipe is not worth one.
async fn run(arguments: &[String], out: &mut impl Write, err: &mut impl Write) -> u8 {
    let url = match arguments {
        [help] if help == "--help" || help == "-h" => {
            let _ = out.write_all(HELP.as_bytes());
            return 0;
        }
        [url] if !url.starts_with('-') => url,
        [] => {
            let _ = writeln!(
                err,
                "probe: which store? Expected one URL, such as file:///mnt/kv; --help says more"
            );
            return 2;
        }
        [first, ..] => {
            let _ =
                writeln!(err, "probe: {first:?}: expected one URL, such as file:///mnt/kv; --help says more");
            return 2;
        }
    };
    let tried = async {
        let path = url.strip_prefix("file://").filter(|path| path.starts_with('/'));
        match path {
            None => Ok((open(url).await?, Vec::new())),
            // The store itself, and not the gate that `open` puts before it: what is wrong is to show.
            Some(path) => {
                let store = PosixStore::open(path.as_ref(), PosixOptions::default()).await?;
                let directory = probe_directory(&store).await;
                Ok::<(Arc<dyn KvStore>, Vec<Finding>), kv_storage::Error>((Arc::new(store), directory))
            }
        }
    };
    let (store, directory) = match tokio::time::timeout(DEADLINE, tried).await {
        Ok(Ok(opened)) => opened,
        Ok(Err(error)) => {
            let _ = writeln!(err, "probe: {error}");
            return 2;
        }
        Err(_) => {
            let _ = writeln!(
                err,
                "probe: {url}: no answer within {DEADLINE:?}: the mount hangs; see that its server is up"
            );
            return 2;
        }
    };
    let mut report = probe(store).await;
    report.findings.splice(0..0, directory);
    let _ = writeln!(out, "{report}");
    u8::from(!report.musts_hold())
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn probed(arguments: &[&str]) -> (u8, String, String) {
        let (mut out, mut err) = (Vec::new(), Vec::new());
        let arguments: Vec<String> = arguments.iter().map(|&argument| argument.to_owned()).collect();
        let status = run(&arguments, &mut out, &mut err).await;
        (status, String::from_utf8(out).unwrap(), String::from_utf8(err).unwrap())
    }

    #[tokio::test]
    async fn a_directory_that_is_fit_is_said_to_be() {
        let root = tempfile::tempdir().unwrap();
        let url = format!("file://{}", root.path().display());
        assert_eq!(probed(&[&url]).await.0, 2, "it is no store yet");
        kv_storage::format(&url).await.unwrap();
        let (status, out, err) = probed(&[&url]).await;
        println!("{out}");
        assert_eq!((status, err.as_str()), (0, ""));
        for line in
            ["yes     one of two racing commits wins", "yes     a hard link does not replace", "fit for KV"]
        {
            assert!(out.contains(line), "{line}: {out}");
        }
        assert!(!out.contains("BROKEN"), "{out}");
    }

    #[tokio::test]
    async fn a_store_that_keeps_nothing_is_not() {
        let (status, out, _) = probed(&["null://"]).await;
        assert_eq!(status, 1);
        assert!(out.contains("BROKEN  invisible until published") && out.contains("NOT FIT"), "{out}");
    }

    #[tokio::test]
    async fn wrong_arguments_are_taught() {
        for (arguments, said) in [
            (&[][..], "which store? Expected one URL"),
            (&["--verbose"], "\"--verbose\": expected one URL"),
            (&["memory://", "again"], "expected one URL"),
            (&["s4://bucket"], "unknown scheme: expected memory://"),
            (&["/mnt/kv"], "this is no store URL"),
            (&["file:///no/such/directory"], "no such directory"),
        ] {
            let (status, out, err) = probed(arguments).await;
            assert_eq!((status, out.as_str()), (2, ""), "{arguments:?}");
            assert!(err.starts_with("probe: ") && err.contains(said), "{arguments:?}: {err}");
        }
        assert_eq!(probed(&["--help"]).await, (0, HELP.to_owned(), String::new()));
        let namespace = kv_storage::health::PROBE_NAMESPACE.to_string();
        assert!(HELP.contains(&namespace[..16]), "{namespace}");
    }
}
