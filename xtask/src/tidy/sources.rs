//! The shape of source files, and what may stand in no file.

use super::Violation;
use super::mask::{code_only, has_word};
use super::tree::Tree;

const LONGEST: usize = 500;

/// Marks of unfinished work, in two halves so that this file has none.
const MARKS: [&str; 3] = [concat!("TO", "DO"), concat!("FIX", "ME"), concat!("XX", "X")];
const STUBS: [&str; 2] = ["todo", "unimplemented"];

/// Paths of the place where the project is made: nobody else has them.
const FOREIGN_PATHS: [&str; 2] = [concat!("/wo", "rk/"), concat!("../sha", "red")];

/// Checks every file of the tree.
pub(super) fn check(tree: &Tree) -> Vec<Violation> {
    let mut found = Vec::new();
    for (path, text) in tree.rust() {
        if path.split('/').any(|folder| folder == "src") && !text.starts_with("//!") {
            found.push(Violation::new(path, 1, "starts without a //! module doc: say what is in it and why"));
        }
        let lines = text.lines().count();
        if lines > LONGEST {
            let text =
                format!("has {lines} lines, at most {LONGEST} are read with pleasure: split it by subject");
            found.push(Violation::new(path, LONGEST + 1, text));
        }
        for (number, line) in (1..).zip(text.lines()) {
            for mark in MARKS.iter().filter(|mark| has_word(line, mark)) {
                found.push(Violation::new(path, number, format!("{mark}: do it, or open an issue")));
            }
        }
        for (number, line) in (1..).zip(code_only(text).lines()) {
            for stub in STUBS.iter().filter(|stub| has_word(line, stub) && line.contains(&format!("{stub}!")))
            {
                found.push(Violation::new(path, number, format!("{stub}!: no stubs")));
            }
        }
    }
    for (path, text) in tree.files().filter(|(path, _)| !path.starts_with(".ci/")) {
        for (number, line) in (1..).zip(text.lines()) {
            for foreign in FOREIGN_PATHS.iter().filter(|foreign| names_path(line, foreign)) {
                found.push(Violation::new(path, number, format!("{foreign} exists on no other machine")));
            }
        }
    }
    found
}

/// Whether the path begins here, and is not the end of another one such as `home/work/`.
fn names_path(line: &str, path: &str) -> bool {
    line.match_indices(path).any(|(start, _)| {
        !line
            .get(..start)
            .unwrap_or_default()
            .ends_with(|c: char| c.is_alphanumeric() || "._-~/}".contains(c))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tidy::tree::of;

    fn lines(files: &[(&str, &str)]) -> Vec<(String, usize)> {
        check(&of(files)).into_iter().map(|violation| (violation.path, violation.line)).collect()
    }

    #[test]
    fn a_module_starts_with_its_doc() {
        assert_eq!(lines(&[("a/src/lib.rs", "//! What.\n"), ("a/tests/t.rs", "fn f() {}\n")]), []);
        assert_eq!(lines(&[("a/src/lib.rs", "use x;\n//! late\n")]), [("a/src/lib.rs".into(), 1)]);
        assert_eq!(lines(&[("a/src/lib.rs", "")]), [("a/src/lib.rs".into(), 1)]);
    }

    #[test]
    fn the_501st_line_is_one_too_many_in_tests_too() {
        assert_eq!(lines(&[("a/tests/t.rs", &"//\n".repeat(500))]), []);
        assert_eq!(lines(&[("a/tests/t.rs", &"//\n".repeat(501))]), [("a/tests/t.rs".into(), 501)]);
    }

    #[test]
    fn marks_and_stubs_are_found_and_likenesses_are_not() {
        for mark in MARKS {
            assert_eq!(lines(&[("t.rs", &format!("\n// {mark}: x\n"))]), [("t.rs".into(), 2)], "{mark}");
        }
        for stub in STUBS {
            assert_eq!(
                lines(&[("t.rs", &format!("fn f() {{ {stub}!() }}\n"))]),
                [("t.rs".into(), 1)],
                "{stub}"
            );
        }
        let fine = format!("// {}S, {}XX\nlet text = \"todo!()\"; let todo = !x;\n", MARKS[0], MARKS[2]);
        assert_eq!(lines(&[("t.rs", &fine)]), []);
    }

    #[test]
    fn paths_of_the_place_where_it_is_made_are_found() {
        for path in FOREIGN_PATHS {
            let text = format!("see\n`{path}x`\n");
            assert_eq!(lines(&[("README.md", &text)]), [("README.md".into(), 2)], "{path}");
            assert_eq!(lines(&[(".ci/run", &text)]), []);
            assert_eq!(lines(&[("README.md", &format!("https://example.org{path}x\n"))]), []);
        }
    }
}
