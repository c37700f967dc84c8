//! The type numbers of GGUF tensors (ggml's `ggml_type`) and of the files' main format (`general.file_type`).

use llmlab_quant::WeightFormat;

/// Formats with an implementation here, and their numbers.
const FORMATS: [(u32, WeightFormat); 14] = [
    (0, WeightFormat::F32),
    (1, WeightFormat::F16),
    (2, WeightFormat::Q4_0),
    (3, WeightFormat::Q4_1),
    (6, WeightFormat::Q5_0),
    (7, WeightFormat::Q5_1),
    (8, WeightFormat::Q8_0),
    (10, WeightFormat::Q2K),
    (11, WeightFormat::Q3K),
    (12, WeightFormat::Q4K),
    (13, WeightFormat::Q5K),
    (14, WeightFormat::Q6K),
    (20, WeightFormat::Iq4Nl),
    (30, WeightFormat::Bf16),
];

/// Formats that exist and have no implementation here, so that an error can name them.
const OTHERS: [(u32, &str); 21] = [
    (9, "q8_1"),
    (15, "q8_k"),
    (16, "iq2_xxs"),
    (17, "iq2_xs"),
    (18, "iq3_xxs"),
    (19, "iq1_s"),
    (21, "iq3_s"),
    (22, "iq2_s"),
    (23, "iq4_xs"),
    (24, "i8"),
    (25, "i16"),
    (26, "i32"),
    (27, "i64"),
    (28, "f64"),
    (29, "iq1_m"),
    (34, "tq1_0"),
    (35, "tq2_0"),
    (39, "mxfp4"),
    (40, "nvfp4"),
    (41, "q1_0"),
    (42, "q2_0"),
];

/// The format of a tensor type number, or why there is none.
pub(crate) fn format_of(number: u32) -> Result<WeightFormat, String> {
    if let Some((_, format)) = FORMATS.iter().find(|(known, _)| *known == number) {
        return Ok(*format);
    }
    let name = OTHERS.iter().find(|(known, _)| *known == number).map_or("unknown", |(_, name)| *name);
    let accepted: Vec<String> =
        FORMATS.iter().map(|(number, format)| format!("{format} ({number})")).collect();
    Err(format!("tensor type {number} ({name}) is not supported; accepted are {}", accepted.join(", ")))
}

/// The number of a format, `None` for those that GGUF does not have.
pub(crate) fn number_of(format: WeightFormat) -> Option<u32> {
    FORMATS.iter().find(|(_, known)| *known == format).map(|(number, _)| *number)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_gguf_format_has_one_number_and_the_others_have_none() {
        for format in WeightFormat::ALL {
            assert_eq!(number_of(format).is_some(), format.is_gguf(), "{format}");
            if let Some(number) = number_of(format) {
                assert_eq!(format_of(number), Ok(format));
            }
        }
        assert!(format_of(16).unwrap_err().contains("iq2_xxs"));
        // 4 and 5 were formats that no longer exist.
        assert!(format_of(4).unwrap_err().contains("unknown"));
    }
}
