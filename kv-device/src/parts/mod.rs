//! What a [`Device`](crate::Device) is built from, so that every implementation keeps the same promises: a queue with one thread
//! per direction, the count of transfers in flight, and the check of a transfer's bounds.

mod bounds;
mod in_flight;
mod pci;
mod queue;

pub use bounds::{check_bounds, check_granularity};
pub use in_flight::{InFlight, Ticket};
pub use pci::numa_node;
pub use queue::{Completion, Moved, TransferQueue};
