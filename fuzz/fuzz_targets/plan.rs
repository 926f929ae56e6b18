#![no_main]
libfuzzer_sys::fuzz_target!(|input: &[u8]| {
    let _accepted = kv_fuzz::plan::check(input);
});
