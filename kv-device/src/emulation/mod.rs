//! What an emulated vendor runtime is made of, whatever its ABI: memory, streams and events, faults, a clock, a log of calls.
//!
//! A device crate builds a shared library that exports the vendor's C functions over one [`Machine`], so that its backend is tested
//! through `dlopen`, as it will run. The core knows no vendor: handles are numbers, and failures are [`Failure`]s that the fake
//! translates into its vendor's codes. What the vendors have in common is here:
//!
//! * **Memory** ([`Memory`]): device addresses that fault when the host touches them and are never used again once freed; pinned and
//!   registered host memory; limits; a report of what was not freed.
//! * **Streams** run their work in order, and nothing orders two streams but events. The [`Schedule`] is either `Lazy`, the laziest that
//!   the rules allow (work runs when somebody waits for it, and no earlier), in which a forgotten wait shows every time, or
//!   `Threads`, one per stream. A stream can be *held*, which delays whatever it was asked to do.
//! * **Faults**: the n-th call of a symbol answers a code, the device is lost in the midst of the n-th copy, memory runs out.
//! * **Time** ([`Model`]): bandwidths and the cost of a call, on a clock that is virtual (nothing waits) or real.
//!
//! Tests control a fake through one more C symbol ([`CONTROL_SYMBOL`]), by [`Control`]; child processes inherit a script in the
//! environment ([`SCRIPT_VARIABLE`]). Each copy of the library's *file* is a machine of its own ([`own_copy`]), so a test that must not share state
//! loads its own copy.

mod calls;
mod children;
mod control;
mod copies;
mod host;
mod machine;
mod memory;
mod model;
mod streams;
mod work;

pub use calls::Calls;
pub use children::{child, part};
pub use control::{CONTROL_SYMBOL, Control, SCRIPT_VARIABLE, serve};
pub use copies::{own_copy, own_copy_without};
pub use host::{Checksums, NotBefore};
pub use machine::Machine;
pub use memory::{Area, Memory, Pageable, Place, Refused};
pub use model::{Direction, Model};
pub use streams::{HandleError, Schedule};
pub use work::{Failure, Piece, Side, Task, Work};
