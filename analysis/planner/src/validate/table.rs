//! Measurements as their publishers wrote them, one a row.

use serde::Deserialize;

/// Rows that a table may have; one of this size is read in seconds.
const MAX_ROWS: usize = 100_000;
/// Characters of a field that are kept.
const MAX_FIELD: usize = 400;

/// One measurement. Fields are as written; what they mean is [`super::Case`].
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub struct Row {
    /// Line of the file, the heading being 1.
    #[serde(skip)]
    pub line: u64,
    pub source: String,
    pub model: String,
    pub gpu: String,
    pub n_gpus: String,
    pub tp: String,
    pub pp: String,
    pub dtype_weights: String,
    pub dtype_kv: String,
    pub isl: String,
    pub osl: String,
    pub batch_or_concurrency: String,
    pub framework: String,
    pub version: String,
    pub metric: String,
    pub value: String,
    pub unit: String,
    #[serde(default)]
    pub notes: String,
}

#[derive(Debug, thiserror::Error)]
pub enum TableError {
    #[error(
        "{file}: {error}; a table needs the columns source, model, gpu, n_gpus, tp, pp, dtype_weights, dtype_kv, isl, osl, batch_or_concurrency, framework, version, metric, value, unit"
    )]
    Csv { file: String, error: csv::Error },
    #[error("{file}: more than {MAX_ROWS} rows")]
    TooLong { file: String },
    #[error("{file}: no rows")]
    Empty { file: String },
}

/// Reads `text`, the content of `file` (used in errors).
pub fn read(text: &str, file: &str) -> Result<Vec<Row>, TableError> {
    let mut reader = csv::ReaderBuilder::new().trim(csv::Trim::All).from_reader(text.as_bytes());
    let wrong = |error| TableError::Csv { file: file.to_string(), error };
    let headers = reader.headers().map_err(wrong)?.clone();
    let mut rows = Vec::new();
    for record in reader.records() {
        let record = record.map_err(wrong)?;
        let mut row: Row = record.deserialize(Some(&headers)).map_err(wrong)?;
        if rows.len() == MAX_ROWS {
            return Err(TableError::TooLong { file: file.to_string() });
        }
        row.line = record.position().map_or(0, csv::Position::line);
        for field in [&mut row.model, &mut row.gpu, &mut row.source, &mut row.notes] {
            if let Some((end, _)) = field.char_indices().nth(MAX_FIELD) {
                field.truncate(end);
            }
        }
        rows.push(row);
    }
    if rows.is_empty() { Err(TableError::Empty { file: file.to_string() }) } else { Ok(rows) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_shipped_table_is_read_whole() {
        let rows = read(super::super::MEASURED, "measured.csv").unwrap();
        assert_eq!(rows.len(), super::super::MEASURED.lines().count() - 1);
        let numbers = rows.iter().filter(|row| row.value.parse::<f64>().is_ok_and(f64::is_finite));
        assert_eq!(numbers.count(), rows.len());
    }

    #[test]
    fn a_table_that_is_none_says_what_one_needs() {
        let error = read("a,b\n1,2\n", "mine.csv").unwrap_err().to_string();
        assert!(error.contains("mine.csv") && error.contains("batch_or_concurrency"), "{error}");
        assert!(read("", "mine.csv").is_err());
    }
}
