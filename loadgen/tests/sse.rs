//! The incremental reader against a plain one that sees the whole stream at once.

use llmlab_loadgen::sse::{EventTooLarge, SseEvent, SseReader};
use proptest::prelude::*;

/// The standard's rules on a complete text, plus a blank line at the end.
fn oracle(stream: &[u8]) -> Vec<SseEvent> {
    let stream = stream.strip_prefix(b"\xEF\xBB\xBF").unwrap_or(stream);
    let text = String::from_utf8_lossy(stream).replace("\r\n", "\n").replace('\r', "\n");
    let mut events = Vec::new();
    let (mut name, mut data) = (String::new(), Vec::new());
    for line in text.split('\n').chain([""]) {
        if line.is_empty() {
            if !data.is_empty() {
                events.push(SseEvent { name: name.clone(), data: data.join("\n") });
            }
            (name, data) = (String::new(), Vec::new());
            continue;
        }
        let (field, value) = line.split_once(':').unwrap_or((line, ""));
        let value = value.strip_prefix(' ').unwrap_or(value);
        match field {
            "data" => data.push(value.to_owned()),
            "event" => name = value.to_owned(),
            _ => {}
        }
    }
    events
}

/// Reads `stream` in pieces that end at the given places.
fn read(stream: &[u8], cuts: &[usize]) -> Vec<SseEvent> {
    let mut reader = SseReader::new(1 << 20);
    let mut events = Vec::new();
    let mut start = 0;
    for &cut in cuts.iter().chain([&stream.len()]) {
        reader.push(&stream[start..cut], &mut events).unwrap();
        start = cut;
    }
    reader.finish(&mut events);
    events
}

fn fragments() -> impl Strategy<Value = Vec<u8>> {
    let fragment = prop::sample::select(vec![
        "data: a",
        "data:b",
        "data",
        "data:",
        "data:  two",
        "event: x",
        "event",
        ": ping",
        ":",
        "id: 1",
        "retry: 5",
        "data: {\"é\":\"😀\"}",
        "other",
        " data: no",
        "\n",
        "\n",
        "\r\n",
        "\r",
        "\n\n",
        "\r\n\r\n",
        "\r\r",
        "\u{feff}",
    ]);
    let raw = prop::collection::vec(any::<u8>(), 0..6);
    let piece = prop_oneof![8 => fragment.prop_map(|f| f.as_bytes().to_vec()), 1 => raw];
    prop::collection::vec(piece, 0..40).prop_map(|pieces| pieces.concat())
}

proptest! {
    #[test]
    fn pieces_do_not_matter(stream in fragments(), seed in prop::collection::vec(any::<prop::sample::Index>(), 0..10)) {
        let wanted = oracle(&stream);
        let every: Vec<usize> = (0..stream.len()).collect();
        let mut some: Vec<usize> = seed.iter().map(|i| i.index(stream.len() + 1)).collect();
        some.sort_unstable();
        prop_assert_eq!(&read(&stream, &[]), &wanted, "at once");
        prop_assert_eq!(&read(&stream, &every), &wanted, "byte by byte");
        prop_assert_eq!(&read(&stream, &some), &wanted, "cut at {:?}", some);
    }

    #[test]
    fn memory_stays_under_the_limit(stream in fragments(), limit in 0usize..30) {
        let mut reader = SseReader::new(limit);
        let mut events = Vec::new();
        let result = reader.push(&stream, &mut events);
        let too_large = EventTooLarge { limit_bytes: limit };
        prop_assert!(result.is_ok() || result == Err(too_large));
        for event in events {
            // Joining newlines and replacement characters (3 bytes for 1) may add to what was read.
            prop_assert!(event.data.len() <= 4 * limit + 40, "{event:?}");
        }
    }
}

#[test]
fn split_at_every_byte() {
    let stream = "\u{feff}event: e\r\ndata: 1\rdata: é😀\n\n: c\n\ndata:{\"a\":1}\r\n\r\ndata: [DONE]";
    let wanted = oracle(stream.as_bytes());
    let data: Vec<&str> = wanted.iter().map(|e| e.data.as_str()).collect();
    assert_eq!(data, ["1\né😀", "{\"a\":1}", "[DONE]"]);
    for cut in 0..=stream.len() {
        assert_eq!(read(stream.as_bytes(), &[cut]), wanted, "cut at {cut}");
    }
}

#[test]
fn an_event_comes_out_with_its_blank_line_not_later() {
    let mut reader = SseReader::new(100);
    let mut events = Vec::new();
    reader.push(b"data: a\n", &mut events).unwrap();
    assert!(events.is_empty());
    reader.push(b"\r", &mut events).unwrap();
    assert_eq!(events.len(), 1, "a lone CR ends a line; waiting for a LF would delay the event");
    reader.push(b"\ndata: b\n\n", &mut events).unwrap();
    assert_eq!(events.len(), 2);
}

#[test]
fn ten_megabytes_in_one_event() {
    let data = "x".repeat(10 << 20);
    let mut reader = SseReader::new(16 << 20);
    let mut events = Vec::new();
    for piece in format!("data: {data}\n\n").as_bytes().chunks(65_536) {
        reader.push(piece, &mut events).unwrap();
    }
    assert!(events.len() == 1 && events[0].data == data);
}
