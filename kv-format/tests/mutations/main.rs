//! A million damaged objects: no panic, no large allocation, and enough of them reach the deepest checks.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod allocations;
mod mutator;
mod objects;
mod repair;
mod valid;

use allocations::{Allocated, Counting, counted};
use kv_format::reference::builder;
use kv_format::*;
use mutator::Mutator;
use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use valid::Valid;

#[global_allocator]
static ALLOCATOR: Counting = Counting;

const MUTANTS: u64 = 1_000_000;
const SEED: u64 = 0x4B56_2026;

/// What a reader may need besides a copy of its input.
const SLACK: usize = 64 << 10;

/// Where a mutant ends: a part of the message of each check that a reader makes, from the first to the last.
const DEPTHS: [(&str, ErrorKind); 29] = [
    ("the header ends before", ErrorKind::Truncated),
    ("the first 8 bytes", ErrorKind::NotKvObject),
    ("format major version", ErrorKind::Incompatible),
    ("expected whole pages", ErrorKind::Corrupt),
    ("header checksum", ErrorKind::Corrupt),
    ("required features", ErrorKind::Incompatible),
    ("an object of", ErrorKind::Corrupt),
    ("but its header says", ErrorKind::Truncated),
    ("unknown flags", ErrorKind::Corrupt),
    ("scale granularity code", ErrorKind::Incompatible),
    ("scale direction code", ErrorKind::Incompatible),
    ("scale granularity and direction contradict", ErrorKind::Corrupt),
    ("tensor kind code", ErrorKind::Incompatible),
    ("which are no KV group", ErrorKind::Corrupt),
    ("mix dtypes", ErrorKind::Corrupt),
    ("are not those of its first", ErrorKind::Corrupt),
    ("does not end with the last layer", ErrorKind::Corrupt),
    ("rope pairing", ErrorKind::Incompatible),
    ("no layers, no heads or no tokens", ErrorKind::Corrupt),
    ("parent flag contradict", ErrorKind::Corrupt),
    ("sections in a header", ErrorKind::Corrupt),
    ("dtype", ErrorKind::Incompatible),
    ("table entry", ErrorKind::Corrupt),
    ("the last section ends", ErrorKind::Corrupt),
    ("sections aligned to", ErrorKind::Corrupt),
    ("the producer is not", ErrorKind::Corrupt),
    ("no writer of this version", ErrorKind::Corrupt),
    ("content digest does not belong", ErrorKind::Corrupt),
    ("section checksum", ErrorKind::Corrupt),
];

/// Those of them that an object of any KV group and of any scales has to reach, too.
const GROUPED: [&str; 13] = [
    "but its header says",
    "scale granularity code",
    "scale direction code",
    "scale granularity and direction contradict",
    "tensor kind code",
    "which are no KV group",
    "mix dtypes",
    "are not those of its first",
    "does not end with the last layer",
    "table entry",
    "sections aligned to",
    "content digest does not belong",
    "section checksum",
];

//= SPEC.md#read-bounds
#[test]
fn a_million_damaged_objects_are_refused_without_a_panic_or_a_large_allocation() {
    let (mut objects, grouped) = (objects::plain(), objects::grouped());
    let plain = objects.len();
    objects.extend(grouped);
    // How often, and how often from objects of groups.
    let mut ends: BTreeMap<String, (u64, u64)> = BTreeMap::new();
    let mut largest = (Allocated { at_once: 0, in_one_piece: 0 }, 0);
    for number in 0..MUTANTS {
        let seed = SEED.wrapping_add(number << 20);
        let mutant = Mutator(seed).mutant(&objects, 3);
        let wanted = &objects[mutant.of];
        let about =
            || format!("Mutator({seed:#x}).mutant(_, 3), which is object {}: {}", mutant.of, mutant.how);
        let (outcome, allocated) = counted(|| catch_unwind(AssertUnwindSafe(|| wanted.read(&mutant.bytes))));
        let outcome = outcome.unwrap_or_else(|_| panic!("a reader panicked on {}", about()));
        assert!(
            allocated.at_once <= mutant.bytes.len() + SLACK,
            "{allocated:?} for an input of {} bytes: {}",
            mutant.bytes.len(),
            about()
        );
        largest = largest.max((allocated, mutant.bytes.len()));
        let end = match outcome {
            Ok(()) => "read".to_owned(),
            Err(error) => {
                let message = error.to_string();
                let depth =
                    DEPTHS.iter().find(|(part, kind)| error.kind() == *kind && message.contains(part));
                match depth {
                    Some((part, _)) => (*part).to_owned(),
                    None if message.contains("is wanted") => "another identity".to_owned(),
                    None => {
                        format!("{:?}: {}", error.kind(), message.replace(|c: char| c.is_ascii_digit(), ""))
                    }
                }
            }
        };
        let count = ends.entry(end).or_default();
        *count = (count.0 + 1, count.1 + u64::from(mutant.of >= plain));
    }
    for (end, (all, grouped)) in &ends {
        println!("{all:>8} {grouped:>8}  {end}");
    }
    println!("at most {:?}, for an input of {} bytes", largest.0, largest.1);
    for part in DEPTHS.iter().map(|(part, _)| *part).chain(["read", "another identity"]) {
        assert!(ends.get(part).is_some_and(|(all, _)| *all > 20), "too few mutants reach {part:?}: {ends:?}");
    }
    for part in GROUPED.into_iter().chain(["read", "another identity"]) {
        assert!(
            ends.get(part).is_some_and(|(_, grouped)| *grouped > 20),
            "too few mutants of objects of groups reach {part:?}: {ends:?}"
        );
    }
}

/// Where headers are longer than the slack: no piece is larger than the header, and all are a small multiple of it.
#[test]
fn memory_is_bounded_by_the_header_where_it_is_a_megabyte() {
    let namespace = builder(9000, 1, 2).chunk_tokens(16).build().unwrap();
    let tokens: Vec<u32> = (0..16).collect();
    let object = Valid::new(&namespace, &chunks(&namespace, &tokens, &[]).unwrap()[0], 0, "large");
    let header_len = usize::try_from(object.layout.header_len).unwrap();
    let mut input = object.bytes[..header_len].to_vec();
    // As it is, and with its last entry wrong: what is found last.
    for right in [true, false] {
        if !right {
            let last = 320 + 48 * 17_999;
            input[last + 24] ^= 1;
            repair::repair(&mut input, true);
        }
        let (header, allocated) = counted(|| ObjectHeader::decode(&input, object.layout.object_len));
        assert_eq!(header.is_ok(), right);
        println!("{allocated:?} for a header of {header_len} bytes");
        assert!(
            allocated.in_one_piece > 4096 && allocated.in_one_piece <= header_len + SLACK,
            "{allocated:?}"
        );
        assert!(allocated.at_once <= 2 * header_len + SLACK, "{allocated:?}");
    }
}

#[test]
fn the_allocator_counts() {
    let buffer = |len: usize| vec![0_u8; len];
    let (kept, allocated) = counted(|| (buffer(100_000), buffer(50_000)));
    assert_eq!(allocated, Allocated { at_once: 150_000, in_one_piece: 100_000 });
    let ((), allocated) = counted(|| {
        drop(kept);
        drop(buffer(70_000));
    });
    assert_eq!(allocated, Allocated { at_once: 0, in_one_piece: 70_000 });
}
