//! The gather and scatter kernels: their code for a processor, and what a launch tells them.

mod code;
mod program;

pub use code::SOURCE;
pub(crate) use code::kernels;
pub(crate) use program::{Program, THREADS};
