//! Where a vendor's library is looked for.

use std::ffi::OsStr;
use std::fs::File;
use std::io::Read as _;
use std::path::{Path, PathBuf};

use super::{Library, Missing};
use crate::{Error, ErrorKind, Result};

/// Where a library is looked for, in this order: the variable; what the process has mapped; the names; the directories.
#[derive(Debug, Clone)]
pub struct LibrarySearch<'a> {
    /// What is looked for, for people: "the HIP runtime".
    pub what: &'a str,
    /// Environment variable with a path to open instead of any other. If it is set and the file does not open, nothing else is
    /// tried: whoever sets it means it.
    pub variable: &'a str,
    /// Names for the loader, the best first.
    pub names: &'a [&'a str],
    /// Directories in which the names are tried after that.
    pub directories: Vec<PathBuf>,
}

/// How a library was found.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Origin {
    /// The environment variable named it.
    Variable,
    /// The process had it mapped: an engine uses it.
    Process,
    /// The loader found it by its name.
    Loader,
    /// It was in one of the directories.
    Directory,
}

/// A path or name that was tried, and the loader's reason for not opening it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Attempt {
    /// What was tried.
    pub path: String,
    /// Why it did not open.
    pub reason: String,
}

impl LibrarySearch<'_> {
    /// Opens the first that opens. `device` stands in errors.
    ///
    /// # Errors
    /// [`Unavailable`](ErrorKind::Unavailable) naming every attempt with the loader's reason, and [`Missing::Library`] as the source.
    pub fn open(&self, device: &str) -> Result<Library> {
        let set = std::env::var_os(self.variable).filter(|path| !path.is_empty());
        self.open_with(set.as_deref(), device)
    }

    /// As [`open`](Self::open), with what the variable would hold.
    ///
    /// # Errors
    /// As [`open`](Self::open).
    pub fn open_with(&self, variable: Option<&OsStr>, device: &str) -> Result<Library> {
        let mut tried = Vec::new();
        let mut attempt = |path: &OsStr, origin| {
            let opened = Library::open(path, device, origin);
            opened.map_err(|reason| tried.push(Attempt::new(path, reason)))
        };
        if let Some(path) = variable {
            if let Ok(library) = attempt(path, Origin::Variable) {
                return Ok(library);
            }
            return Err(self.missing(tried, device, &format!("which {} names", self.variable)));
        }
        // That nothing is mapped yet is no reason to report, so it is not an attempt.
        if let Some(library) = mapped(self.names, device) {
            return Ok(library);
        }
        for name in self.names {
            if let Ok(library) = attempt(OsStr::new(name), Origin::Loader) {
                return Ok(library);
            }
        }
        for directory in &self.directories {
            for name in self.names {
                if let Ok(library) = attempt(directory.join(name).as_os_str(), Origin::Directory) {
                    return Ok(library);
                }
            }
        }
        Err(self.missing(tried, device, &format!("set {} to its path if it is elsewhere", self.variable)))
    }

    fn missing(&self, tried: Vec<Attempt>, device: &str, hint: &str) -> Error {
        let missing = Missing::Library { tried };
        let message = format!("cannot load {}: install it ({hint}); tried {missing}", self.what);
        Error::new(ErrorKind::Unavailable, device, message).with_source(missing)
    }
}

/// The first of these libraries that the process has mapped already; loads none. `device` stands in errors of its symbols.
pub fn mapped(names: &[&str], device: &str) -> Option<Library> {
    names.iter().find_map(|name| Library::open(OsStr::new(name), device, Origin::Process).ok())
}

impl Attempt {
    /// glibc says "No such file or directory" of a file that is there and is for another processor, so the file itself is asked.
    fn new(path: &OsStr, reason: String) -> Self {
        // A bare name is the loader's to find, not a file here.
        let file = Some(Path::new(path)).filter(|path| path.components().count() > 1);
        let foreign = match (file.and_then(machine), machine(Path::new("/proc/self/exe"))) {
            (Some(found), Some(own)) if found != own => Some(format!(
                "it is for another processor: ELF class {} machine {}, expected class {} machine {}",
                found.0, found.1, own.0, own.1
            )),
            _ => None,
        };
        let path = path.to_string_lossy().into_owned();
        let reason = reason.strip_prefix(&format!("{path}: ")).unwrap_or(&reason).to_owned();
        Self { reason: foreign.unwrap_or(reason), path }
    }
}

