//! What opening a file may allocate, measured: less than three times its header, whatever the numbers in it say. Alone in this
//! file, because the counter counts every thread of the process.

mod gguf_bytes;

use gguf_bytes::{Raw, array, open, string};
use llmlab_models::gguf::Kind;
use peak_alloc::PeakAlloc;

#[global_allocator]
static MEMORY: PeakAlloc = PeakAlloc;

/// One read ahead, and what an error's text and the test itself take.
const CONSTANT_BYTES: usize = 96 << 10;

/// Bytes at the peak over what the file itself takes, while it is opened.
fn peak_of_opening(bytes: Vec<u8>) -> usize {
    let before = MEMORY.current_usage();
    MEMORY.reset_peak_usage();
    let opened = open(bytes);
    let peak = MEMORY.peak_usage() - before;
    drop(opened);
    peak
}

fn check(what: &str, header_bytes: usize, bytes: Vec<u8>) {
    let peak = peak_of_opening(bytes);
    let limit = 3 * header_bytes + CONSTANT_BYTES;
    assert!(peak <= limit, "{what}: {peak} bytes at the peak, a header of {header_bytes}");
}

#[test]
fn opening_takes_memory_by_the_header_and_not_by_what_it_claims() {
    // The densest headers: many short keys, many short tensors, many empty strings.
    let key = |index: usize| (index.to_string().into_bytes(), Kind::U8 as u32, vec![1]);
    let keys = Raw { keys: (0..200_000).map(key).collect(), tensors: Vec::new(), ..Raw::valid() };
    check("keys", keys.header().len(), keys.bytes());
    let tensor = |index: usize| gguf_bytes::tensor(&index.to_string(), &[8], 0, 32 * index as u64);
    let count = 100_000;
    let tensors = Raw { tensors: (0..count).map(tensor).collect(), data_bytes: 32 * count, ..Raw::valid() };
    check("tensors", tensors.header().len(), tensors.bytes());
    let mut texts = Raw::valid();
    texts.keys[13].2 = array(Kind::Str as u32, 500_000, &string(b"").repeat(500_000));
    check("strings", texts.header().len(), texts.bytes());

    // Files of some hundred bytes that claim more.
    let claims: [fn(&mut Raw); 7] = [
        |raw| raw.tensor_count = Some(1 << 32),
        |raw| raw.key_count = Some(1 << 32),
        |raw| raw.keys[0].2 = (1u64 << 34).to_le_bytes().to_vec(),
        |raw| raw.keys[13].2 = array(Kind::Str as u32, 1 << 34, &[]),
        |raw| raw.keys[13].2 = array(Kind::F64 as u32, 1 << 34, &[]),
        |raw| raw.keys[14].2 = array(Kind::Array as u32, 1 << 34, &[]),
        |raw| raw.tensors[1].dims = vec![1 << 20, 1 << 20],
    ];
    for (index, claim) in claims.into_iter().enumerate() {
        let mut raw = Raw::valid();
        claim(&mut raw);
        check(&format!("claim {index}"), raw.header().len(), raw.bytes());
    }
    // Each eight bytes of the header replaced by large numbers.
    let valid = Raw::valid();
    let bytes = valid.bytes();
    for at in 0..valid.header().len() - 8 {
        for word in [1u64 << 33, u64::MAX / 2] {
            let mut changed = bytes.clone();
            changed[at..at + 8].copy_from_slice(&word.to_le_bytes());
            check(&format!("{word} at {at}"), valid.header().len(), changed);
        }
    }
}
