//! An emulated NIXL: its C interface over plain calls, for tests, which load it as they would load `libnixl_capi.so`.
//!
//! What it does is said by parameters of the plugin (`NixlOptions::parameter`):
//!
//! * `fake`: `ok` (the default); `refuse`: the plugin does not start; `fail-create`, `fail-post`, `fail`: a transfer fails, without moving a
//!   byte, when it is made, posted, or asked about; `short`: it moves half and says that it is done, as 1.3 and 1.4 do; `nothing`: it moves
//!   nothing and says so of the whole.
//! * `fake_while`: a file; only while it exists is `fake` what it says.
//! * `fake_hang`: a file; while it exists reads do not end, and one that does not makes the file `fake_hung`.
//! * `fake_end`: a file; the destruction of an agent makes it, and goes on until the process ends.
//! * `fake_questions`: how often a transfer is asked about before it ends. Default 1.
//!
//! Objects are the letters of their keys, over and over: a double of a store is not its business. It dies where the real one may: of a
//! transfer that names unregistered memory, of an agent that is destroyed while it moves bytes, or while
//! the process cleans up, of a second thread.

mod calls;
mod end;
mod machine;

/// What 1.5.0 has and 1.4.0 has not.
#[unsafe(no_mangle)]
pub(crate) extern "C" fn nixl_capi_prep_mem_view_local() -> i32 {
    -1
}
