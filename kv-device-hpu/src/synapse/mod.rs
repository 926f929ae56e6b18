//! The second level: libSynapse with results, owned handles and text, for one process.
//!
//! A [`Runtime`] is the loaded library; a [`Session`] is the one device that a process can have, acquired by us or by the engine around
//! us; [`Stream`], [`Event`], [`DeviceMemory`] and [`MappedPages`] are what it gives, each returned when dropped, the session last.
#![expect(unsafe_code, reason = "calls the vendor's functions")]

mod device_type;
mod error;
mod memory;
mod runtime;
mod session;
mod stream;

pub use device_type::DeviceType;
pub use error::VendorError;
pub use memory::{DeviceMemory, MappedPages};
pub use runtime::{LIBRARY_VARIABLE, OLDEST_VERSION, Runtime};
pub use session::{Mode, Selector, Session};
pub use stream::{Copies, Direction, Event, Stream};
