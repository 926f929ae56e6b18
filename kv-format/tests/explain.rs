//! What operators are told about keys: all that is in them, the first difference, and never a secret.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use kv_format::reference::builder;
use kv_format::*;

const SALT: &str = "a salt that nobody may read";

fn namespace() -> Namespace {
    builder(2, 2, 8).chunk_tokens(16).tenant(SALT).build().unwrap()
}

fn extra(position: u32, digest: u8) -> Extra {
    Extra { position, digest: InputDigest([digest; 32]) }
}

#[test]
fn a_key_is_explained_by_all_that_it_is_made_of() {
    let namespace = namespace();
    let tokens: Vec<u32> = (0..40).collect();
    let extras = [extra(3, 1), extra(17, 2), extra(31, 3), extra(32, 4)];
    let explanation = explain(&namespace, &tokens, &extras).unwrap();
    let all = chunks(&namespace, &tokens, &extras).unwrap();
    assert_eq!(explanation.chunks(), all);
    assert_eq!(explanation.namespace().digest(), namespace.digest());

    let chunk = explanation.find(all[1].key).unwrap();
    assert_eq!(chunk.chunk, all[1]);
    assert_eq!(chunk.extras, &extras[1..3]);
    assert_eq!(chunk.objects.len(), 2, "one slice a head");
    for (slice, object) in (0..).zip(&chunk.objects) {
        let wanted = ObjectName { namespace: namespace.digest(), key: all[1].key, chunk_index: 1, slice };
        assert_eq!(*object, wanted);
    }
    let text = chunk.to_string();
    for component in namespace.components() {
        assert!(text.contains(&component.name) && text.contains(&component.shown), "{component:?}");
    }
    for wanted in [
        format!("namespace {}", namespace.digest()),
        "chunk 1: 16 tokens, 16..32".to_owned(),
        format!("key     {}", all[1].key),
        format!("parent  {}", all[0].key),
        format!("extra   {} at token 17", "02".repeat(32)),
        format!("object  {}", chunk.objects[1]),
    ] {
        assert!(text.contains(&wanted), "{wanted} is not in\n{text}");
    }
    let text = explanation.to_string();
    assert!(all.iter().all(|chunk| text.contains(&chunk.key.to_string())), "{text}");
    assert!(
        text.contains("sequence of 40 tokens in 3 chunks") && text.contains("chunk 2 (tail): 8 tokens"),
        "{text}"
    );
    assert!(explanation.chunk(0).unwrap().to_string().contains("parent  (none"));
    assert!(explanation.chunk(3).is_none() && explanation.find(ChunkKey([0; 32])).is_none());
}

#[test]
fn a_tenants_salt_is_in_no_text() {
    let (ours, theirs) =
        (namespace(), builder(2, 2, 8).chunk_tokens(16).tenant("another secret").build().unwrap());
    let tokens: Vec<u32> = (0..20).collect();
    let (a, b) = (explain(&ours, &tokens, &[]).unwrap(), explain(&theirs, &tokens, &[]).unwrap());
    let comparison = a.compare(&b);
    assert_eq!(comparison.components[0].component, "tenant");
    let chunk = a.chunk(0).unwrap();
    let texts = [
        a.to_string(),
        format!("{a:?}"),
        format!("{a:#?}"),
        chunk.to_string(),
        format!("{chunk:?}"),
        comparison.to_string(),
        format!("{comparison:?}"),
    ];
    // As text, and as the bytes that a derived `Debug` would print.
    let bytes = format!("{:?}", &SALT.as_bytes()[..4]);
    let bytes = bytes.trim_matches(['[', ']']);
    for text in texts {
        assert!(!text.contains(SALT) && !text.contains("another secret") && !text.contains(bytes), "{text}");
    }
}

