//! Bytes as an HTTP/1.1 response. However the body is cut, the same comes out, and never more than went in.

#![no_main]

use libfuzzer_sys::fuzz_target;
use llmlab_loadgen::http1::{BodyReader, NotHttp, Piece, read_head};

/// The first byte seeds the cuts, the others are the response; where its head is none, they are a chunked body.
fuzz_target!(|input: &[u8]| {
    let Some((seed, stream)) = input.split_first() else { return };
    let (body, stream) = match read_head(stream) {
        Ok(Some((head, length))) => (head.body, &stream[length..]),
        Ok(None) | Err(_) => (BodyReader::chunked(), stream),
    };
    let whole = read(body.clone(), std::iter::once(stream));
    assert_eq!(whole, read(body.clone(), stream.chunks(1)));
    assert_eq!(whole, read(body, stream.chunks(usize::from(*seed).max(1))));
    assert!(whole.0.len() <= stream.len());
});

fn read<'a>(
    mut body: BodyReader,
    pieces: impl Iterator<Item = &'a [u8]>,
) -> (Vec<u8>, Option<NotHttp>, bool) {
    let mut data = Vec::new();
    for mut piece in pieces {
        loop {
            match body.next(&mut piece) {
                Ok(Piece::Data(bytes)) => data.extend_from_slice(bytes),
                Ok(Piece::More) => break,
                Ok(Piece::End) => return (data, None, true),
                Err(error) => return (data, Some(error), false),
            }
        }
    }
    (data, None, body.is_over())
}
