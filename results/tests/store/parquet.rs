//! The parquet files, read back with the parquet crate's reader.

use std::fs::File;
use std::path::Path;

use crate::sample::{facts, record};
use ::parquet::file::reader::{FileReader, SerializedFileReader};
use ::parquet::record::{Field, Row};
use llmlab_results::manifest::TrialFacts;
use llmlab_results::{TrialFiles, write_parquet};
use tempfile::TempDir;

fn trial(dir: &str, indices: std::ops::Range<u64>) -> TrialFiles {
    let facts = TrialFacts { repeat: 3, ..facts(dir, 1) };
    let records = indices.map(record).collect();
    TrialFiles {
        facts,
        records,
        steps: Vec::new(),
        server: Vec::new(),
        machine: Vec::new(),
        warnings: Vec::new(),
    }
}

fn rows(path: &Path) -> (usize, Vec<Row>) {
    let reader = SerializedFileReader::new(File::open(path).unwrap()).unwrap();
    let rows = reader.get_row_iter(None).unwrap().map(Result::unwrap).collect();
    (reader.num_row_groups(), rows)
}

fn field<'a>(row: &'a Row, name: &str) -> &'a Field {
    row.get_column_iter().find(|(n, _)| *n == name).unwrap_or_else(|| panic!("no column {name}")).1
}

#[test]
fn every_request_and_event_of_every_trial_is_in_the_tables() {
    let root = TempDir::new().unwrap();
    let trials = [trial("a-r1", 1..4), trial("empty", 0..0), trial("b-r1", 1..3)];
    let [requests, events] = write_parquet(root.path(), &trials).unwrap();
    let expected: Vec<_> = trials.iter().flat_map(|t| t.records.iter().map(|r| (&t.facts.dir, r))).collect();

    let (groups, requests) = rows(&requests);
    assert_eq!((groups, requests.len()), (3, expected.len()));
    for (row, (dir, record)) in requests.iter().zip(&expected) {
        let u64_or_null = |v: Option<u64>| v.map_or(Field::Null, Field::ULong);
        let text_or_null = |v: &Option<String>| v.clone().map_or(Field::Null, Field::Str);
        assert_eq!(field(row, "trial"), &Field::Str((*dir).clone()));
        assert_eq!(field(row, "target"), &Field::Str("vllm".into()));
        assert_eq!(field(row, "kind"), &Field::Str("measure".into()));
        assert_eq!(field(row, "repeat"), &Field::UInt(3));
        assert_eq!(field(row, "index"), &Field::ULong(record.index));
        assert_eq!(field(row, "sent_ns"), &u64_or_null(record.sent_ns));
        assert_eq!(field(row, "first_token_ns"), &u64_or_null(record.first_token_ns()));
        assert_eq!(field(row, "done_ns"), &u64_or_null(record.done_ns));
        assert_eq!(field(row, "output_tokens"), &Field::UInt(record.output_tokens));
        assert_eq!(field(row, "http_status"), &Field::UInt(record.http_status.unwrap().into()));
        assert_eq!(
            field(row, "outcome"),
            &Field::Str(if record.error.is_some() { "http" } else { "ok" }.into())
        );
        assert_eq!(field(row, "error"), &text_or_null(&record.error));
    }

    let expected: Vec<_> =
        expected.iter().flat_map(|(dir, r)| r.events.iter().map(move |e| (*dir, r.index, *e))).collect();
    let (_, events) = rows(&events);
    assert_eq!(events.len(), expected.len());
    for (row, (dir, index, event)) in events.iter().zip(expected) {
        assert_eq!(field(row, "trial"), &Field::Str(dir.clone()));
        assert_eq!(field(row, "index"), &Field::ULong(index));
        assert_eq!(field(row, "at_ns"), &Field::ULong(event.at_ns));
        assert_eq!(field(row, "tokens"), &Field::UInt(event.tokens));
    }
}

#[test]
fn a_run_without_trials_has_tables_with_columns_and_no_rows() {
    let root = TempDir::new().unwrap();
    let [requests, events] = write_parquet(root.path(), &[]).unwrap();
    for path in [requests, events] {
        let reader = SerializedFileReader::new(File::open(&path).unwrap()).unwrap();
        let metadata = reader.metadata().file_metadata();
        assert_eq!(metadata.num_rows(), 0);
        assert!(metadata.schema_descr().num_columns() >= 7);
        let versions = metadata.key_value_metadata().unwrap();
        assert!(
            versions.iter().any(|kv| kv.key == "llmlab.schema_version" && kv.value.as_deref() == Some("1"))
        );
    }
    assert!(write_parquet(&root.path().join("absent"), &[]).is_err());
}
