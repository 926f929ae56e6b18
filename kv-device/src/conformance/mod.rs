//! The suite that every [`Device`](crate::Device) runs: ours and third parties'.
//!
//! Implement [`Engine`] for your device (how an engine allocates, reads and writes memory there, and makes a fence), and
//!
//! ```no_run
//! # async fn check(engine: &dyn kv_device::conformance::Engine) {
//! kv_device::conformance::run(engine).await.assert();
//! # }
//! ```
//!
//! Run it under both flavours of tokio's runtime, with time enabled. A failed check leaks the device memory that it registered: nobody
//! knows whether a transfer still writes it.

mod engine;
mod facts;
mod fences;
mod layouts;
mod lifetimes;
mod movement;
mod now;
mod order;
mod probe;
mod refusal;
mod report;
mod scene;

pub use engine::{Engine, EngineFence, EngineMemory};
pub use report::{Outcome, Report};

/// Runs every check, one after the other. Each has a deadline.
///
/// # Cancel safety
/// Not cancel safe: device memory of the check that was running is leaked.
pub async fn run(engine: &dyn Engine) -> Report {
    let mut report = Report::default();
    report.check("device_says_what_it_is", facts::device_says_what_it_is(engine)).await;
    report.check("staging_is_memory", facts::staging_is_memory(engine)).await;
    report.check("gather_moves_every_layout", movement::gather_moves_every_layout(engine)).await;
    report.check("scatter_moves_every_layout", movement::scatter_moves_every_layout(engine)).await;
    report.check("round_trip_between_layouts", movement::round_trip_between_layouts(engine)).await;
    report.check("empty_transfer_moves_nothing", movement::empty_transfer_moves_nothing(engine)).await;
    report.check("out_of_bounds_is_invalid", refusal::out_of_bounds_is_invalid(engine)).await;
    report.check("copies_now_are_the_same_copies", now::copies_now_are_the_same_copies(engine)).await;
    report.check("copies_now_are_refused_when_closed", now::copies_now_are_refused_when_closed(engine)).await;
    report.check("unknown_regions_are_refused", refusal::unknown_regions_are_refused(engine)).await;
    report.check("gather_waits_for_its_fence", fences::gather_waits_for_its_fence(engine)).await;
    report.check("scatter_waits_for_its_fence", fences::scatter_waits_for_its_fence(engine)).await;
    report.check("native_fences_are_awaited", fences::native_fences_are_awaited(engine)).await;
    report.check("fence_timeout_moves_nothing", fences::fence_timeout_moves_nothing(engine)).await;
    report.check("failed_fence_moves_nothing", fences::failed_fence_moves_nothing(engine)).await;
    report
        .check(
            "dropped_future_keeps_buffers_alive_in_gather",
            lifetimes::dropped_future_keeps_buffers_alive_in_gather(engine),
        )
        .await;
    report
        .check(
            "dropped_future_keeps_buffers_alive_in_scatter",
            lifetimes::dropped_future_keeps_buffers_alive_in_scatter(engine),
        )
        .await;
    report.check("close_waits_and_then_refuses", lifetimes::close_waits_and_then_refuses(engine)).await;
    report.check("registrations_are_independent", lifetimes::registrations_are_independent(engine)).await;
    report.check("one_direction_keeps_its_order", order::one_direction_keeps_its_order(engine)).await;
    report.check("a_full_queue_makes_progress", order::a_full_queue_makes_progress(engine)).await;
    report
}
