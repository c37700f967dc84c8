//! Bytes as newline-delimited JSON: the lines that splitting the whole text gives, however the bytes are cut, and none above
//! the limit.

#![no_main]

use libfuzzer_sys::fuzz_target;
use llmlab_loadgen::ndjson::NdjsonReader;

const LIMIT_BYTES: usize = 64;

/// The first byte seeds the cuts, the others are the stream.
fuzz_target!(|input: &[u8]| {
    let Some((seed, stream)) = input.split_first() else { return };
    let wanted = split(stream);
    assert_eq!(read(std::iter::once(stream)), wanted);
    assert_eq!(read(stream.chunks(1)), wanted);
    assert_eq!(read(stream.chunks(usize::from(*seed).max(1))), wanted);
});

/// The lines, and whether one was too long; nothing is read behind that.
fn read<'a>(pieces: impl Iterator<Item = &'a [u8]>) -> (Vec<String>, bool) {
    let (mut reader, mut lines) = (NdjsonReader::new(LIMIT_BYTES), Vec::new());
    for piece in pieces {
        if reader.push(piece, &mut lines).is_err() {
            return (lines, true);
        }
    }
    reader.finish(&mut lines);
    (lines, false)
}

/// The same by the standard library, with all of it in memory.
fn split(stream: &[u8]) -> (Vec<String>, bool) {
    let mut lines = Vec::new();
    for line in stream.split(|byte| *byte == b'\n') {
        if line.len() > LIMIT_BYTES {
            return (lines, true);
        }
        let text = line.trim_ascii();
        if !text.is_empty() {
            lines.push(String::from_utf8_lossy(text).into_owned());
        }
    }
    (lines, false)
}
