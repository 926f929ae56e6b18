//! Any text as a digest or a name, and any texts and numbers as a namespace with its keys and headers.

use super::groups;
use super::numbers::Numbers;
use kv_format::*;

/// Headers of more are not written out.
const MOST_SECTIONS: usize = 1000;

/// Whether the input was a name or digest, or a namespace with tokens.
pub fn check(input: &[u8]) -> bool {
    let Some((choice, rest)) = input.split_first() else { return false };
    let numbers = &mut Numbers(rest);
    match choice % 4 {
        0 | 2 => names(&String::from_utf8_lossy(rest)),
        1 => {
            let attention = attention(numbers);
            keys(vec![attention], numbers)
        }
        _ => {
            let all = (0..numbers.byte() % 5).map(|_| groups::group(numbers)).collect();
            keys(all, numbers)
        }
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
    if let Ok(layout) = text.parse::<EngineLayout>() {
        assert_eq!((layout.name(), layout.to_string().as_str()), (text, text));
        return true;
    }
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

fn attention(numbers: &mut Numbers<'_>) -> KvGroup {
    let layers = numbers.u32()..numbers.u32();
    let kv_heads = numbers.u32() % 4097;
    let rule = GroupRule::FullAttention { key_dim: numbers.u32(), value_dim: numbers.u32() };
    KvGroup::new(rule, layers, kv_heads)
}

fn keys(groups: Vec<KvGroup>, numbers: &mut Numbers<'_>) -> bool {
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
        groups,
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
        if index < 2 {
            header(&namespace, identity);
        }
    }
    assert_eq!(end as usize, tokens.len());
    // A sequence that goes on has the same keys as far as the chunks are whole.
    let whole = tokens.len() - tokens.len() % namespace.chunk_tokens() as usize;
    let early: Vec<Extra> = extras.into_iter().filter(|extra| (extra.position as usize) < whole).collect();
    let prefix = chunks(&namespace, &tokens[..whole], &early).expect("a prefix of what was cut");
    assert_eq!(prefix[..], all[..prefix.len()]);
    !all.is_empty()
}

/// What can be described can be read: the header of an object comes back as it was written, unless the object is too large.
fn header(namespace: &Namespace, identity: ObjectIdentity) {
    let Ok(layout) = ObjectLayout::new(namespace, &identity.slice, identity.token_count) else { return };
    let sections = layout.sections.len();
    if sections > MOST_SECTIONS {
        return;
    }
    let object_len = layout.object_len;
    let mut bytes = vec![0xFF; usize::try_from(layout.header_len).expect("of few sections")];
    let header = ObjectHeader { identity, layout, checksums: vec![7; sections], producer: "fuzz".into() };
    header.encode(&mut bytes).expect("a header that fits");
    let read = ObjectHeader::decode(&bytes, object_len).expect("what a writer writes can be read");
    assert_eq!(read, header);
}
