//! An emulated HIP runtime: HIP's C functions over `kv_device::emulation`, with the vendor's rules and the vendor's codes.
//!
//! Built as a shared library for this crate's tests, which load it as they would load `libamdhip64.so`. Its own settings
//! (`set KEY VALUE`, see `kv_device::emulation::Machine::command`), with what they are without:
//!
//! * `devices 2`, `arch gfx942`, `hip-version 70200000`: what it claims to be. Memory kinds, properties and batches follow the version.
//! * `strict 0`: with 1, an asynchronous copy of host memory that is not pinned is refused; otherwise it is staged, at once.
//! * `skip-kernels 0`, `kernel-bytes 0`: with 1, kernels move nothing; what the model takes a kernel to read and write.
//! * `batch-limit 8192`: descriptors of a batch beyond which the device faults.
//!
//! Fresh memory is full of 0xA5. `hipFree` and its like free what they are given even if the script lets them answer an error, as a
//! runtime does that reports an earlier failure.

mod copies;
mod devices;
mod fake;
mod kernels;
mod memory;
mod names;
mod queues;
mod rtc;
