//! Compiles the kernels for the host, where the emulated runtime is built: a user's build runs no compiler but Rust's.

fn main() {
    println!("cargo:rerun-if-changed=kernels/gather_scatter.hip");
    #[cfg(feature = "emulation")]
    host_kernels();
}

#[cfg(feature = "emulation")]
fn host_kernels() {
    let mut build = cc::Build::new();
    build.cpp(true).cpp_link_stdlib(None).cargo_metadata(false).std("c++17");
    build.define("KV_HOST", None).flag("-xc++").opt_level(2).file("kernels/gather_scatter.hip");
    build.compile("kv_kernels_on_host");
    // `examples/fake_hip` names the library.
    let folder = std::env::var("OUT_DIR").unwrap_or_default();
    println!("cargo:rustc-link-search=native={folder}");
}
