//! The predictions of a model for a whole text, in the layout that `llama-perplexity --kl-divergence-base` writes and
//! `--kl-divergence` reads, so that either program can be the other's base.
//!
//! Layout, little-endian: `_logits_`; context, vocabulary and windows as 32-bit numbers; the tokens of all windows; then for
//! each scored position a step and a smallest log-probability as f32 and a 16-bit level for each token, and another 16 bits
//! where the vocabulary is odd.

use std::io::{Read, Write};

use llmlab_core::request::TokenId;

use super::{PerplexityError, Windows};

const MAGIC: &[u8; 8] = b"_logits_";
/// Log-probabilities further below the largest are stored as the smallest.
const RANGE: f32 = 16.0;
const LEVELS: f32 = 65535.0;
/// No vocabulary and no context comes near; a file that claims more is not read.
const MOST: u32 = 1 << 24;

/// The log-probabilities of one position in 16 bits each.
#[derive(Debug, Clone, PartialEq)]
pub struct LogProbabilities {
    step: f32,
    smallest: f32,
    levels: Vec<u16>,
}

impl LogProbabilities {
    /// `log_total` is the log of the sum of the exponentials of `logits`.
    pub(super) fn of(logits: &[f32], log_total: f64) -> Self {
        let largest = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        let smallest = logits.iter().copied().fold(f32::INFINITY, f32::min).max(largest - RANGE);
        let step = (largest - smallest) / LEVELS;
        let level = |logit: &f32| ((logit - smallest) / step).round_ties_even().clamp(0.0, LEVELS) as u16;
        let levels = if step > 0.0 { logits.iter().map(level).collect() } else { vec![0; logits.len()] };
        LogProbabilities { step, smallest: (f64::from(smallest) - log_total) as f32, levels }
    }

    pub(super) fn get(&self, token: usize) -> f32 {
        self.step * f32::from(self.levels[token]) + self.smallest
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = f32> {
        self.levels.iter().map(|level| self.step * f32::from(*level) + self.smallest)
    }

    fn write(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.step.to_le_bytes());
        out.extend_from_slice(&self.smallest.to_le_bytes());
        out.extend(self.levels.iter().flat_map(|level| level.to_le_bytes()));
        out.resize(out.len() + 2 * (self.levels.len() % 2), 0);
    }

    fn bytes(vocab: u32) -> usize {
        8 + 2 * (vocab as usize).next_multiple_of(2)
    }

    /// `bytes` are as many as [`Self::bytes`] says.
    fn read(bytes: &[u8], vocab: u32) -> Result<Self, PerplexityError> {
        let float = |at: usize| f32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]]);
        let (step, smallest) = (float(0), float(4));
        if !(step.is_finite() && smallest.is_finite() && step >= 0.0) {
            return Err(bad(format!("a step of {step} from {smallest}")));
        }
        let levels = bytes[8..].as_chunks::<2>().0.iter().take(vocab as usize);
        Ok(LogProbabilities {
            step,
            smallest,
            levels: levels.map(|level| u16::from_le_bytes(*level)).collect(),
        })
    }
}

fn bad(problem: String) -> PerplexityError {
    PerplexityError::LogProbabilities(problem)
}

/// What a file says before its positions.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Header {
    pub context: u32,
    pub vocab: u32,
    pub windows: u32,
    /// Of all windows, as the text has them.
    pub tokens: Vec<TokenId>,
}

/// Writes window after window.
pub struct LogProbabilitiesWriter<W> {
    out: W,
}

impl<W: Write> LogProbabilitiesWriter<W> {
    pub fn new(mut out: W, windows: &Windows<'_>, vocab: u32) -> Result<Self, PerplexityError> {
        out.write_all(MAGIC)?;
        for number in [windows.context() as u32, vocab, windows.count() as u32] {
            out.write_all(&number.to_le_bytes())?;
        }
        let tokens: Vec<u8> = windows.text().iter().flat_map(|token| token.to_le_bytes()).collect();
        out.write_all(&tokens)?;
        Ok(LogProbabilitiesWriter { out })
    }

    /// The positions of the next window.
    pub fn write<'p>(
        &mut self,
        positions: impl IntoIterator<Item = &'p LogProbabilities>,
    ) -> Result<(), PerplexityError> {
        let mut bytes = Vec::new();
        for position in positions {
            bytes.clear();
            position.write(&mut bytes);
            self.out.write_all(&bytes)?;
        }
        Ok(())
    }

    pub fn finish(mut self) -> Result<W, PerplexityError> {
        self.out.flush()?;
        Ok(self.out)
    }
}

/// Reads window after window.
#[derive(Debug)]
pub struct LogProbabilitiesReader<R> {
    from: R,
    header: Header,
}

