//! The architectures of GGUF files that have a forward pass here, and what each implies that no key says
//! (llama.cpp, `src/models/*.cpp`).

use crate::spec::Family;

/// `general.architecture`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Arch {
    /// Also Mistral and Mixtral. The only one whose query and key rows are stored in another order than Hugging Face's.
    Llama,
    Qwen2,
    Qwen2Moe,
    Qwen3,
    Qwen3Moe,
    Gemma2,
    Gemma3,
    Phi3,
}

impl Arch {
    pub const ALL: [Arch; 8] = [
        Arch::Llama,
        Arch::Qwen2,
        Arch::Qwen2Moe,
        Arch::Qwen3,
        Arch::Qwen3Moe,
        Arch::Gemma2,
        Arch::Gemma3,
        Arch::Phi3,
    ];

    pub fn name(self) -> &'static str {
        match self {
            Arch::Llama => "llama",
            Arch::Qwen2 => "qwen2",
            Arch::Qwen2Moe => "qwen2moe",
            Arch::Qwen3 => "qwen3",
            Arch::Qwen3Moe => "qwen3moe",
            Arch::Gemma2 => "gemma2",
            Arch::Gemma3 => "gemma3",
            Arch::Phi3 => "phi3",
        }
    }

    pub fn of(family: Family) -> Arch {
        match family {
            Family::Llama | Family::Mistral | Family::Mixtral => Arch::Llama,
            Family::Qwen2 => Arch::Qwen2,
            Family::Qwen2Moe => Arch::Qwen2Moe,
            Family::Qwen3 => Arch::Qwen3,
            Family::Qwen3Moe => Arch::Qwen3Moe,
            Family::Gemma2 => Arch::Gemma2,
            Family::Gemma3 => Arch::Gemma3,
            Family::Phi3 => Arch::Phi3,
        }
    }

    pub fn is_gemma(self) -> bool {
        matches!(self, Arch::Gemma2 | Arch::Gemma3)
    }

    /// Whether query and key rows are stored in pairs `(i, i + head_dim / 2)`, as rotary embedding over neighbours needs.
    pub fn permutes_query_and_key(self) -> bool {
        self == Arch::Llama
    }

    /// Whether query and key heads have norms.
    pub fn qk_norm(self) -> bool {
        matches!(self, Arch::Qwen3 | Arch::Qwen3Moe | Arch::Gemma3)
    }

    /// The window of a file that names none.
    pub fn default_window(self) -> Option<u32> {
        (self == Arch::Gemma2).then_some(4096)
    }

    /// Whether a layer has the window where the file gives no pattern: every second layer of Gemma 2 and every sixth of
    /// Gemma 3 sees everything, in the others all layers are alike.
    pub fn default_pattern(self, layer: u32) -> bool {
        match self {
            Arch::Gemma2 => layer % 2 < 1,
            Arch::Gemma3 => layer % 6 < 5,
            _ => true,
        }
    }

    /// The factor on scores where the file names none. The 27B models of both Gemmas, which llama.cpp knows by their layers,
    /// divide by the root of hidden / heads; all others by that of the head's width.
    pub fn default_attention_scale(self, layers: u32, hidden: u32, heads: u32, head_dim: u32) -> f32 {
        let is_27b = matches!((self, layers), (Arch::Gemma2, 46) | (Arch::Gemma3, 62));
        let width = if is_27b { hidden / heads } else { head_dim };
        1.0 / (width as f32).sqrt()
    }

    /// Caps of attention scores and of logits where the file names none.
    pub fn default_softcaps(self) -> (Option<f32>, Option<f32>) {
        match self {
            Arch::Gemma2 => (Some(50.0), Some(30.0)),
            _ => (None, None),
        }
    }

    /// Whether the probabilities of the chosen experts are divided by their sum, where the file does not say.
    pub fn default_normalize_top_k(self) -> bool {
        self != Arch::Qwen2Moe
    }
}
