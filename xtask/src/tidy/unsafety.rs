//! Where `unsafe` may stand: a short list, each entry with its reason, so that a review knows what to read.

use super::Violation;
use super::mask::{code_only, has_word};
use super::tree::Tree;

/// A file, or a folder if it ends with a slash, and why it cannot do without. Add a line here for a new one.
const ALLOWED: &[(&str, &str)] = &[
    ("kv-format/src/kernels/x86/", "vector loads and stores, and loops compiled for a processor feature"),
    (
        "kv-format/benches/kernels/plain.rs",
        "plain copies to compare with: a string instruction, stores past the cache",
    ),
    ("kv-format/tests/mutations/allocations.rs", "counts what the system's allocator is asked for"),
    (
        "kv-format/src/flavour/simd.rs",
        "vector loads and stores, and calls of functions that need a CPU feature",
    ),
    (
        "kv-format/benches/flavour/plain.rs",
        "copies to compare with: rep movsb, non-temporal stores, huge pages",
    ),
    ("kv-memory/src/mapping.rs", "maps and unmaps host memory and hands out slices of it"),
    ("kv-memory/src/poison.rs", "calls two functions of AddressSanitizer's runtime"),
    ("kv-memory/src/buffer.rs", "an owned buffer is a slice of its region"),
    ("kv-memory/src/pool.rs", "computes where a part of the region begins"),
    ("kv-storage/src/posix/io/uring/ring.rs", "tells the kernel the addresses of buffers that the ring owns"),
    ("kv-storage/src/nixl/library.rs", "loads NIXL and casts its symbols to functions"),
    ("kv-storage/src/nixl/agent.rs", "calls NIXL, and tells it addresses of buffers that requests own"),
    ("kv-storage/src/nixl/exit.rs", "asks the C library for a call at the end of the process"),
    ("kv-storage/examples/fake_nixl/", "exports NIXL's C functions for tests"),
    ("kv-storage/benches/nixl/bare.rs", "the plain loop over NIXL's functions to compare with"),
    ("kv-storage/benches/store_alone/ring.rs", "the plain io_uring loop to compare with"),
    ("kv-storage/tests/costs.rs", "counts what the system's allocator is asked for"),
    ("kv-storage/tests/s3_memory.rs", "counts what the system's allocator is asked for"),
    ("kv-device/src/device.rs", "the one promise about an engine's memory is an unsafe fn of the trait"),
    ("kv-device/src/host/", "lends device memory out as slices, and implements the unsafe fn"),
    ("kv-device/src/twice.rs", "maps the memory of emulated devices twice"),
    ("kv-device/src/dynamic/", "loads a library and casts its symbols to functions"),
    ("kv-device/src/emulation/memory.rs", "copies between mapped areas, as the engines of a device do"),
    ("kv-device/src/emulation/control.rs", "calls, and serves, the C symbol that controls a fake"),
    ("kv-device/src/null.rs", "implements the unsafe fn"),
    ("kv-device/src/conformance/", "registers made-up engine memory to test any device"),
    ("kv-device/tests/", "calls the unsafe register fn"),
    ("kv-device-rocm/src/sys/table.rs", "names the types of HIP's functions"),
    ("kv-device-rocm/src/hip/", "calls HIP, and lends pinned memory out"),
    (
        "kv-device-rocm/src/device/",
        "queues kernels and copies, records events on an engine's stream, implements the unsafe fn",
    ),
    ("kv-device-rocm/examples/fake_hip/", "exports HIP's C functions for tests"),
    ("kv-device-rocm/tests/", "calls the emulated runtime as an engine does, and the unsafe register fn"),
    ("kv-device-hpu/src/sys/table.rs", "resolves the vendor's functions"),
    ("kv-device-hpu/src/synapse/", "calls the vendor's functions"),
    (
        "kv-device-hpu/src/device/",
        "gives copies of registered memory to a stream, and implements the unsafe fn",
    ),
    ("kv-device-hpu/examples/fake_synapse/", "exports the vendor's C functions, which take pointers"),
    ("kv-device-hpu/tests/", "calls the C functions, and the unsafe register fn"),
    (
        "examples/handoff/src/transfer/hip.rs",
        "calls four functions of HIP for the example engine's own memory",
    ),
    ("xtask/examples/uml_registers.rs", "passes ptrace's arguments on, some of them through a buffer"),
    ("kv-pipeline/src/register.rs", "passes the promise about an engine's memory on"),
    ("kv-pipeline/tests/", "calls the unsafe register fn"),
    ("kv-pipeline/examples/hot_loops.rs", "calls the unsafe register fn"),
    ("examples/custom_device/src/memory.rs", "reads and writes the engine's own memory"),
    ("examples/custom_device/src/device.rs", "implements the unsafe fn"),
    ("examples/custom_device/tests/", "calls the unsafe register fn"),
    ("kv-pipeline/benches/path_efficiency/registration.rs", "calls the unsafe register fn"),
    (
        "examples/handoff/src/transfer/registration.rs",
        "makes the promise for the example engine's own memory",
    ),
];

