//! A plain table: columns as wide as what is in them.

/// Rows under a heading; the columns in `right` (by number) are aligned to the right.
pub fn table(heading: &[&str], rows: &[Vec<String>], right: &[usize]) -> String {
    let mut widths: Vec<usize> = heading.iter().map(|cell| cell.chars().count()).collect();
    for row in rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(cell.chars().count());
        }
    }
    let line = |cells: &mut dyn Iterator<Item = &str>| {
        let cells = cells.zip(&widths).enumerate().map(|(column, (cell, width))| {
            if right.contains(&column) { format!("{cell:>width$}") } else { format!("{cell:<width$}") }
        });
        cells.collect::<Vec<_>>().join("  ").trim_end().to_string() + "\n"
    };
    let mut text = line(&mut heading.iter().copied());
    for row in rows {
        text += &line(&mut row.iter().map(String::as_str));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::table;

    #[test]
    fn columns_fit_their_widest_cell() {
        let rows = [vec!["a".to_string(), "1".to_string()], vec!["long".to_string(), "10".to_string()]];
        assert_eq!(table(&["name", "n"], &rows, &[1]), "name   n\na      1\nlong  10\n");
    }
}
