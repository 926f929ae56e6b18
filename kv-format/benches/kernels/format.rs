//! What headers and keys cost beside the hashing that they cannot do without.

use std::hint::black_box;

use kv_format::reference::builder;
use kv_format::{Checksum, ObjectHeader, ObjectIdentity, ObjectLayout, chunks};

use crate::Options;
use crate::spread::{Spread, on_processor};

/// Layers, KV heads and elements of a head of Llama-3.1-70B.
const SHAPE: (u32, u32, u32) = (80, 8, 128);

/// Turns of one measurement of a header.
const TURNS: u32 = 2000;

/// Measures both and prints the table.
pub(crate) fn run(options: &Options) {
    if options.wants("header") {
        header(options);
    }
    if options.wants("keys") {
        keys(options);
    }
}

/// Encoding and decoding the header of one head's slice, and its floor: one content digest and one checksum each.
fn header(options: &Options) {
    let namespace = builder(SHAPE.0, SHAPE.1, SHAPE.2).tensor_parallel(&[1, 8]).build().unwrap();
    let tokens: Vec<u32> = (0..512).collect();
    let chunk = &chunks(&namespace, &tokens, &[]).unwrap()[1];
    let identity = ObjectIdentity::new(&namespace, chunk, 3).unwrap();
    let layout = ObjectLayout::new(&namespace, &identity.slice, identity.token_count).unwrap();
    let checksums = (0..).take(layout.sections.len()).collect();
    let header = ObjectHeader { identity, layout, checksums, producer: "bench".into() };
    let mut bytes = vec![0; usize::try_from(header.layout.header_len).unwrap()];
    let object_len = header.layout.object_len;
    let digested = 48 * header.layout.sections.len() + 192 - 48;
    let (mut encode, mut decode, mut floor) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..options.rounds {
        encode.push(microseconds(TURNS, || header.encode(black_box(&mut bytes)).unwrap()));
        decode.push(microseconds(TURNS, || {
            black_box(ObjectHeader::decode(black_box(&bytes), object_len).unwrap());
        }));
        floor.push(microseconds(TURNS, || {
            black_box(blake3::hash(black_box(&bytes[..digested])));
            black_box(Checksum::of(black_box(&bytes)));
        }));
    }
    let total = Spread::of(encode.iter().zip(&decode).map(|(encode, decode)| encode + decode));
    println!("\n| header of 160 sections | microseconds | target | |");
    println!("|---|---|---|---|");
    println!("| encode | {:.2} | | |", Spread::of(encode));
    println!("| decode | {:.2} | | |", Spread::of(decode));
    println!("| its BLAKE3 and its CRC alone, once | {:.2} | | |", Spread::of(floor));
    let verdict = if total.median <= 2.0 { "met" } else { "above" };
    println!("| encode and decode | {total:.2} | 2 | {verdict} |");
}

/// The keys of 131,072 tokens beside as many separate hashes of as many bytes.
fn keys(options: &Options) {
    let namespace = builder(SHAPE.0, SHAPE.1, SHAPE.2).tensor_parallel(&[1, 8]).build().unwrap();
    let tokens: Vec<u32> = (0..131_072).collect();
    let plain: Vec<u8> = tokens.iter().flat_map(|token| token.to_le_bytes()).collect();
    // Every chunk's encoding: namespace, parent flag, parent, index, count, 256 tokens, count of extras.
    const ENCODED: usize = 32 + 1 + 32 + 4 + 8 + 1024 + 8;
    let (mut ours, mut separate) = (Vec::new(), Vec::new());
    for _ in 0..options.rounds {
        ours.push(microseconds(5, || {
            black_box(chunks(&namespace, black_box(&tokens), &[]).unwrap());
        }));
        separate.push(microseconds(5, || {
            for start in (0..512).map(|chunk| (chunk * 1024).min(plain.len() - ENCODED)) {
                black_box(blake3::hash(black_box(&plain[start..start + ENCODED])));
            }
        }));
    }
    let ratio = Spread::of(ours.iter().zip(&separate).map(|(ours, separate)| ours / separate));
    println!(
        "\n| keys of 131,072 tokens | microseconds | 512 hashes of the same sizes | ratio | at most | |"
    );
    println!("|---|---|---|---|---|---|");
    let verdict = if ratio.median <= 1.2 { "met" } else { "above" };
    println!(
        "| 512 chunks | {:.0} | {:.0} | {ratio:.2} | 1.2 | {verdict} |",
        Spread::of(ours),
        Spread::of(separate)
    );
}

/// Microseconds of one turn.
fn microseconds(turns: u32, mut turn: impl FnMut()) -> f64 {
    let start = on_processor();
    (0..turns).for_each(|_| turn());
    (on_processor() - start).as_secs_f64() * 1e6 / f64::from(turns)
}
