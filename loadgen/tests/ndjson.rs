//! The incremental line reader against a plain one that sees the whole stream at once.

use llmlab_loadgen::ndjson::NdjsonReader;
use llmlab_loadgen::sse::EventTooLarge;
use proptest::prelude::*;

fn oracle(stream: &[u8]) -> Vec<String> {
    let lines = stream.split(|byte| *byte == b'\n').map(<[u8]>::trim_ascii);
    lines.filter(|line| !line.is_empty()).map(|line| String::from_utf8_lossy(line).into_owned()).collect()
}

fn read(stream: &[u8], cuts: &[usize]) -> Vec<String> {
    let mut reader = NdjsonReader::new(1 << 20);
    let mut lines = Vec::new();
    let mut start = 0;
    for &cut in cuts.iter().chain([&stream.len()]) {
        reader.push(&stream[start..cut], &mut lines).unwrap();
        start = cut;
    }
    reader.finish(&mut lines);
    lines
}

fn streams() -> impl Strategy<Value = Vec<u8>> {
    let fragment =
        prop::sample::select(vec!["{\"a\":1}", "{\"é\":\"😀\"}", "\n", "\r\n", "\n\n", " ", "\r", "{", "x"]);
    let raw = prop::collection::vec(any::<u8>(), 0..6);
    let piece = prop_oneof![8 => fragment.prop_map(|f| f.as_bytes().to_vec()), 1 => raw];
    prop::collection::vec(piece, 0..40).prop_map(|pieces| pieces.concat())
}

proptest! {
    #[test]
    fn pieces_do_not_matter(stream in streams(), seed in prop::collection::vec(any::<prop::sample::Index>(), 0..10)) {
        let wanted = oracle(&stream);
        let every: Vec<usize> = (0..stream.len()).collect();
        let mut some: Vec<usize> = seed.iter().map(|i| i.index(stream.len() + 1)).collect();
        some.sort_unstable();
        prop_assert_eq!(&read(&stream, &[]), &wanted, "at once");
        prop_assert_eq!(&read(&stream, &every), &wanted, "byte by byte");
        prop_assert_eq!(&read(&stream, &some), &wanted, "cut at {:?}", some);
    }

    #[test]
    fn a_line_may_be_as_long_as_the_limit_and_no_longer(stream in streams(), limit in 0usize..30) {
        let longest = stream.split(|byte| *byte == b'\n').map(<[u8]>::len).max().unwrap_or(0);
        let mut lines = Vec::new();
        let result = NdjsonReader::new(limit).push(&stream, &mut lines);
        let wanted = if longest <= limit { Ok(()) } else { Err(EventTooLarge { limit_bytes: limit }) };
        prop_assert_eq!(result, wanted);
    }
}

#[test]
fn a_line_comes_out_with_its_end_not_later() {
    let mut reader = NdjsonReader::new(100);
    let mut lines = Vec::new();
    reader.push(b"{\"a\":1}", &mut lines).unwrap();
    assert!(lines.is_empty());
    reader.push(b"\n{\"b\"", &mut lines).unwrap();
    assert_eq!(lines, ["{\"a\":1}"]);
    reader.push(b":2}\n", &mut lines).unwrap();
    assert_eq!(lines.len(), 2);
}