impl<R: Read> LogProbabilitiesReader<R> {
    pub fn new(mut from: R) -> Result<Self, PerplexityError> {
        let mut magic = [0; 8];
        from.read_exact(&mut magic).map_err(cut_short)?;
        if magic != *MAGIC {
            return Err(
                bad("not a file of llama-perplexity --kl-divergence-base or of --save-logits".into()),
            );
        }
        let mut number = || -> Result<u32, PerplexityError> {
            let mut bytes = [0; 4];
            from.read_exact(&mut bytes).map_err(cut_short)?;
            Ok(u32::from_le_bytes(bytes))
        };
        let (context, vocab, windows) = (number()?, number()?, number()?);
        if [context, vocab, windows].iter().any(|number| !(1..=MOST).contains(number)) {
            return Err(bad(format!("{windows} windows of {context} tokens of a vocabulary of {vocab}")));
        }
        // Not allocated before it is there: the numbers may be anything.
        let mut bytes = Vec::new();
        let wanted = 4 * u64::from(context) * u64::from(windows);
        from.by_ref().take(wanted).read_to_end(&mut bytes)?;
        if bytes.len() as u64 != wanted {
            return Err(bad("the file ends before its tokens do".into()));
        }
        let tokens: Vec<TokenId> =
            bytes.as_chunks::<4>().0.iter().map(|token| u32::from_le_bytes(*token)).collect();
        if let Some(token) = tokens.iter().find(|token| **token >= vocab) {
            return Err(bad(format!("token {token} of a vocabulary of {vocab}")));
        }
        Ok(LogProbabilitiesReader { from, header: Header { context, vocab, windows, tokens } })
    }

    pub fn header(&self) -> &Header {
        &self.header
    }

    /// The `count` positions of the next window.
    pub fn read(&mut self, count: usize) -> Result<Vec<LogProbabilities>, PerplexityError> {
        let mut bytes = vec![0; LogProbabilities::bytes(self.header.vocab)];
        let mut position = || {
            self.from.read_exact(&mut bytes).map_err(cut_short)?;
            LogProbabilities::read(&bytes, self.header.vocab)
        };
        (0..count).map(|_| position()).collect()
    }
}

fn cut_short(error: std::io::Error) -> PerplexityError {
    match error.kind() {
        std::io::ErrorKind::UnexpectedEof => bad("the file ends too early".into()),
        _ => PerplexityError::Io(error),
    }
}

#[cfg(test)]
mod tests {
    use super::super::log_sum_exp;
    use super::*;

    fn of(logits: &[f32]) -> LogProbabilities {
        LogProbabilities::of(logits, log_sum_exp(logits))
    }

    #[test]
    fn sixteen_bits_keep_what_matters() {
        let logits: Vec<f32> = (0..501).map(|i| (i as f32 * 0.7).cos() * 9.0 + 3.0).collect();
        let total = log_sum_exp(&logits);
        let largest = logits.iter().copied().fold(f32::MIN, f32::max);
        for (stored, logit) in of(&logits).iter().zip(&logits) {
            let exact = (f64::from(logit.max(largest - RANGE)) - total) as f32;
            assert!((stored - exact).abs() < 0.6 * RANGE / LEVELS, "{stored} for {exact}");
        }
        assert!(of(&[2.0; 8]).iter().all(|value| (value + 8f32.ln()).abs() < 1e-6), "all alike");
    }

    /// Bytes as llama.cpp lays them out: `nv = 2 * ((n_vocab + 1) / 2) + 4` words a position.
    #[test]
    fn files_are_read_as_they_were_written() {
        let tokens: Vec<TokenId> = (0..17).map(|i| i % 5).collect();
        let windows = Windows::new(&tokens, Some(1), 8).unwrap();
        let positions: Vec<LogProbabilities> =
            (0..6).map(|i| of(&[0.0, 1.0, 2.0, i as f32, -30.0])).collect();
        let mut writer = LogProbabilitiesWriter::new(Vec::new(), &windows, 5).unwrap();
        writer.write(&positions[..3]).unwrap();
        writer.write(&positions[3..]).unwrap();
        let bytes = writer.finish().unwrap();
        assert_eq!(bytes.len(), 8 + 12 + 16 * 4 + 6 * 2 * (2 * 3 + 4));
        assert_eq!(bytes[8..20], [8, 0, 0, 0, 5, 0, 0, 0, 2, 0, 0, 0]);
        let mut reader = LogProbabilitiesReader::new(&bytes[..]).unwrap();
        assert_eq!(reader.header().tokens, tokens[..16]);
        assert_eq!(reader.read(3).unwrap(), positions[..3]);
        assert_eq!(reader.read(3).unwrap(), positions[3..]);
        assert!(reader.read(1).is_err());
    }

    #[test]
    fn what_is_no_such_file_is_refused() {
        let header = |context: u32, vocab: u32, windows: u32| {
            let numbers = [context, vocab, windows].map(u32::to_le_bytes).concat();
            [MAGIC.as_slice(), &numbers, &[7, 0, 0, 0]].concat()
        };
        for (bytes, word) in [
            (b"GGUF0000".to_vec(), "not a file"),
            (b"_log".to_vec(), "too early"),
            (header(u32::MAX, 5, 1), "windows of"),
            (header(4, 0, 1), "vocabulary of 0"),
            (header(MOST, 5, MOST), "before its tokens"),
            (header(1, 5, 1), "token 7"),
        ] {
            let error = LogProbabilitiesReader::new(&bytes[..]).unwrap_err().to_string();
            assert!(error.contains(word), "{word} is not in {error}");
        }
    }
}
