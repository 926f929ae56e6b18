//! What verification costs: the checksum beside a plain copy of the same bytes, from the cache and from memory.
//!
//! A checksum of bytes that were just copied should take about as long as copying them did; over bytes that have left the cache it
//! costs a pass over memory. That difference is why the pipeline works in parts.

use std::hint::black_box;
use std::time::Duration;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use kv_format::Checksum;

/// Stays in a core's second-level cache.
const HOT: usize = 1 << 20;
/// Larger than any last-level cache.
const COLD: usize = 256 << 20;

fn checksum_beside_copy(criterion: &mut Criterion) {
    for (name, bytes) in [("hot 1 MiB", HOT), ("cold 256 MiB", COLD)] {
        let source: Vec<u8> = (0..=u8::MAX).cycle().take(bytes).collect();
        let mut copy = vec![0; bytes];
        let mut group = criterion.benchmark_group(format!("checksum and copy, {name}"));
        group.throughput(Throughput::Bytes(bytes as u64));
        group.bench_function("CRC-64/NVME", |bencher| bencher.iter(|| Checksum::of(black_box(&source))));
        group.bench_function("memcpy", |bencher| {
            bencher.iter(|| black_box(&mut copy).copy_from_slice(black_box(&source)));
        });
        group.finish();
    }
}

criterion_group! {
    name = checksum;
    config = Criterion::default().sample_size(10).measurement_time(Duration::from_secs(1))
        .warm_up_time(Duration::from_millis(300));
    targets = checksum_beside_copy
}
criterion_main!(checksum);
