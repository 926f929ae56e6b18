//! The emulated NIXL as an old one: without what came with 1.5.0.

mod calls;
mod end;
mod machine;
