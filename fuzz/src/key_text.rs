//! Any text as a digest or a name, and any texts and numbers as a namespace with its keys.

use super::numbers::Numbers;
use kv_format::*;

/// Whether the input was a name or digest, or a namespace with tokens.
pub fn check(input: &[u8]) -> bool {
    let Some((choice, rest)) = input.split_first() else { return false };
    match choice % 2 {
        0 => names(&String::from_utf8_lossy(rest)),
        _ => keys(&mut Numbers(rest)),
    }
}

/// What parses has one spelling, and says nothing but digits and slashes to a file system.
fn names(text: &str) -> bool {
    let mut spellings = Vec::new();
    spellings.extend(NamespaceDigest::from_hex(text).map(|it| it.to_string()));
    spellings.extend(ChunkKey::from_hex(text).map(|it| it.to_string()));
    spellings.extend(ContentDigest::from_hex(text).map(|it| it.to_string()));
    spellings.extend(InputDigest::from_hex(text).map(|it| it.to_string()));
    spellings.extend(text.parse::<ObjectName>().map(|it| it.to_string()));
    spellings.extend(text.parse::<RecordName>().map(|it| it.to_string()));
    for spelling in &spellings {
        assert_eq!(spelling, text);
        assert!(
            !text.contains("..") && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"./".contains(&b))
        );
    }
    let record = RecordName::request(text, 3);
    assert_eq!(record.to_string().parse::<RecordName>().as_ref(), Ok(&record));
    !spellings.is_empty()
}

fn keys(numbers: &mut Numbers<'_>) -> bool {
    let layers = numbers.u32()..numbers.u32();
    let group = KvGroup {
        layers: layers.into(),
        // A slice table is made of them; its length is the describer's to choose.
        kv_heads: numbers.u32() % 4097,
        rule: GroupRule::FullAttention { key_dim: numbers.u32(), value_dim: numbers.u32() },
        dtype: None,
        scales: None,
    };
    let theta = f64::from_bits(numbers.u64());
    let digest = |numbers: &mut Numbers<'_>| InputDigest([numbers.byte(); 32]);
    let model = ModelIdentity {
        name: numbers.text(80),
        weights: digest(numbers),
        adapters: (0..numbers.byte() % 4).map(|_| digest(numbers)).collect(),
        weight_quantisation: numbers.text(20),
        rope_pairing: RopePairing::Interleaved,
        rope_theta: if numbers.byte().is_multiple_of(4) { theta } else { 10_000.0 },
        rope_scaling: numbers.text(20),
        groups: vec![group],
    };
    let degrees: Vec<u32> = (0..numbers.byte() % 4).map(|_| numbers.u32()).collect();
    let stages: Vec<u32> = (0..numbers.byte() % 4).map(|_| numbers.u32()).collect();
    let builder = Namespace::builder(model)
        .chunk_tokens(if numbers.byte().is_multiple_of(4) { numbers.u32() } else { 16 })
        .tensor_parallel(&degrees)
        .pipeline_stages(&stages)
        .tenant(numbers.text(30));
    let Ok(namespace) = builder.clone().build() else { return false };
    assert!(namespace.differences(&builder.build().expect("it was built before")).is_empty());

    let extras: Vec<Extra> =
        (0..numbers.byte() % 4).map(|_| Extra { position: numbers.u32(), digest: digest(numbers) }).collect();
    let tokens: Vec<u32> = (0..numbers.byte()).map(|_| numbers.u32()).collect();
    let Ok(all) = chunks(&namespace, &tokens, &extras) else { return false };
    let mut end = 0;
    for (index, chunk) in (0..).zip(&all) {
        assert_eq!((chunk.index, chunk.tokens.start), (index, end));
        assert_eq!(chunk.parent, index.checked_sub(1).map(|before| all[before as usize].key));
        let len = chunk.tokens.end - chunk.tokens.start;
        assert!(len > 0 && chunk.tail == (len < namespace.chunk_tokens()));
        assert!(!chunk.tail || index as usize == all.len() - 1, "a tail in the middle");
        end = chunk.tokens.end;
        let slices = u32::try_from(namespace.slices().slices().len()).expect("there are few");
        let slice = numbers.u32() % slices.max(1);
        let name = ObjectName { namespace: namespace.digest(), key: chunk.key, chunk_index: index, slice };
        assert_eq!(name.to_string().parse::<ObjectName>().as_ref(), Ok(&name));
        let identity = ObjectIdentity::new(&namespace, chunk, slice).expect("the slice is one of the table");
        let _layout_or_too_large = ObjectLayout::new(&namespace, &identity.slice, identity.token_count);
    }
    assert_eq!(end as usize, tokens.len());
    // A sequence that goes on has the same keys as far as the chunks are whole.
    let whole = tokens.len() - tokens.len() % namespace.chunk_tokens() as usize;
    let early: Vec<Extra> = extras.into_iter().filter(|extra| (extra.position as usize) < whole).collect();
    let prefix = chunks(&namespace, &tokens[..whole], &early).expect("a prefix of what was cut");
    assert_eq!(prefix[..], all[..prefix.len()]);
    !all.is_empty()
}
