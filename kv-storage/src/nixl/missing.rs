//! Why NIXL cannot be had, as the source of an [`Error`](crate::Error) of kind [`Unsupported`](crate::ErrorKind::Unsupported).

use std::fmt;
use std::path::PathBuf;

/// A path or name that was tried, and why it did not do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Attempt {
    /// What was tried: a file, a folder in which there is none, or a name for the loader.
    pub path: PathBuf,
    /// The loader's reason, or ours.
    pub reason: String,
}

/// What is missing.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Missing {
    /// No attempt found a library that opens.
    Library {
        /// Every attempt, in order.
        tried: Vec<Attempt>,
    },
    /// The library is older than 1.5.0, which reports short transfers as done.
    TooOld {
        /// The library that was loaded.
        library: PathBuf,
    },
    /// The library lacks a function: it is newer or another than it should be.
    Symbol {
        /// The library that was loaded.
        library: PathBuf,
        /// The name that it lacks.
        symbol: String,
        /// The loader's reason.
        reason: String,
    },
    /// The library is there, and an agent with the plugin does not start.
    Plugin {
        /// The library that was loaded.
        library: PathBuf,
        /// The plugin.
        plugin: String,
        /// Which call failed.
        call: &'static str,
        /// What it answered.
        status: i32,
    },
}

impl fmt::Display for Missing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Library { tried } => {
                f.write_str("no library was found; tried ")?;
                for (index, Attempt { path, reason }) in tried.iter().enumerate() {
                    write!(f, "{}{}: {reason}", if index == 0 { "" } else { "; " }, path.display())?;
                }
                f.write_str("; install nixl-cu12, or name a library or its folder in KVBRIDGE_NIXL")
            }
            Self::TooOld { library } => write!(
                f,
                "{} is older than 1.5.0, which reports short transfers as done: expected 1.5.0 or newer; install nixl-cu12>=1.5.0, or name another in KVBRIDGE_NIXL",
                library.display()
            ),
            Self::Symbol { library, symbol, reason } => write!(
                f,
                "{} has no {symbol} ({reason}): expected the C interface of NIXL 1.5; name another library in KVBRIDGE_NIXL",
                library.display()
            ),
            Self::Plugin { library, plugin, call, status } => write!(
                f,
                "the plugin {plugin} of {} does not start: {call} answered {status}; NIXL's own log on stderr says more",
                library.display()
            ),
        }
    }
}

impl std::error::Error for Missing {}