/// This file, where a stale entry is reported.
const LIST: &str = "xtask/src/tidy/unsafety.rs";

/// Checks every Rust file against the list, and the list against the files.
pub(super) fn check(tree: &Tree) -> Vec<Violation> {
    check_against(tree, ALLOWED)
}

fn check_against(tree: &Tree, list: &[(&str, &str)]) -> Vec<Violation> {
    let mut found = Vec::new();
    let mut used = vec![false; list.len()];
    for (path, text) in tree.rust() {
        let entry = list.iter().position(|(entry, _)| covers(entry, path));
        for (number, line) in (1..).zip(code_only(text).lines()) {
            if !has_word(line, "unsafe") {
                continue;
            }
            match entry.and_then(|index| used.get_mut(index)) {
                Some(used) => *used = true,
                None => found.push(Violation::new(
                    path,
                    number,
                    format!("unsafe outside of the modules that may have it (the list is in {LIST})"),
                )),
            }
        }
    }
    for ((entry, _), _) in list.iter().zip(used).filter(|(_, used)| !used) {
        let text = format!("{entry} may have unsafe code and has none: take it off the list");
        let line = tree.text(LIST).and_then(|text| text.lines().position(|line| line.contains(entry)));
        found.push(Violation::new(LIST, line.map_or(1, |index| index + 1), text));
    }
    found
}

fn covers(entry: &str, path: &str) -> bool {
    path == entry || (entry.ends_with('/') && path.starts_with(entry))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tidy::tree::of;

    const LISTED: &[(&str, &str)] = &[("kv-x/src/raw.rs", "reason"), ("kv-x/tests/", "reason")];

    fn found(files: &[(&str, &str)]) -> Vec<String> {
        check_against(&of(files), LISTED).iter().map(ToString::to_string).collect()
    }

    const RAW: (&str, &str) = ("kv-x/src/raw.rs", "unsafe fn f() {}\n");
    const TEST: (&str, &str) = ("kv-x/tests/t.rs", "fn f() { unsafe { g() } }\n");

    #[test]
    fn the_listed_modules_may_and_words_about_unsafe_are_free() {
        let words = ("kv-x/src/lib.rs", "#![forbid(unsafe_code)]\n// unsafe {\nlet x = \"unsafe fn\";\n");
        assert_eq!(found(&[RAW, TEST, words]), Vec::<String>::new());
    }

    #[test]
    fn every_form_is_found_elsewhere() {
        for form in [
            "unsafe { f() }",
            "unsafe\n{}",
            "unsafe fn f() {}",
            "unsafe impl Send for X {}",
            "unsafe extern \"C\" {}",
        ] {
            let found = found(&[RAW, TEST, ("kv-x/src/lib.rs", &format!("\n{form}\n"))]);
            assert_eq!(found.len(), 1, "{form}");
            assert!(found[0].starts_with("kv-x/src/lib.rs:2: "), "{found:?}");
        }
    }

    #[test]
    fn a_listed_module_without_unsafe_is_reported_at_its_line_of_the_list() {
        let list = (LIST, "\n    (\"kv-x/src/raw.rs\", \"reason\"),\n");
        let found = found(&[TEST, list]);
        assert_eq!(
            found,
            [format!("{LIST}:2: kv-x/src/raw.rs may have unsafe code and has none: take it off the list")]
        );
    }

    #[test]
    fn each_entry_has_a_reason_and_stands_once() {
        for (index, (entry, reason)) in ALLOWED.iter().enumerate() {
            assert!(!reason.is_empty(), "{entry}");
            assert!(ALLOWED.iter().skip(index + 1).all(|(other, _)| other != entry), "{entry} stands twice");
        }
    }
}
