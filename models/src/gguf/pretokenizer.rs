//! How byte-level BPE vocabularies split a text into words before merging: the names of `tokenizer.ggml.pre`.
//!
//! The patterns are those of the models' own `tokenizer.json` where llama.cpp (`src/llama-vocab.cpp`) quotes them beside an
//! adapted form, otherwise llama.cpp's. Several patterns apply one after the other, each to the pieces the one before left.

use serde_json::{Value, json};

/// One way of splitting.
#[derive(Debug, Clone, Copy)]
pub(crate) struct PreTokenizer {
    /// Names in files, the usual one first.
    pub names: &'static [&'static str],
    pub patterns: &'static [&'static str],
    /// Whether a word that is in the vocabulary is taken as it is, without merging.
    pub ignore_merges: bool,
    /// Whether a text starts with the BOS token where the file does not say.
    pub add_bos: bool,
    /// Whether text is brought into Unicode's composed form first, as the models' own tokenizers do and llama.cpp does not.
    pub nfc: bool,
}

pub(crate) const GPT2: &str = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+";
const LLAMA3: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const QWEN2: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const TEKKEN: &str = r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const GPT4O: &str = r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const DIGIT: &str = r"\p{N}";

const PLAIN: PreTokenizer =
    PreTokenizer { names: &[], patterns: &[], ignore_merges: false, add_bos: false, nfc: false };

const KNOWN: [PreTokenizer; 8] = [
    PreTokenizer {
        names: &["gpt-2", "phi-2", "mpt", "olmo", "jais", "jina-es", "jina-de", "exaone4", "modern-bert"],
        patterns: &[GPT2],
        ..PLAIN
    },
    PreTokenizer {
        names: &["llama-bpe", "llama3", "llama-v3", "falcon3", "pixtral", "lfm2"],
        patterns: &[LLAMA3],
        ignore_merges: true,
        add_bos: true,
        ..PLAIN
    },
    PreTokenizer { names: &["dbrx", "smaug-bpe", "chatglm-bpe"], patterns: &[LLAMA3], ..PLAIN },
    PreTokenizer {
        names: &["qwen2", "deepseek-r1-qwen", "megrez", "stablelm2", "hunyuan"],
        patterns: &[QWEN2],
        nfc: true,
        ..PLAIN
    },
    PreTokenizer { names: &["tekken"], patterns: &[TEKKEN], ignore_merges: true, add_bos: true, ..PLAIN },
    PreTokenizer { names: &["gpt-4o", "llama4", "kanana2"], patterns: &[GPT4O], ..PLAIN },
    PreTokenizer {
        names: &["smollm", "starcoder", "refact", "command-r", "codeshell", "exaone", "minerva-7b"],
        patterns: &[DIGIT, GPT2],
        ..PLAIN
    },
    // What llama.cpp falls back to for a file that names none.
    PreTokenizer {
        names: &["default"],
        patterns: &[r"[\p{P}\$\+<=>\^~\|`]+", GPT2, r"\p{N}+", r"[0-9][0-9][0-9]"],
        ..PLAIN
    },
];

/// The way of splitting with this name, or an error that lists the names.
pub(crate) fn named(name: &str) -> Result<PreTokenizer, String> {
    KNOWN.into_iter().find(|known| known.names.contains(&name)).ok_or_else(|| {
        let accepted: Vec<&str> = KNOWN.iter().flat_map(|known| known.names).copied().collect();
        format!("{name:.40?} is not supported; accepted are {}", accepted.join(", "))
    })
}

/// The way of splitting with these patterns and this treatment of whole words.
pub(crate) fn with_patterns(patterns: &[String], ignore_merges: bool) -> Option<PreTokenizer> {
    KNOWN.into_iter().find(|known| known.patterns == patterns && known.ignore_merges == ignore_merges)
}

impl PreTokenizer {
    /// As the `pre_tokenizer` of a `tokenizer.json`.
    pub fn json(&self) -> Value {
        let mut steps: Vec<Value> = self
            .patterns
            .iter()
            .map(|pattern| {
                json!({ "type": "Split", "pattern": { "Regex": pattern }, "behavior": "Isolated", "invert": false })
            })
            .collect();
        steps.push(byte_level());
        json!({ "type": "Sequence", "pretokenizers": steps })
    }
}

/// Bytes as characters, without splitting.
pub(crate) fn byte_level() -> Value {
    json!({ "type": "ByteLevel", "add_prefix_space": false, "trim_offsets": false, "use_regex": false })
}

/// The patterns of a `tokenizer.json`'s `pre_tokenizer`, or why it is not a byte-level one of this kind.
pub(crate) fn patterns_of(pre_tokenizer: &Value) -> Result<Vec<String>, String> {
    let steps = match pre_tokenizer["type"].as_str() {
        Some("Sequence") => pre_tokenizer["pretokenizers"].as_array().cloned().unwrap_or_default(),
        _ => vec![pre_tokenizer.clone()],
    };
    let mut patterns = Vec::new();
    let mut bytes = false;
    for step in &steps {
        match step["type"].as_str() {
            Some("Split") if step["behavior"] == "Isolated" && step["invert"] == false => {
                match step["pattern"]["Regex"].as_str() {
                    Some(pattern) => patterns.push(pattern.to_string()),
                    None => return Err(format!("a split at {}", step["pattern"])),
                }
            }
            Some("Digits") if step["individual_digits"] == true => patterns.push(DIGIT.into()),
            Some("ByteLevel") if step["add_prefix_space"] == false => {
                bytes = true;
                if step["use_regex"] != false {
                    patterns.push(GPT2.into());
                }
            }
            _ => return Err(format!("the step {step:.200}")),
        }
    }
    if bytes { Ok(patterns) } else { Err("no step that turns bytes into characters".into()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_unique_and_patterns_lead_back_to_them() {
        let mut names: Vec<&str> = KNOWN.iter().flat_map(|known| known.names).copied().collect();
        let count = names.len();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), count);
        for known in KNOWN {
            let patterns = patterns_of(&known.json()).unwrap();
            assert_eq!(with_patterns(&patterns, known.ignore_merges).unwrap().names, known.names);
        }
        assert!(named("gpt-3").unwrap_err().contains("llama-bpe"));
    }
}
