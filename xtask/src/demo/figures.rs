//! The demo's closing table.

use super::report::{Decode, Prefill, Reference};
use crate::table::{Table, grouped, seconds_and_rate};

/// One hand-off, and the answer it must equal.
pub(super) struct Run {
    pub prompt: String,
    pub prefill: Prefill,
    pub decode: Decode,
    pub reference: Reference,
}

impl Run {
    /// Same tokens, and the same logits bit for bit. A run that decoded nothing shows nothing.
    pub(super) fn equal(&self) -> bool {
        let (ours, single) = (&self.decode, &self.reference);
        !ours.tokens.is_empty()
            && !ours.logits_digest.is_empty()
            && ours.tokens == single.tokens
            && ours.logits_digest == single.logits_digest
    }

    fn cells(&self) -> Vec<String> {
        let (a, b) = (&self.prefill, &self.decode);
        let objects = match a.deduplicated {
            0 => a.objects.to_string(),
            known => format!("{} ({known} known)", a.objects),
        };
        vec![
            self.prompt.clone(),
            format!("{} -> {}", a.tp, b.tp),
            a.prompt_tokens.to_string(),
            format!("{} / {}", b.loaded_tokens, b.prefilled_tokens),
            grouped(a.kv_bytes),
            objects,
            seconds_and_rate(a.kv_bytes, a.save_seconds),
            seconds_and_rate(b.load_bytes, b.load_seconds),
            a.layout.clone(),
            b.layout.clone(),
            format!("{} -> {}", a.block_tokens, b.block_tokens),
            b.verified_sections.to_string(),
            if self.equal() { "yes" } else { "NO" }.into(),
        ]
    }
}

/// Each figure's name: in full for a line of its own, short for the head of a column.
const NAMES: [(&str, &str); 13] = [
    ("", "prompt"),
    ("tensor parallelism, A -> B", "TP"),
    ("prompt tokens", "tokens"),
    ("tokens loaded / recomputed", "loaded / rec."),
    ("KV bytes", "KV bytes"),
    ("objects", "objects"),
    ("save", "save"),
    ("load", "load"),
    ("layout of A", "layout of A"),
    ("layout of B", "layout of B"),
    ("tokens per block, A -> B", "block"),
    ("verified sections", "verified"),
    ("tokens and logits equal to a single process", "equal"),
];

/// One row per run where there are many, one column per run where there are few.
pub(super) fn table(runs: &[Run], row_each: bool) -> String {
    let mut table = Table::new(NAMES.map(|(full, short)| if row_each { short } else { full }));
    for run in runs {
        table.row(run.cells());
    }
    if row_each {
        let note =
            "equal: tokens and logits equal to a single process; TP and block: cluster A -> cluster B\n";
        table.render() + note
    } else {
        table.transposed().render()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run() -> Run {
        Run {
            prompt: "What?".into(),
            prefill: Prefill {
                tp: 3,
                layout: "paged".into(),
                block_tokens: 16,
                prompt_tokens: 700,
                objects: 9,
                deduplicated: 0,
                kv_bytes: 16_000_000,
                save_seconds: 0.016,
            },
            decode: Decode {
                tp: 1,
                layout: "rows".into(),
                block_tokens: 128,
                loaded_tokens: 699,
                prefilled_tokens: 1,
                verified_sections: 90,
                load_bytes: 16_000_000,
                load_seconds: 0.008,
                tokens: vec![4, 5],
                logits_digest: "ab".into(),
            },
            reference: Reference { tokens: vec![4, 5], logits_digest: "ab".into() },
        }
    }

    #[test]
    fn every_figure_has_its_line() {
        let text = table(&[run()], false);
        for line in [
            "tensor parallelism, A -> B                   3 -> 1",
            "tokens loaded / recomputed                   699 / 1",
            "KV bytes                                     16,000,000",
            "save                                         0.016 s, 1.00 GB/s",
            "load                                         0.008 s, 2.00 GB/s",
            "layout of A                                  paged",
            "layout of B                                  rows",
            "tokens per block, A -> B                     16 -> 128",
            "verified sections                            90",
            "tokens and logits equal to a single process  yes",
        ] {
            assert!(text.lines().any(|l| l == line), "{line:?} is not in\n{text}");
        }
        assert_eq!(table(&[run(), run()], true).lines().count(), 5, "a heading, a rule, two rows, a note");
    }

    #[test]
    fn other_tokens_other_logits_and_no_tokens_are_not_equal() {
        assert!(run().equal());
        let mut tokens = run();
        tokens.reference.tokens.push(6);
        let mut logits = run();
        logits.decode.logits_digest = "ac".into();
        let mut nothing = run();
        nothing.decode.tokens.clear();
        nothing.reference.tokens.clear();
        for wrong in [tokens, logits, nothing] {
            assert!(!wrong.equal());
            assert!(table(&[wrong], false).contains("single process  NO"));
        }
    }
}
