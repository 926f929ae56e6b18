//! Plain-text tables, and figures as a person reads them.

/// Rows of cells; the first row is the heading.
pub(crate) struct Table {
    rows: Vec<Vec<String>>,
}

impl Table {
    /// A table with this heading and no rows yet.
    pub(crate) fn new(heading: impl IntoIterator<Item = impl Into<String>>) -> Self {
        Self { rows: vec![heading.into_iter().map(Into::into).collect()] }
    }

    /// Adds a row; missing cells are left empty.
    pub(crate) fn row(&mut self, cells: impl IntoIterator<Item = impl Into<String>>) {
        self.rows.push(cells.into_iter().map(Into::into).collect());
    }

    /// The same cells with rows and columns swapped: few rows of many figures read better as columns.
    pub(crate) fn transposed(&self) -> Self {
        let cell = |row: &Vec<String>, column| row.get(column).cloned().unwrap_or_default();
        let rows = (0..self.columns())
            .map(|column| self.rows.iter().map(|row| cell(row, column)).collect())
            .collect();
        Self { rows }
    }

    /// Columns two spaces apart, padded to their widest cell; a rule under the heading; no trailing spaces.
    pub(crate) fn render(&self) -> String {
        let width = |text: &str| text.chars().count();
        let mut widths = vec![0; self.columns()];
        for row in &self.rows {
            for (widest, cell) in widths.iter_mut().zip(row) {
                *widest = width(cell).max(*widest);
            }
        }
        let mut text = String::new();
        for (index, row) in self.rows.iter().enumerate() {
            let mut line = String::new();
            for (cell, widest) in row.iter().zip(&widths) {
                line.push_str(cell);
                line.push_str(&" ".repeat(widest - width(cell) + 2));
            }
            text.push_str(line.trim_end());
            text.push('\n');
            if index == 0 {
                let rule: Vec<String> = widths.iter().map(|w| "-".repeat(*w)).collect();
                text.push_str(&rule.join("  "));
                text.push('\n');
            }
        }
        text
    }

    fn columns(&self) -> usize {
        self.rows.iter().map(Vec::len).max().unwrap_or(0)
    }
}

/// Digits in groups of three: `98,362,432`.
pub(crate) fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// Seconds and the rate they give: `0.012 s, 1.25 GB/s`, where GB = 1e9 bytes.
#[expect(clippy::cast_precision_loss, reason = "a figure for reading: 53 bits are more than are shown")]
pub(crate) fn seconds_and_rate(bytes: u64, seconds: f64) -> String {
    // A clock that saw no time pass gives no rate.
    if seconds > 0.0 {
        format!("{seconds:.3} s, {:.2} GB/s", bytes as f64 / seconds / 1e9)
    } else {
        format!("{seconds:.3} s, - GB/s")
    }
}

/// The first `limit` characters of the first line, with an ellipsis where something was cut.
pub(crate) fn shortened(text: &str, limit: usize) -> String {
    let line = text.lines().next().unwrap_or_default();
    let mut short: String = line.chars().take(limit).collect();
    if short.len() < text.trim_end().len() {
        short.push('…');
    }
    short
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_line_up_and_lines_end_without_spaces() {
        let mut table = Table::new(["step", "result"]);
        table.row(["fmt", "passed"]);
        table.row(["doctests é", "x"]);
        let expected = "step        result\n----------  ------\nfmt         passed\ndoctests é  x\n";
        assert_eq!(table.render(), expected);
    }

    #[test]
    fn swapping_rows_and_columns_fills_missing_cells() {
        let mut table = Table::new(["a", "b"]);
        table.row(["1"]);
        assert_eq!(table.transposed().render(), "a  1\n-  -\nb\n");
    }

    #[test]
    fn figures_read_as_written() {
        assert_eq!(
            (grouped(0), grouped(999), grouped(98_362_432)),
            ("0".into(), "999".into(), "98,362,432".into())
        );
        assert_eq!(seconds_and_rate(2_500_000_000, 2.0), "2.000 s, 1.25 GB/s");
        assert_eq!(seconds_and_rate(10, 0.0), "0.000 s, - GB/s");
    }

    #[test]
    fn long_text_is_cut_and_says_so() {
        assert_eq!(shortened("short", 10), "short");
        assert_eq!(shortened("rather long", 6), "rather…");
        assert_eq!(shortened("one\ntwo", 10), "one…");
    }
}
