//! What the journal promises: a cut loses only what was cut, and no damage goes unnoticed.

use llmlab_results::journal::{decode, encode_line};
use llmlab_results::record::{CountSource, Outcome, RequestRecord, TokenEvent};
use proptest::prelude::*;

fn record() -> impl Strategy<Value = RequestRecord> {
    let event = (any::<u64>(), 1u32..9).prop_map(|(at_ns, tokens)| TokenEvent { at_ns, tokens });
    let text = proptest::option::of(".{0,12}");
    let times = (any::<u64>(), any::<Option<u64>>(), any::<Option<u64>>());
    (any::<u64>(), times, proptest::collection::vec(event, 0..4), text, any::<Option<u16>>()).prop_map(
        |(index, (scheduled_ns, sent_ns, done_ns), events, error, http_status)| RequestRecord {
            index,
            scheduled_ns,
            sent_ns,
            connect_ns: None,
            resends: 0,
            headers_ns: None,
            first_byte_ns: None,
            role_ns: None,
            first_reasoning_ns: None,
            events,
            done_ns,
            prompt_tokens_requested: 7,
            prompt_tokens: 7,
            prompt_tokens_source: CountSource::Usage,
            output_tokens_requested: 3,
            output_tokens: 3,
            output_tokens_source: CountSource::TokenIds,
            outcome: if error.is_some() { Outcome::Malformed } else { Outcome::Ok },
            turn: None,
            http_status,
            finish_reason: None,
            error,
        },
    )
}

/// The journal's bytes and, per record, the offset after its newline.
fn journal(records: &[RequestRecord]) -> (Vec<u8>, Vec<usize>) {
    let (mut bytes, mut ends, mut line) = (Vec::new(), Vec::new(), Vec::new());
    for record in records {
        encode_line(record, &mut line).unwrap();
        bytes.extend_from_slice(&line);
        ends.push(bytes.len());
    }
    (bytes, ends)
}

fn read(bytes: &[u8]) -> (Vec<RequestRecord>, Vec<String>) {
    let mut warnings = Vec::new();
    let records = decode(bytes, "journal.jsonl", &mut warnings);
    (records, warnings)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn truncating_anywhere_yields_exactly_the_complete_prefix(records in proptest::collection::vec(record(), 1..4)) {
        let (bytes, ends) = journal(&records);
        for cut in 0..=bytes.len() {
            let whole = ends.iter().filter(|&&end| end <= cut).count();
            let (read, warnings) = read(&bytes[..cut]);
            prop_assert_eq!(&read, &records[..whole], "cut at {}", cut);
            let clean = cut == 0 || ends.contains(&cut);
            prop_assert_eq!(warnings.is_empty(), clean, "cut at {}: {:?}", cut, warnings);
        }
    }

    #[test]
    fn changing_any_byte_is_noticed_and_costs_at_most_two_records(
        records in proptest::collection::vec(record(), 2..4),
        flip in 1u8..,
    ) {
        let (bytes, _) = journal(&records);
        for at in 0..bytes.len() {
            let mut damaged = bytes.clone();
            damaged[at] ^= flip;
            let (read, warnings) = read(&damaged);
            prop_assert!(!warnings.is_empty(), "byte {} changed silently", at);
            // A lost newline joins two lines; every other change stays in its own. What is read was written.
            prop_assert!(read.len() + 2 >= records.len());
            prop_assert!(read.iter().all(|r| records.contains(r)));
        }
    }

    #[test]
    fn arbitrary_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
        let (records, _) = read(&bytes);
        prop_assert!(records.is_empty());
    }
}

#[test]
fn a_warning_names_the_file_and_the_line() {
    let mut bytes = Vec::new();
    let mut line = Vec::new();
    for value in [10, 20, 30] {
        encode_line(&value, &mut line).unwrap();
        bytes.extend_from_slice(&line);
    }
    let at = bytes.windows(2).position(|w| w == b"20").unwrap();
    bytes[at] = b'9';
    bytes.extend_from_slice(b"0123");
    let mut warnings = Vec::new();
    let values: Vec<u32> = decode(&bytes, "t/journal.jsonl", &mut warnings);
    assert_eq!(values, [10, 30]);
    assert!(warnings[0].starts_with("t/journal.jsonl line 4: torn last line of 4 bytes"), "{warnings:?}");
    assert!(warnings[1].starts_with("t/journal.jsonl line 2: checksum"), "{warnings:?}");
}
