//! Measurements as their publishers wrote them, one a row.

/// Rows that a table may have; one of this size is read in seconds.
const MAX_ROWS: usize = 100_000;
/// Characters of a field that are kept.
const MAX_FIELD: usize = 400;

/// One measurement. Fields are as written; what they mean is [`super::Case`]. Columns that a table does not have are empty.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Row {
    /// Line of the file, the heading being 1.
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
    pub notes: String,
    /// Why it cannot be read, if it cannot.
    pub problem: Option<String>,
}

#[derive(Debug, thiserror::Error)]
pub enum TableError {
    #[error("{file}: {error}")]
    Csv { file: String, error: csv::Error },
    #[error(
        "{file}:1: no column {missing}; a table needs model, gpu, metric and value, and the measurements' own of n_gpus, tp, pp, dtype_weights, dtype_kv, isl, osl, batch_or_concurrency, framework, version, unit, source, notes"
    )]
    Column { file: String, missing: &'static str },
    #[error("{file}: more than {MAX_ROWS} rows")]
    TooLong { file: String },
    #[error("{file}: no rows")]
    Empty { file: String },
}

const NEEDED: [&str; 4] = ["model", "gpu", "metric", "value"];

/// Reads `text`, the content of `file` (used in errors). Columns are found by their names, in any order; others do no harm.
pub fn read(text: &str, file: &str) -> Result<Vec<Row>, TableError> {
    // The reader would count a line of "\r\n" with the row behind it.
    let text = &text.trim_start_matches('\u{feff}').replace("\r\n", "\n");
    let mut reader = csv::ReaderBuilder::new()
        .trim(csv::Trim::All)
        .flexible(true)
        .delimiter(delimiter(text))
        .from_reader(text.as_bytes());
    let wrong = |error| TableError::Csv { file: file.to_string(), error };
    let heading = reader.headers().map_err(wrong)?.clone();
    let place = |name: &str| heading.iter().position(|column| column.eq_ignore_ascii_case(name));
    if let Some(missing) = NEEDED.into_iter().find(|name| place(name).is_none()) {
        return Err(TableError::Column { file: file.to_string(), missing });
    }
    let columns = COLUMNS.map(|(name, field)| (place(name), field));
    let mut rows = Vec::new();
    for record in reader.records() {
        let record = record.map_err(wrong)?;
        if rows.len() == MAX_ROWS {
            return Err(TableError::TooLong { file: file.to_string() });
        }
        let mut row = Row { line: record.position().map_or(0, csv::Position::line), ..Row::default() };
        if record.len() != heading.len() {
            row.problem = Some(format!(
                "{} cells under a heading of {}; a comma in a cell needs quotes",
                record.len(),
                heading.len()
            ));
        }
        for (place, field) in &columns {
            let cell = place.and_then(|place| record.get(place)).unwrap_or_default();
            *field(&mut row) = cell.chars().take(MAX_FIELD).collect();
        }
        rows.push(row);
    }
    if rows.is_empty() { Err(TableError::Empty { file: file.to_string() }) } else { Ok(rows) }
}

type Field = fn(&mut Row) -> &mut String;

const COLUMNS: [(&str, Field); 17] = [
    ("source", |row| &mut row.source),
    ("model", |row| &mut row.model),
    ("gpu", |row| &mut row.gpu),
    ("n_gpus", |row| &mut row.n_gpus),
    ("tp", |row| &mut row.tp),
    ("pp", |row| &mut row.pp),
    ("dtype_weights", |row| &mut row.dtype_weights),
    ("dtype_kv", |row| &mut row.dtype_kv),
    ("isl", |row| &mut row.isl),
    ("osl", |row| &mut row.osl),
    ("batch_or_concurrency", |row| &mut row.batch_or_concurrency),
    ("framework", |row| &mut row.framework),
    ("version", |row| &mut row.version),
    ("metric", |row| &mut row.metric),
    ("value", |row| &mut row.value),
    ("unit", |row| &mut row.unit),
    ("notes", |row| &mut row.notes),
];

/// What the heading is divided by: a comma, or what spreadsheets of some countries write.
fn delimiter(text: &str) -> u8 {
    let heading = text.lines().next().unwrap_or_default();
    match [',', ';', '\t'].into_iter().find(|one| heading.contains(*one)) {
        Some(';') => b';',
        Some('\t') => b'\t',
        _ => b',',
    }
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
        assert!(
            error.contains("mine.csv:1: no column model") && error.contains("batch_or_concurrency"),
            "{error}"
        );
        assert!(read("", "mine.csv").is_err());
        assert!(read("model,gpu,metric,value\n", "mine.csv").unwrap_err().to_string().contains("no rows"));
    }

    /// A byte order mark, other line ends, columns in another order, others beside them, and a row that is cut short.
    #[test]
    fn tables_of_other_programs_are_read() {
        let text = "\u{feff}Value,metric,gpu,MODEL,colour\r\n8,tpot,h100,\"a, b\",red\r\n9,tpot\r\n";
        let rows = read(text, "mine.csv").unwrap();
        assert_eq!((rows[0].value.as_str(), rows[0].model.as_str(), rows[0].line), ("8", "a, b", 2));
        assert!(rows[0].problem.is_none() && rows[0].isl.is_empty());
        assert!(rows[1].problem.as_ref().is_some_and(|problem| problem.contains("2 cells")), "{rows:?}");
        assert_eq!(read("model;gpu;metric;value\na;b;c;1,5\n", "mine.csv").unwrap()[0].value, "1,5");
    }
}
