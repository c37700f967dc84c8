//! Trace files: one request per line, csv with a header or JSON lines, in the spellings of the public traces.
//!
//! | trace     | arrival                    | prompt          | output            |
//! |-----------|----------------------------|-----------------|-------------------|
//! | Azure     | `TIMESTAMP` (date, time)   | `ContextTokens` | `GeneratedTokens` |
//! | BurstGPT  | `Timestamp` (s)            | `Request tokens`| `Response tokens` |
//! | Mooncake  | `timestamp` (ms, jsonl)    | `input_length`  | `output_length`   |
//! | Vidur     | none                       | `num_prefill_tokens` | `num_decode_tokens` |
//!
//! Names are compared without case, spaces, `_` and `-`. Arrival times are moved so that the first row is at 0.

use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::path::Path;

use time::PrimitiveDateTime;
use time::macros::format_description;

use crate::spec::TraceRow;

/// More rows than this are refused: they would all sit in memory and in the run's manifest.
pub const MAX_ROWS: usize = 1_000_000;
/// A line longer than this is not a line of a trace (Mooncake's longest carry a few thousand block hashes).
const MAX_LINE_BYTES: u64 = 1 << 20;

const INPUT_NAMES: &[&str] = &[
    "input",
    "inputtokens",
    "inputlength",
    "prompt",
    "prompttokens",
    "promptlength",
    "promptlen",
    "contexttokens",
    "requesttokens",
    "numprefilltokens",
    "inputlen",
];
const OUTPUT_NAMES: &[&str] = &[
    "output",
    "outputtokens",
    "outputlength",
    "outputlen",
    "generated",
    "generatedtokens",
    "responsetokens",
    "completiontokens",
    "numdecodetokens",
];
const ARRIVAL_NAMES: &[&str] =
    &["arrival", "arrivals", "arrivaltime", "timestamp", "time", "arrivedat", "arrivalms", "timestampms"];

/// The names of a log's columns, where they are none that are known.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Columns {
    input: Option<String>,
    output: Option<String>,
    arrival: Option<String>,
}

impl Columns {
    /// From `input=prompt_size,output=reply_size,arrival=at`; any of the three may be left out.
    pub fn parse(text: &str) -> Result<Columns, String> {
        let mut columns = Columns::default();
        for pair in text.split(',') {
            let (what, name) =
                pair.split_once('=').ok_or_else(|| format!("\"{}\" is not WHAT=COLUMN", shown(pair)))?;
            let place = match what.trim() {
                "input" => &mut columns.input,
                "output" => &mut columns.output,
                "arrival" => &mut columns.arrival,
                other => {
                    return Err(format!("\"{}\" is none of input, output and arrival", shown(other)));
                }
            };
            let name = simplified(name);
            if name.is_empty() || place.replace(name).is_some() {
                return Err(format!("\"{}\" names no column, or a second one", shown(pair)));
            }
        }
        Ok(columns)
    }

    fn input(&self) -> Vec<&str> {
        accepted(&self.input, INPUT_NAMES)
    }

    fn output(&self) -> Vec<&str> {
        accepted(&self.output, OUTPUT_NAMES)
    }

    fn arrival(&self) -> Vec<&str> {
        accepted(&self.arrival, ARRIVAL_NAMES)
    }
}

fn accepted<'a>(named: &'a Option<String>, known: &'a [&'a str]) -> Vec<&'a str> {
    named.as_ref().map_or_else(|| known.to_vec(), |name| vec![name.as_str()])
}

/// Rows of a log in order of arrival.
#[derive(Debug, Clone, PartialEq)]
pub struct Log {
    pub rows: Vec<TraceRow>,
    /// Rows without prompt or output tokens, which are failed requests as a rule.
    pub skipped: usize,
}

/// Reads at most `limit` rows (the rest of the file is not needed), or all of them. The error is one sentence that
/// names the line.
pub fn read(path: &Path, limit: Option<u32>) -> Result<Vec<TraceRow>, String> {
    let mut rows = Rows { limit: limit.map_or(usize::MAX, |l| l as usize), ..Rows::default() };
    rows.read(path, &Columns::default())?;
    shift_to_zero(&mut rows.rows).map_err(|why| format!("trace {}: {why}", path.display()))?;
    Ok(rows.rows)
}