/// Class and machine of an ELF file: byte 4, and the 16 bits at 18 (in the byte order of this host, else they differ, as they should).
fn machine(path: &Path) -> Option<(u8, u16)> {
    let mut header = [0; 20];
    File::open(path).ok()?.read_exact(&mut header).ok()?;
    match header {
        [0x7f, b'E', b'L', b'F', class, .., low, high] => Some((class, u16::from_le_bytes([low, high]))),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use std::error::Error as _;

    use super::*;

    fn search<'a>(names: &'a [&'a str], directories: &[&Path]) -> LibrarySearch<'a> {
        let directories = directories.iter().map(|directory| directory.to_path_buf()).collect();
        LibrarySearch { what: "a library", variable: "KVBRIDGE_TEST_LIBRARY", names, directories }
    }

    fn tried(error: &Error) -> Vec<Attempt> {
        match error.source().and_then(|source| source.downcast_ref::<Missing>()) {
            Some(Missing::Library { tried }) => tried.clone(),
            other => panic!("expected a missing library, found {other:?}"),
        }
    }

    #[test]
    fn every_path_is_named_with_its_own_reason() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("libwrong.so"), b"not an ELF file").unwrap();
        let foreign = foreign_elf();
        std::fs::write(folder.path().join("libforeign.so"), foreign).unwrap();
        let names = ["libabsent-of-kvbridge.so.7", "libwrong.so", "libforeign.so"];
        let error = search(&names, &[folder.path()]).open_with(None, "test:0").unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unavailable);
        let tried = tried(&error);
        assert_eq!(tried.len(), 6, "{tried:?}");
        let reason = |name: &str| {
            let path = folder.path().join(name).to_string_lossy().into_owned();
            tried.iter().find(|attempt| attempt.path == path).unwrap().reason.clone()
        };
        assert!(reason("libabsent-of-kvbridge.so.7").contains("No such file"), "{error}");
        assert!(
            reason("libwrong.so").contains("file too short") || reason("libwrong.so").contains("invalid ELF")
        );
        assert!(reason("libforeign.so").contains("another processor: ELF class 2 machine 243"), "{error}");
        for attempt in &tried {
            assert!(error.to_string().contains(&attempt.path), "{error}");
        }
        assert!(error.to_string().contains("KVBRIDGE_TEST_LIBRARY"), "{error}");
    }

    #[test]
    fn a_variable_that_names_no_library_is_not_passed_over() {
        let error =
            search(&["libc.so.6"], &[]).open_with(Some(OsStr::new("/nowhere/x.so")), "test:0").unwrap_err();
        assert_eq!(tried(&error).len(), 1);
        assert!(error.to_string().contains("/nowhere/x.so"), "{error}");
    }

    #[test]
    fn the_copy_of_the_process_comes_first_and_a_missing_symbol_is_typed() {
        let library = search(&["libc.so.6"], &[]).open_with(None, "test:0").unwrap();
        assert_eq!(library.origin(), Origin::Process, "libc is mapped in every process");
        let error = absent(&library);
        assert_eq!(error.kind(), ErrorKind::Unavailable);
        assert!(error.to_string().contains("libc.so.6 has no kvbridge_absent"), "{error}");
        match error.source().and_then(|source| source.downcast_ref::<Missing>()) {
            Some(Missing::Symbol { symbol, .. }) => assert_eq!(symbol, "kvbridge_absent"),
            other => panic!("expected a missing symbol, found {other:?}"),
        }
    }

    #[expect(unsafe_code, reason = "asks for symbols")]
    fn absent(library: &Library) -> Error {
        // SAFETY: getpid(2) takes nothing and returns an int.
        let pid = unsafe { library.symbol::<unsafe extern "C" fn() -> i32>("getpid") }.unwrap();
        // SAFETY: as above; it has no preconditions.
        assert_eq!(u32::try_from(unsafe { pid() }).unwrap(), std::process::id());
        assert!(library.file_of(pid as *const ()).unwrap().ends_with("libc.so.6"));
        // SAFETY: the symbol does not exist.
        unsafe { library.symbol::<unsafe extern "C" fn()>("kvbridge_absent") }.unwrap_err()
    }

    /// The first bytes of this test's own program, for another processor (RISC-V where this is none).
    fn foreign_elf() -> Vec<u8> {
        let mut bytes = std::fs::read(std::env::current_exe().unwrap()).unwrap();
        bytes.truncate(4096);
        bytes[18..20].copy_from_slice(&243_u16.to_le_bytes());
        bytes
    }
}
