//! What else is asked of a directory: how its file system links, flushes and takes direct I/O, and what its server's clock says.

use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use kv_memory::HostBuf;
use rustix::fs::{
    AtFlags, CWD, Mode, OFlags, RenameFlags, fstat, fsync, ftruncate, linkat, openat, renameat_with, statfs,
    unlinkat,
};
use rustix::io::{Errno, pread, pwrite};
use tokio::sync::oneshot;

use super::report::Finding;
use crate::env::Environment;
use crate::posix::PosixStore;

/// Difference of clocks above which expiry and sweeps may surprise, in milliseconds.
const CLOCK_MILLIS: i128 = 2000;

/// Tries what posix stores live on in the directory of `store`, with files of its own that it removes.
///
/// # Cancel safety
/// A dropped call goes on trying for a moment, and then removes its files.
pub async fn probe_directory(store: &PosixStore) -> Vec<Finding> {
    let (root, environment) = (store.root().to_owned(), Environment::default());
    let (sender, receiver) = oneshot::channel();
    let thread = std::thread::Builder::new().name("kv-probe".to_owned());
    let spawned = thread.spawn(move || drop(sender.send(try_directory(&root, &environment))));
    let lost = |why: &str| vec![Finding::must("the directory can be tried", Err(why.to_owned()))];
    match spawned {
        Err(error) => lost(&format!("no thread could be started: {error}")),
        Ok(_) => {
            let mut findings = vec![
                Finding::may("the mount has the options that it needs", mounted(store)),
                Finding::may("an I/O engine is chosen", Ok(store.io_engine().to_string())),
            ];
            findings.extend(receiver.await.unwrap_or_else(|_| lost("the probing thread panicked")));
            findings
        }
    }
}

/// Two names in the root, removed at the end.
struct Names {
    first: PathBuf,
    second: PathBuf,
}

impl Drop for Names {
    fn drop(&mut self) {
        for name in [&self.first, &self.second] {
            let _ = unlinkat(CWD, name, AtFlags::empty()); // it may never have been there
        }
    }
}

fn try_directory(root: &Path, environment: &Environment) -> Vec<Finding> {
    // The prefix of temporary files, which listings skip and sweeps remove.
    let random = environment.entropy.next_u64();
    let first = root.join(format!(".kv-tmp.probe.{}.{random:016x}", std::process::id()));
    let names = Names { second: first.with_extension("second"), first };
    let file = match create(&names.first, OFlags::empty()) {
        Ok(file) => file,
        Err(errno) => return vec![Finding::must("a file can be created", Err(errno.to_string()))],
    };
    vec![
        Finding::may("there is space", space(root)),
        Finding::must("a file can be written and flushed (fsync)", flushes(&file, environment)),
        Finding::must("a hard link does not replace", links(&names)),
        Finding::may("a rename can be told not to replace", renames(&names)),
        Finding::may("direct I/O (O_DIRECT)", direct(&names)),
        Finding::may("the server's clock agrees with ours", clocks(&file, environment)),
    ]
}

fn create(path: &Path, more: OFlags) -> Result<OwnedFd, Errno> {
    let flags = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC | more;
    openat(CWD, path, flags, Mode::RUSR | Mode::WUSR)
}

fn space(root: &Path) -> Result<String, String> {
    let found = statfs(root).map_err(|errno| errno.to_string())?;
    let block = u64::try_from(found.f_bsize).unwrap_or_default();
    let free = found.f_bavail.saturating_mul(block) >> 20;
    if free == 0 { Err("less than one MiB is free".to_owned()) } else { Ok(format!("{free} MiB are free")) }
}

/// What the kernel says of the mount.
fn mounted(store: &PosixStore) -> Result<String, String> {
    let mount = store.mount().ok_or("the kernel's table of mounts cannot be read")?;
    let what = format!("{} ({}) at {}", mount.file_system(), mount.source(), mount.mount_point().display());
    match &*store.warnings() {
        [] => Ok(what),
        warnings => {
            let warnings: Vec<String> = warnings.iter().map(ToString::to_string).collect();
            Err(format!("{what}: {}", warnings.join("; ")))
        }
    }
}

