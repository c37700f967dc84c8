//! `requests.parquet` and `token_events.parquet`: the journal as tables, for tools that read tables.
//!
//! One row group per trial, so a run of any length needs the memory of its longest trial. Written with the parquet
//! crate's column writers; arrow would double the build for two flat tables.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use ::parquet::basic::{Compression, LogicalType, Repetition, Type as PhysicalType};
use ::parquet::data_type::{ByteArray, ByteArrayType, DataType, Int32Type, Int64Type};
use ::parquet::errors::ParquetError;
use ::parquet::file::metadata::KeyValue;
use ::parquet::file::properties::WriterProperties;
use ::parquet::file::writer::{SerializedFileWriter, SerializedRowGroupWriter};
use ::parquet::schema::types::Type;
use serde::Serialize;

use crate::error::ResultsError;
use crate::manifest::{ClientFacts, SCHEMA_VERSION, TrialFacts, TrialKind};
use crate::read::TrialFiles;
use crate::record::{RequestRecord, TokenEvent};
use crate::run_dir::replace_file;

pub const REQUESTS_FILE: &str = "requests.parquet";
pub const TOKEN_EVENTS_FILE: &str = "token_events.parquet";

/// One column of one trial. Absent values are allowed in every column; `None` is stored as null.
struct Column {
    name: &'static str,
    cells: Cells,
}

enum Cells {
    U64(Vec<Option<u64>>),
    U32(Vec<Option<u32>>),
    Text(Vec<Option<String>>),
}

/// Writes both files into the run directory, replacing older ones. Returns their paths.
pub fn write_parquet(run: &Path, trials: &[TrialFiles]) -> Result<[PathBuf; 2], ResultsError> {
    let requests = run.join(REQUESTS_FILE);
    write_table(&requests, "requests", trials, request_columns)?;
    let events = run.join(TOKEN_EVENTS_FILE);
    write_table(&events, "token_events", trials, event_columns)?;
    Ok([requests, events])
}

fn request_columns(trial: &TrialFiles) -> Vec<Column> {
    let rows = &trial.records;
    let mut columns = trial_columns(trial, rows.len());
    let mut u64s = |name, get: fn(&RequestRecord) -> Option<u64>| {
        columns.push(Column { name, cells: Cells::U64(rows.iter().map(get).collect()) });
    };
    u64s("index", |r| Some(r.index));
    u64s("scheduled_ns", |r| Some(r.scheduled_ns));
    u64s("sent_ns", |r| r.sent_ns);
    u64s("connect_ns", |r| r.connect_ns);
    u64s("headers_ns", |r| r.headers_ns);
    u64s("first_byte_ns", |r| r.first_byte_ns);
    u64s("role_ns", |r| r.role_ns);
    u64s("first_reasoning_ns", |r| r.first_reasoning_ns);
    u64s("first_token_ns", |r| r.first_token_ns());
    u64s("last_token_ns", |r| r.last_token_ns());
    u64s("done_ns", |r| r.done_ns);
    u64s("session", |r| r.turn.map(|t| t.session));
    let mut u32s = |name, get: fn(&RequestRecord) -> Option<u32>| {
        columns.push(Column { name, cells: Cells::U32(rows.iter().map(get).collect()) });
    };
    u32s("prompt_tokens_requested", |r| Some(r.prompt_tokens_requested));
    u32s("prompt_tokens", |r| Some(r.prompt_tokens));
    u32s("output_tokens_requested", |r| Some(r.output_tokens_requested));
    u32s("output_tokens", |r| Some(r.output_tokens));
    u32s("resends", |r| Some(r.resends));
    u32s("turn", |r| r.turn.map(|t| t.turn));
    u32s("context_tokens", |r| r.turn.map(|t| t.context_tokens));
    u32s("stand_ins", |r| r.turn.map(|t| t.stand_ins));
    u32s("http_status", |r| r.http_status.map(u32::from));
    let mut texts = |name, get: fn(&RequestRecord) -> Option<String>| {
        columns.push(Column { name, cells: Cells::Text(rows.iter().map(get).collect()) });
    };
    texts("prompt_tokens_source", |r| Some(tag(&r.prompt_tokens_source)));
    texts("output_tokens_source", |r| Some(tag(&r.output_tokens_source)));
    texts("outcome", |r| Some(tag(&r.outcome)));
    texts("finish_reason", |r| r.finish_reason.clone());
    texts("error", |r| r.error.clone());
    columns
}

fn event_columns(trial: &TrialFiles) -> Vec<Column> {
    let rows: Vec<(u64, TokenEvent)> =
        trial.records.iter().flat_map(|r| r.events.iter().map(|e| (r.index, *e))).collect();
    let mut columns = trial_columns(trial, rows.len());
    columns.push(Column { name: "index", cells: Cells::U64(rows.iter().map(|(i, _)| Some(*i)).collect()) });
    columns
        .push(Column { name: "at_ns", cells: Cells::U64(rows.iter().map(|(_, e)| Some(e.at_ns)).collect()) });
    columns.push(Column {
        name: "tokens",
        cells: Cells::U32(rows.iter().map(|(_, e)| Some(e.tokens)).collect()),
    });
    columns
}

