//! Rust source with its comments and literals blanked out, so that a word is found in code only.

/// The same lines; what stands in comments, strings and characters becomes spaces.
pub(super) fn code_only(source: &str) -> String {
    let source: Vec<char> = source.chars().collect();
    let at = |index: usize| source.get(index).copied().unwrap_or('\0');
    let mut code = String::with_capacity(source.len());
    let mut index = 0;
    while index < source.len() {
        let after_word = index > 0 && is_word(at(index - 1));
        let end = match (at(index), at(index + 1)) {
            ('/', '/') => line_end(&source, index),
            ('/', '*') => comment_end(&source, index),
            ('"', _) => string_end(&source, index + 1),
            // r"", r#""#, and after the b of br"" and the c of cr"".
            ('r', '"' | '#') if !after_word || (matches!(at(index - 1), 'b' | 'c')) => {
                raw_string_end(&source, index).unwrap_or(index)
            }
            ('\'', '\\') => quote_after(&source, index + 3),
            ('\'', _) if at(index + 2) == '\'' => index + 3,
            _ => index,
        };
        if end == index {
            code.push(at(index));
            index += 1;
            continue;
        }
        for position in index..end.min(source.len()) {
            code.push(if at(position) == '\n' { '\n' } else { ' ' });
        }
        index = end;
    }
    code
}

/// Whether `word` stands in `text` with no letter, digit or underscore beside it.
pub(super) fn has_word(text: &str, word: &str) -> bool {
    text.match_indices(word).any(|(start, _)| {
        let (before, rest) = text.split_at(start);
        let after = rest.get(word.len()..).unwrap_or_default();
        !before.ends_with(is_word) && !after.starts_with(is_word)
    })
}

fn is_word(character: char) -> bool {
    character.is_alphanumeric() || character == '_'
}

fn line_end(source: &[char], start: usize) -> usize {
    (start..source.len()).find(|i| source.get(*i) == Some(&'\n')).unwrap_or(source.len())
}

/// Block comments nest.
fn comment_end(source: &[char], start: usize) -> usize {
    let mut depth = 0_usize;
    let mut index = start;
    while index < source.len() {
        match (source.get(index), source.get(index + 1)) {
            (Some('/'), Some('*')) => depth += 1,
            (Some('*'), Some('/')) => depth -= 1,
            _ => {
                index += 1;
                continue;
            }
        }
        index += 2;
        if depth == 0 {
            return index;
        }
    }
    source.len()
}

/// The end of a string whose opening quote is before `index`.
fn string_end(source: &[char], mut index: usize) -> usize {
    while let Some(character) = source.get(index) {
        match character {
            '\\' => index += 2,
            '"' => return index + 1,
            _ => index += 1,
        }
    }
    source.len()
}

/// `None` if the `r` at `start` begins a raw identifier and not a string.
fn raw_string_end(source: &[char], start: usize) -> Option<usize> {
    let hashes = source.get(start + 1..)?.iter().take_while(|c| **c == '#').count();
    let open = start + 1 + hashes;
    if source.get(open) != Some(&'"') {
        return None;
    }
    let closes = |i: &usize| {
        source.get(*i) == Some(&'"') && (1..=hashes).all(|offset| source.get(i + offset) == Some(&'#'))
    };
    Some((open + 1..source.len()).find(closes).map_or(source.len(), |quote| quote + 1 + hashes))
}

fn quote_after(source: &[char], start: usize) -> usize {
    (start..source.len()).find(|i| source.get(*i) == Some(&'\'')).map_or(source.len(), |quote| quote + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn comments_and_literals_become_spaces() {
        for (source, code) in [
            ("a // x\nb", "a     \nb"),
            ("a /* x /* y */ z */ b", "a                   b"),
            (r#"a "x \" y" b"#, "a          b"),
            ("a \"x\ny\" b", "a   \n   b"),
            (r###"a r#"x " y"# b"###, "a            b"),
            ("br\"\\\" b", "b     b"),
            (r"'\'' b '\u{1F}' c 'x' d", "     b          c     d"),
            ("fn f<'a>(x: &'a str)", "fn f<'a>(x: &'a str)"),
            ("r#type bar(r)", "r#type bar(r)"),
        ] {
            assert_eq!(code_only(source), code, "{source}");
        }
    }

    #[test]
    fn words_are_whole() {
        assert!(has_word("unsafe {", "unsafe") && has_word("(unsafe)", "unsafe"));
        assert!(!has_word("unsafe_code", "unsafe") && !has_word("not_unsafe", "unsafe"));
    }
}
