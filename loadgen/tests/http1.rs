//! Responses cut anywhere: the same head, the same body, and the same judgement of what is no HTTP.

use llmlab_loadgen::http1::{BodyReader, Head, Piece, read_head};
use proptest::prelude::*;

/// The body and the bytes behind it, read in pieces that end at the given places.
fn read(mut body: BodyReader, stream: &[u8], cuts: &[usize]) -> Result<(Vec<u8>, bool, usize), String> {
    let (mut data, mut start) = (Vec::new(), 0);
    for &cut in cuts.iter().chain([&stream.len()]) {
        let mut bytes = &stream[start..cut];
        start = cut;
        loop {
            match body.next(&mut bytes).map_err(|error| error.to_string())? {
                Piece::Data(piece) => {
                    assert!(!piece.is_empty());
                    data.extend_from_slice(piece);
                }
                Piece::More => {
                    assert!(bytes.is_empty());
                    break;
                }
                Piece::End => return Ok((data, true, bytes.len() + stream.len() - cut)),
            }
        }
    }
    Ok((data, body.may_end(), 0))
}

fn chunked(chunks: &[Vec<u8>], extension: &str, trailers: &str) -> Vec<u8> {
    let mut stream = Vec::new();
    for chunk in chunks {
        stream.extend_from_slice(format!("{:X}{extension}\r\n", chunk.len()).as_bytes());
        stream.extend_from_slice(chunk);
        stream.extend_from_slice(b"\r\n");
    }
    stream.extend_from_slice(format!("0\r\n{trailers}\r\n").as_bytes());
    stream
}

fn cuts(of: usize) -> impl Strategy<Value = Vec<usize>> {
    prop::collection::vec(0..=of, 0..12).prop_map(|mut cuts| {
        cuts.sort_unstable();
        cuts
    })
}

proptest! {
    #[test]
    fn chunks_are_what_was_put_into_them(
        chunks in prop::collection::vec(prop::collection::vec(any::<u8>(), 1..40), 0..6),
        extension in prop::sample::select(vec!["", ";a=b", " ", ";quoted=\"x\""]),
        trailers in prop::sample::select(vec!["", "a: b\r\n", "a: b\r\nc: d\r\n"]),
        behind in prop::collection::vec(any::<u8>(), 0..5),
        places in prop::collection::vec(any::<prop::sample::Index>(), 0..12),
    ) {
        let mut stream = chunked(&chunks, extension, trailers);
        let whole = stream.len();
        stream.extend_from_slice(&behind);
        let mut cuts: Vec<usize> = places.iter().map(|place| place.index(stream.len() + 1)).collect();
        cuts.sort_unstable();
        let body = chunks.concat();
        prop_assert_eq!(read(BodyReader::chunked(), &stream, &cuts), Ok((body.clone(), true, behind.len())));
        // Without its last byte it is not over.
        let (_, over, _) = read(BodyReader::chunked(), &stream[..whole - 1], &[]).unwrap();
        prop_assert!(!over);
        let length = body.len() as u64;
        let mut stream = body.clone();
        stream.extend_from_slice(&behind);
        let cuts: Vec<usize> = cuts.into_iter().filter(|cut| *cut <= stream.len()).collect();
        prop_assert_eq!(read(BodyReader::of_length(length), &stream, &cuts), Ok((body, true, behind.len())));
    }

    #[test]
    fn cuts_change_nothing_even_of_junk(
        stream in prop::collection::vec(prop::sample::select(b"0123af;x\r\n \x00\xff".to_vec()), 0..60),
        cuts in cuts(60),
    ) {
        let cuts: Vec<usize> = cuts.into_iter().filter(|cut| *cut <= stream.len()).collect();
        let every: Vec<usize> = (0..stream.len()).collect();
        let whole = read(BodyReader::chunked(), &stream, &[]);
        prop_assert_eq!(&whole, &read(BodyReader::chunked(), &stream, &every));
        prop_assert_eq!(&whole, &read(BodyReader::chunked(), &stream, &cuts));
    }
}

