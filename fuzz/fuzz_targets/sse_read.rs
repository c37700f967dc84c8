//! Bytes as a stream of server-sent events. However they are cut, the same events come out, none larger than the limit, and
//! an event above it ends the stream the same way.

#![no_main]

use libfuzzer_sys::fuzz_target;
use llmlab_loadgen::sse::{EventTooLarge, SseEvent, SseReader};

const LIMIT_BYTES: usize = 64;

/// The first byte seeds the cuts, the others are the stream.
fuzz_target!(|input: &[u8]| {
    let Some((seed, stream)) = input.split_first() else { return };
    let whole = read(std::iter::once(stream));
    let bytes = read(stream.chunks(1));
    let some = read(stream.chunks(usize::from(*seed).max(1)));
    assert_eq!(whole, bytes);
    assert_eq!(whole, some);
    for event in &whole.0 {
        // Each byte that is not UTF-8 becomes three.
        assert!(event.data.len() + event.name.len() <= 3 * LIMIT_BYTES, "{event:?}");
    }
});

fn read<'a>(pieces: impl Iterator<Item = &'a [u8]>) -> (Vec<SseEvent>, Option<EventTooLarge>) {
    let (mut reader, mut events) = (SseReader::new(LIMIT_BYTES), Vec::new());
    for piece in pieces {
        if let Err(error) = reader.push(piece, &mut events) {
            return (events, Some(error));
        }
    }
    reader.finish(&mut events);
    (events, None)
}