#[test]
fn the_first_difference_is_named() {
    let ours = namespace();
    let tokens: Vec<u32> = (100..148).collect();
    let extras = [extra(20, 1), extra(40, 2)];
    let a = explain(&ours, &tokens, &extras).unwrap();
    let compare = |tokens: &[u32], extras: &[Extra]| a.compare(&explain(&ours, tokens, extras).unwrap());

    let same = compare(&tokens, &extras);
    assert!(same.is_same());
    assert_eq!(same.to_string(), "the same: all 3 chunks have the same names");

    let mut changed = tokens.clone();
    changed[17] = 9;
    let comparison = compare(&changed, &[]);
    let token = SequenceDifference::Token { chunk: 1, position: 17, ours: 117, theirs: 9 };
    assert_eq!((comparison.sequence.as_ref(), comparison.shared_chunks), (Some(&token), 1));
    assert_eq!(
        comparison.to_string(),
        "chunk 1, token 17: ours 117, theirs 9\n1 chunks at the beginning have the same names"
    );
    changed[17] = 117;
    changed[21] = 9;
    // The image at 20 stands before the token at 21, and the token at 20 before the image there.
    let missing = SequenceDifference::Extra { chunk: 1, ours: Some(extras[0]), theirs: None };
    assert_eq!(compare(&changed, &extras[1..]).sequence, Some(missing.clone()));
    changed[20] = 9;
    let token = SequenceDifference::Token { chunk: 1, position: 20, ours: 120, theirs: 9 };
    assert_eq!(compare(&changed, &extras[1..]).sequence, Some(token));

    let other = compare(&tokens, &[extras[0], extra(40, 7)]);
    let wanted = SequenceDifference::Extra { chunk: 2, ours: Some(extras[1]), theirs: Some(extra(40, 7)) };
    assert_eq!((other.sequence, other.shared_chunks), (Some(wanted), 2));
    let added = compare(&tokens, &[extra(5, 9), extras[0], extras[1]]);
    let wanted = SequenceDifference::Extra { chunk: 0, ours: None, theirs: Some(extra(5, 9)) };
    assert_eq!((added.sequence.as_ref(), added.shared_chunks), (Some(&wanted), 0));
    assert!(added.to_string().starts_with("chunk 0, extra at token 5: ours (none), theirs 0909"), "{added}");

    let shorter = compare(&tokens[..44], &extras);
    let wanted = SequenceDifference::End { chunk: 2, ours: 48, theirs: 44 };
    assert_eq!((shorter.sequence.as_ref(), shorter.shared_chunks), (Some(&wanted), 2));
    assert!(
        shorter.to_string().starts_with("chunk 2: our sequence ends after 48 tokens, theirs after 44"),
        "{shorter}"
    );
    let whole = compare(&tokens[..32], &extras[..1]);
    assert_eq!(whole.sequence, Some(SequenceDifference::End { chunk: 2, ours: 48, theirs: 32 }));
    assert_eq!((whole.shared_chunks, compare(&[], &[]).shared_chunks), (2, 0));
}

#[test]
fn a_component_comes_before_the_sequence_in_canonical_order() {
    let ours = namespace();
    let theirs = builder(2, 2, 8).chunk_tokens(32).tenant(SALT).dtype(Dtype::E4m3Fn).build().unwrap();
    let tokens: Vec<u32> = (0..48).collect();
    let mut others = tokens.clone();
    others[30] = 7;
    let (a, b) = (explain(&ours, &tokens, &[]).unwrap(), explain(&theirs, &others, &[]).unwrap());
    let comparison = a.compare(&b);
    let names: Vec<_> =
        comparison.components.iter().map(|difference| difference.component.as_str()).collect();
    assert_eq!(names, ["stored-dtype", "chunk-tokens"]);
    assert_eq!(
        comparison.sequence.as_ref().map(|difference| (difference.chunk(), difference.position())),
        Some((1, 30))
    );
    assert_eq!(comparison.shared_chunks, 0);
    assert_eq!(
        comparison.to_string(),
        "namespace component stored-dtype: ours bf16, theirs e4m3fn\n\
         namespace component chunk-tokens: ours 16, theirs 32\n\
         chunk 1, token 30: ours 30, theirs 7\n\
         0 chunks at the beginning have the same names"
    );
    assert!(!comparison.is_same());
}