fn flushes(file: &OwnedFd, environment: &Environment) -> Result<String, String> {
    let clock = &environment.clock;
    pwrite(file, &[7; 4096], 0).map_err(|errno| format!("writing: {errno}"))?;
    let began = clock.now();
    fsync(file).map_err(|errno| format!("flushing: {errno}"))?;
    Ok(format!("{:.1?} for 4 KiB", clock.now().saturating_sub(began)))
}

fn links(names: &Names) -> Result<String, String> {
    let link = || linkat(CWD, &names.first, CWD, &names.second, AtFlags::empty());
    link().map_err(|errno| format!("linking: {errno}"))?;
    match link() {
        Err(Errno::EXIST) => Ok(String::new()),
        Err(errno) => Err(format!("linking over a file: expected EEXIST, found {errno}")),
        Ok(()) => Err("a link replaced a file: objects would not be create-only".to_owned()),
    }
}

/// `second` exists since [`links`].
fn renames(names: &Names) -> Result<String, String> {
    let third = names.first.with_extension("third");
    let made = create(&third, OFlags::empty()).map_err(|errno| errno.to_string());
    let renamed = made.map(|_| renameat_with(CWD, &third, CWD, &names.second, RenameFlags::NOREPLACE));
    let _ = unlinkat(CWD, &third, AtFlags::empty());
    match renamed? {
        Err(Errno::EXIST) => Ok(String::new()),
        Err(errno) => Err(format!("{errno}; not needed where links work")),
        Ok(()) => Err("it replaced a file all the same".to_owned()),
    }
}

fn direct(names: &Names) -> Result<String, String> {
    let third = names.first.with_extension("direct");
    let outcome = create(&third, OFlags::DIRECT)
        .map_err(|errno| format!("{errno}: buffered I/O only"))
        .and_then(|file| {
            ftruncate(&file, 1 << 20).map_err(|errno| errno.to_string())?;
            let mut page = HostBuf::allocate(8192).map_err(|error| error.to_string())?;
            page.fill(3);
            for alignment in [512_usize, 4096] {
                let written = pwrite(&file, &page[..alignment], alignment as u64);
                let read = pread(&file, &mut page[..alignment], alignment as u64);
                if written == Ok(alignment) && read == Ok(alignment) {
                    return Ok(format!("from {alignment} bytes on"));
                }
            }
            Err("a page is refused: buffered I/O only".to_owned())
        });
    let _ = unlinkat(CWD, &third, AtFlags::empty());
    outcome
}

fn clocks(file: &OwnedFd, environment: &Environment) -> Result<String, String> {
    let before = environment.clock.unix_millis();
    pwrite(file, &[8; 16], 0).and_then(|_| fsync(file)).map_err(|errno| format!("writing: {errno}"))?;
    let after = environment.clock.unix_millis();
    let stat = fstat(file).map_err(|errno| errno.to_string())?;
    let server = i128::from(stat.st_mtime) * 1000 + i128::from(stat.st_mtime_nsec) / 1_000_000;
    // The server set its time somewhere between our two looks; file systems round it down to a tick.
    let early = server - i128::from(after);
    let late = server - i128::from(before);
    let offset = if early > 0 {
        early
    } else if late < 0 {
        late
    } else {
        0
    };
    let note = match offset {
        0 => "no difference".to_owned(),
        ahead @ 1.. => format!("it is {ahead} ms ahead of ours"),
        behind => format!("it is {} ms behind ours", behind.unsigned_abs()),
    };
    if offset.abs() <= CLOCK_MILLIS { Ok(note) } else { Err(format!("{note}: run NTP on both")) }
}
