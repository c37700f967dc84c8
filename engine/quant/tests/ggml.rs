//! Blocks, bit for bit, against what ggml itself made (`fixtures/make_fixtures.py` says how).

use std::path::PathBuf;

use llmlab_quant::{StoredMatrix, WeightFormat, quantize_row};

const FORMATS: [WeightFormat; 11] = [
    WeightFormat::Q8_0,
    WeightFormat::Q4_0,
    WeightFormat::Q4_1,
    WeightFormat::Q5_0,
    WeightFormat::Q5_1,
    WeightFormat::Iq4Nl,
    WeightFormat::Q2K,
    WeightFormat::Q3K,
    WeightFormat::Q4K,
    WeightFormat::Q5K,
    WeightFormat::Q6K,
];

fn read(name: &str) -> Vec<u8> {
    let folder = std::env::var_os("LLMLAB_GGML_FIXTURES")
        .map_or_else(|| PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures")), PathBuf::from);
    let path = folder.join(name);
    std::fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

fn floats(bytes: &[u8]) -> Vec<f32> {
    bytes.as_chunks::<4>().0.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect()
}

#[test]
fn quantized_blocks_are_those_of_ggml() {
    let input = floats(&read("ggml_input.bin"));
    let mut report = String::new();
    for format in FORMATS {
        let expected = read(&format!("ggml_{format}.bin"));
        let got = quantize_row(format, &input).unwrap();
        assert_eq!(got.len(), expected.len());
        let blocks = expected.chunks(format.block_bytes()).zip(got.chunks(format.block_bytes()));
        let differing: Vec<usize> =
            blocks.enumerate().filter(|(_, (expected, got))| expected != got).map(|(i, _)| i).collect();
        if let Some(first) = differing.first() {
            let weights = &input[first * format.block()..][..format.block()];
            let count = differing.len();
            report += &format!("{format}: {count} blocks differ, first {first}: {:?}\n", &weights[..8]);
        }
    }
    assert!(report.is_empty(), "{report}");
}

#[test]
fn arbitrary_blocks_mean_what_ggml_says() {
    for format in FORMATS {
        let file = read(&format!("ggml_{format}_dequantized.bin"));
        let weights = 6 * 256;
        let (blocks, expected) = file.split_at(format.row_bytes(weights));
        let matrix = StoredMatrix::Blocks { format, bytes: blocks.into() };
        matrix.validate(1, weights).unwrap();
        let got: Vec<u32> = matrix.dequantize(1, weights).into_iter().map(f32::to_bits).collect();
        let expected: Vec<u32> = floats(expected).into_iter().map(f32::to_bits).collect();
        assert_eq!(got, expected, "{format}");
    }
}