/// The columns that say which trial a row belongs to.
fn trial_columns(trial: &TrialFiles, rows: usize) -> Vec<Column> {
    let facts = &trial.facts;
    let text = |name, value: &str| Column { name, cells: Cells::Text(vec![Some(value.to_owned()); rows]) };
    vec![
        text("trial", &facts.dir),
        text("target", &facts.target),
        text("kind", &tag(&facts.kind)),
        Column { name: "repeat", cells: Cells::U32(vec![Some(facts.repeat); rows]) },
    ]
}

/// The name a unit variant has in JSON, so that both formats use one spelling.
fn tag<T: Serialize>(variant: &T) -> String {
    match serde_json::to_value(variant) {
        Ok(serde_json::Value::String(name)) => name,
        other => unreachable!("a fieldless variant serialises as a string, not {other:?}"),
    }
}

fn write_table(
    path: &Path,
    table: &'static str,
    trials: &[TrialFiles],
    columns_of: fn(&TrialFiles) -> Vec<Column>,
) -> Result<(), ResultsError> {
    replace_file(path, |file| {
        write_row_groups(file, table, trials, columns_of)
            .map_err(|source| ResultsError::Parquet { path: path.to_path_buf(), source })
    })
}

fn write_row_groups(
    file: &mut File,
    table: &'static str,
    trials: &[TrialFiles],
    columns_of: fn(&TrialFiles) -> Vec<Column>,
) -> Result<(), ParquetError> {
    let version = KeyValue::new("llmlab.schema_version".to_owned(), SCHEMA_VERSION.to_string());
    let properties = WriterProperties::builder()
        .set_compression(Compression::SNAPPY)
        .set_key_value_metadata(Some(vec![version]))
        .build();
    let schema = Arc::new(schema(table, columns_of)?);
    let mut writer = SerializedFileWriter::new(file, schema, Arc::new(properties))?;
    for trial in trials {
        let mut group = writer.next_row_group()?;
        for column in columns_of(trial) {
            write_column(&mut group, column.cells)?;
        }
        group.close()?;
    }
    writer.close()?;
    Ok(())
}

/// The schema of an empty trial is the schema of every trial.
fn schema(table: &'static str, columns_of: fn(&TrialFiles) -> Vec<Column>) -> Result<Type, ParquetError> {
    let empty = TrialFiles {
        facts: TrialFacts {
            dir: String::new(),
            target: String::new(),
            repeat: 0,
            kind: TrialKind::Measure,
            start_monotonic_ns: 0,
            elapsed_ns: 0,
            client: ClientFacts::default(),
            prompt_fit: None,
            complete: true,
            journey: None,
        },
        records: Vec::new(),
        steps: Vec::new(),
        server: Vec::new(),
        machine: Vec::new(),
        warnings: Vec::new(),
    };
    let fields = columns_of(&empty).into_iter().map(|column| {
        let (physical, logical) = match column.cells {
            Cells::U64(_) => (PhysicalType::INT64, unsigned(64)),
            Cells::U32(_) => (PhysicalType::INT32, unsigned(32)),
            Cells::Text(_) => (PhysicalType::BYTE_ARRAY, LogicalType::String),
        };
        Type::primitive_type_builder(column.name, physical)
            .with_repetition(Repetition::OPTIONAL)
            .with_logical_type(Some(logical))
            .build()
            .map(Arc::new)
    });
    Type::group_type_builder(table).with_fields(fields.collect::<Result<_, _>>()?).build()
}

fn unsigned(bit_width: i8) -> LogicalType {
    LogicalType::integer(bit_width, false)
}

fn write_column(
    group: &mut SerializedRowGroupWriter<'_, &mut File>,
    cells: Cells,
) -> Result<(), ParquetError> {
    // Parquet keeps unsigned integers in the signed physical type of the same width; the bits are what count.
    match cells {
        Cells::U64(cells) => write_cells::<Int64Type, _>(group, cells, |v| v.cast_signed()),
        Cells::U32(cells) => write_cells::<Int32Type, _>(group, cells, |v| v.cast_signed()),
        Cells::Text(cells) => {
            write_cells::<ByteArrayType, _>(group, cells, |v| ByteArray::from(v.into_bytes()))
        }
    }
}

fn write_cells<T: DataType, V>(
    group: &mut SerializedRowGroupWriter<'_, &mut File>,
    cells: Vec<Option<V>>,
    physical: impl Fn(V) -> T::T,
) -> Result<(), ParquetError> {
    let levels: Vec<i16> = cells.iter().map(|cell| i16::from(cell.is_some())).collect();
    let values: Vec<T::T> = cells.into_iter().flatten().map(physical).collect();
    let mut column =
        group.next_column()?.ok_or_else(|| ParquetError::General("more columns than schema".into()))?;
    column.typed::<T>().write_batch(&values, Some(&levels), None)?;
    column.close()
}
