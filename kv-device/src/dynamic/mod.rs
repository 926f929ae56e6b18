//! A vendor's library, loaded at run time: where it is looked for, and what is said when it is not there.
//!
//! A [`LibrarySearch`] tries an explicit path from the environment, else the copy that the process has mapped already (an engine's:
//! two copies of one runtime in a process are trouble), else the loader's own search by name, else directories. The error of a search
//! names every attempt with the loader's reason, so that "not installed", "of another architecture" and "lacks a library that it
//! needs" can be told apart. A loaded [`Library`] is never unloaded: runtimes have threads of their own.

mod library;
mod search;

pub use library::Library;
pub use search::{Attempt, LibrarySearch, Origin, mapped};

use std::fmt;

/// What is missing, as the source of an [`Error`](crate::Error) of kind [`Unavailable`](crate::ErrorKind::Unavailable).
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Missing {
    /// No attempt to open the library succeeded.
    Library {
        /// Every attempt, in order.
        tried: Vec<Attempt>,
    },
    /// The library was loaded and lacks a symbol: it is older, newer or another library than it should be.
    Symbol {
        /// The library that was loaded.
        library: String,
        /// The name that it lacks.
        symbol: String,
        /// The loader's reason.
        reason: String,
    },
}

impl fmt::Display for Missing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Library { tried } => {
                for (index, Attempt { path, reason }) in tried.iter().enumerate() {
                    write!(f, "{}{path}: {reason}", if index == 0 { "" } else { "; " })?;
                }
                Ok(())
            }
            Self::Symbol { library, symbol, reason } => write!(f, "{library} lacks {symbol}: {reason}"),
        }
    }
}

impl std::error::Error for Missing {}