/// The same for a log as a server writes it: rows in any order, failed requests among them.
pub fn read_log(path: &Path, columns: &Columns) -> Result<Log, String> {
    let mut rows = Rows { limit: usize::MAX, skip_failed: true, ..Rows::default() };
    rows.read(path, columns)?;
    let Rows { mut rows, skipped, .. } = rows;
    if rows.iter().all(|row| row.arrival_s.is_some()) {
        rows.sort_by(|a, b| a.arrival_s.unwrap_or(0.0).total_cmp(&b.arrival_s.unwrap_or(0.0)));
    }
    shift_to_zero(&mut rows).map_err(|why| format!("trace {}: {why}", path.display()))?;
    Ok(Log { rows, skipped })
}

/// What is read, and how much of it is wanted.
#[derive(Debug, Default)]
struct Rows {
    rows: Vec<TraceRow>,
    limit: usize,
    skip_failed: bool,
    skipped: usize,
}

impl Rows {
    fn read(&mut self, path: &Path, columns: &Columns) -> Result<(), String> {
        let name = path.display();
        let file = File::open(path).map_err(|e| format!("cannot read trace {name}: {e}"))?;
        let jsonl = path.extension().is_some_and(|e| e == "jsonl" || e == "json" || e == "ndjson");
        let read = match jsonl {
            true => self.read_jsonl(BufReader::new(file), columns),
            false => self.read_csv(file, columns),
        };
        read.map_err(|why| format!("trace {name}: {why}"))?;
        if self.rows.is_empty() {
            return Err(format!("trace {name} has no rows"));
        }
        Ok(())
    }

    fn read_csv(&mut self, file: impl Read, columns: &Columns) -> Result<(), String> {
        let mut reader = csv::ReaderBuilder::new().trim(csv::Trim::All).flexible(true).from_reader(file);
        let header = reader.headers().map_err(|e| e.to_string())?.clone();
        let column = |names: &[&str]| header.iter().position(|h| names.contains(&simplified(h).as_str()));
        let missing = |what: &str, names: &[&str]| {
            let found: Vec<_> = header.iter().take(20).map(shown).collect();
            format!(
                "line 1: no {what} column among {}; accepted names: {}",
                found.join(", "),
                names.join(", ")
            )
        };
        let find = |what: &str, names: Vec<&str>| column(&names).ok_or_else(|| missing(what, &names));
        let input = find("prompt length", columns.input())?;
        let output = find("output length", columns.output())?;
        let arrival = match &columns.arrival {
            Some(_) => Some(find("arrival time", columns.arrival())?),
            None => column(&columns.arrival()),
        };
        let in_ms = arrival.is_some_and(|i| simplified(&header[i]).ends_with("ms"));

        for record in reader.into_records() {
            if self.rows.len() == self.limit {
                break;
            }
            let record = record.map_err(|e| e.to_string())?;
            let line = record.position().map_or(0, csv::Position::line);
            let cell = |i: usize| record.get(i).unwrap_or_default();
            let at = arrival.map(|i| arrival_seconds(cell(i))).transpose();
            let row = at.and_then(|at| {
                let arrival_s = at.map(|s| if in_ms { s / 1e3 } else { s });
                Ok(TraceRow {
                    input_tokens: tokens(cell(input))?,
                    output_tokens: tokens(cell(output))?,
                    arrival_s,
                })
            });
            self.push(row, line)?;
        }
        Ok(())
    }

    fn read_jsonl(&mut self, mut reader: impl BufRead, columns: &Columns) -> Result<(), String> {
        let mut text = Vec::new();
        for line in 1.. {
            text.clear();
            let read =
                (&mut reader).take(MAX_LINE_BYTES).read_until(b'\n', &mut text).map_err(|e| e.to_string())?;
            if read == 0 || self.rows.len() == self.limit {
                break;
            }
            if read as u64 == MAX_LINE_BYTES {
                return Err(format!("line {line}: longer than {MAX_LINE_BYTES} bytes"));
            }
            if text.trim_ascii().is_empty() {
                continue;
            }
            self.push(json_row(&text, columns), line)?;
        }
        Ok(())
    }