#[test]
fn what_is_no_chunk() {
    for (stream, words) in [
        (&b"zz\r\n"[..], "hexadecimal"),
        (b"\r\n", "hexadecimal"),
        (b"10000000000000000\r\n", "64 bits"),
        (b"1\n", "hexadecimal"),
        (b"1\rx", "CR and LF"),
        (b"1\r\naa", "CR and LF"),
        (b"1;a\n", "line feed"),
        (b"0\r\na: b\rx", "trailer"),
    ] {
        let error = read(BodyReader::chunked(), stream, &[]).unwrap_err();
        assert!(error.contains(words), "{error} does not say {words}");
    }
    let endless = |start: &str| [start.as_bytes(), &[b'a'; 20_000]].concat();
    for start in ["1;", "0\r\n"] {
        assert!(read(BodyReader::chunked(), &endless(start), &[]).unwrap_err().contains("16 KiB"));
    }
    // The largest size there is does not overflow, and nothing is kept for it.
    assert_eq!(read(BodyReader::chunked(), b"ffffffffffffffff\r\nab", &[]), Ok((b"ab".to_vec(), false, 0)));
}

fn head(text: &str) -> Result<Option<(Head, usize)>, String> {
    read_head(text.as_bytes()).map_err(|error| error.to_string())
}

fn whole(lines: &str) -> Head {
    head(&format!("{lines}\r\n\r\n")).unwrap().unwrap().0
}

#[test]
fn a_head_is_whole_with_its_last_byte() {
    let text = "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 5\r\nA: b\r\n\r\n";
    for end in 0..text.len() {
        assert!(head(&text[..end]).unwrap().is_none(), "{end}");
    }
    let (head, length) = head(&format!("{text}hello")).unwrap().unwrap();
    assert_eq!((head.status.as_u16(), length, head.keep_alive), (200, text.len(), true));
    assert_eq!(head.body, BodyReader::of_length(5));
    assert_eq!(head.headers["a"], "b");
}

#[test]
fn how_a_body_ends() {
    for (lines, body, keep_alive) in [
        ("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked", BodyReader::chunked(), true),
        ("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\ncontent-length: 3", BodyReader::chunked(), true),
        ("HTTP/1.1 200 OK\r\ntransfer-encoding: gzip, Chunked", BodyReader::chunked(), true),
        ("HTTP/1.1 200 OK\r\ntransfer-encoding: gzip", BodyReader::until_close(), false),
        ("HTTP/1.1 200 OK\r\ncontent-length: 3\r\ncontent-length: 3", BodyReader::of_length(3), true),
        ("HTTP/1.1 200 OK\r\ncontent-length: 3\r\nconnection: Close", BodyReader::of_length(3), false),
        ("HTTP/1.1 200 OK", BodyReader::until_close(), false),
        ("HTTP/1.1 204 No Content\r\ncontent-length: 3", BodyReader::of_length(0), true),
        ("HTTP/1.0 200 OK\r\ncontent-length: 3", BodyReader::of_length(3), false),
        ("HTTP/1.0 200 OK\r\ncontent-length: 3\r\nconnection: keep-alive", BodyReader::of_length(3), true),
    ] {
        let head = whole(lines);
        assert_eq!((head.body, head.keep_alive), (body, keep_alive), "{lines}");
    }
}

#[test]
fn what_is_no_head() {
    for (lines, words) in [
        ("SSH-2.0-OpenSSH", "HTTP/1.1"),
        ("HTTP/1.1 2x0 OK", "status"),
        ("HTTP/1.1 099 Low", "status"),
        ("HTTP/1.1 200 OK\r\na b: c", "name"),
        ("HTTP/1.1 200 OK\r\ncontent-length: -1", "content-length"),
        ("HTTP/1.1 200 OK\r\ncontent-length: 99999999999999999999", "content-length"),
        ("HTTP/1.1 200 OK\r\ncontent-length: 1, 2", "several"),
        ("HTTP/1.0 200 OK\r\ntransfer-encoding: chunked", "HTTP/1.0"),
    ] {
        let error = head(&format!("{lines}\r\n\r\n")).unwrap_err();
        assert!(error.contains(words), "{error} does not say {words}");
    }
    let many: String = (0..101).map(|n| format!("\r\na{n}: b")).collect();
    assert!(head(&format!("HTTP/1.1 200 OK{many}\r\n\r\n")).unwrap_err().contains("100 headers"));
}