    fn push(&mut self, row: Result<TraceRow, String>, line: u64) -> Result<(), String> {
        let row = row.map_err(|why| format!("line {line}: {why}"))?;
        if row.input_tokens == 0 || row.output_tokens == 0 {
            if self.skip_failed {
                self.skipped += 1;
                return Ok(());
            }
            return Err(format!(
                "line {line}: a request with no tokens; remove failed requests from the trace"
            ));
        }
        if self.rows.len() == MAX_ROWS {
            return Err(format!("more than {MAX_ROWS} rows; cut the file, or set `requests`"));
        }
        self.rows.push(row);
        Ok(())
    }
}

fn json_row(text: &[u8], columns: &Columns) -> Result<TraceRow, String> {
    let object: serde_json::Map<String, serde_json::Value> =
        serde_json::from_slice(text).map_err(|e| format!("not a JSON object: {e}"))?;
    let field = |names: &[&str]| object.iter().find(|(key, _)| names.contains(&simplified(key).as_str()));
    let count = |what: &str, names: &[&str]| match field(names) {
        None => Err(format!("no {what}; accepted names: {}", names.join(", "))),
        Some((_, value)) => tokens(&value.to_string()),
    };
    let arrival_s = match field(&columns.arrival()) {
        None if columns.arrival.is_some() => {
            return Err(format!("no arrival time; accepted names: {}", columns.arrival().join(", ")));
        }
        None => None,
        Some((_, serde_json::Value::String(text))) => Some(arrival_seconds(text)?),
        // Mooncake's unit: its `timestamp` is in milliseconds.
        Some((key, value)) => {
            let number = arrival_seconds(&value.to_string())?;
            let key = simplified(key);
            Some(if key == "timestamp" || key.ends_with("ms") { number / 1e3 } else { number })
        }
    };
    Ok(TraceRow {
        input_tokens: count("prompt length", &columns.input())?,
        output_tokens: count("output length", &columns.output())?,
        arrival_s,
    })
}

fn tokens(text: &str) -> Result<u32, String> {
    // Some traces were written by tools that turn every number into a float.
    let whole = text.strip_suffix(".0").unwrap_or(text);
    whole.parse().map_err(|_| format!("\"{}\" is not a number of tokens", shown(text)))
}

/// Seconds, from a plain number or from a date and time (any epoch: the first row becomes 0).
fn arrival_seconds(text: &str) -> Result<f64, String> {
    if let Ok(seconds) = text.parse::<f64>()
        && seconds.is_finite()
    {
        return Ok(seconds);
    }
    let with_subsecond = format_description!("[year]-[month]-[day] [hour]:[minute]:[second].[subsecond]");
    let whole_seconds = format_description!("[year]-[month]-[day] [hour]:[minute]:[second]");
    let plain = text.replacen('T', " ", 1);
    let plain = plain.trim_end_matches('Z').trim_end_matches("+00:00");
    PrimitiveDateTime::parse(plain, with_subsecond)
        .or_else(|_| PrimitiveDateTime::parse(plain, whole_seconds))
        .map(|at| at.assume_utc().unix_timestamp_nanos() as f64 / 1e9)
        .map_err(|_| format!("\"{}\" is neither a number of seconds nor a date and time", shown(text)))
}

fn shift_to_zero(rows: &mut [TraceRow]) -> Result<(), String> {
    let Some(first) = rows[0].arrival_s else {
        // A later row with a time would have no origin.
        rows.iter_mut().for_each(|row| row.arrival_s = None);
        return Ok(());
    };
    let mut previous = first;
    for (i, row) in rows.iter_mut().enumerate() {
        let at = row
            .arrival_s
            .ok_or_else(|| format!("row {} has no arrival time but the first row has one", i + 1))?;
        if at < previous {
            return Err(format!("row {} arrives before the row above it; sort the trace by time", i + 1));
        }
        previous = at;
        row.arrival_s = Some(at - first);
    }
    Ok(())
}

fn simplified(name: &str) -> String {
    let name = name.trim_start_matches('\u{feff}');
    name.chars().filter(|c| !matches!(c, ' ' | '_' | '-')).flat_map(char::to_lowercase).collect()
}

/// Text of a file made fit for an error message.
fn shown(text: &str) -> String {
    text.chars().take(40).collect::<String>().escape_debug().to_string()
}
