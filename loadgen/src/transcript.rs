//! What was said in a conversation, for clients that keep one. The text of an answer is read once its stream is over,
//! so that nothing is added to the timed path.

use serde_json::Value;

use crate::conversations::in_turns;
use crate::endpoint::Protocol;
use crate::framing::FrameReader;
use crate::sse::{Flow, text};

/// The bytes are in memory already; a single event cannot be larger than they are.
const NO_LIMIT: usize = usize::MAX;

/// Turns of a conversation so far, in order.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Transcript {
    pub turns: Vec<Turn>,
}

/// A prompt and its answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Turn {
    pub prompt: String,
    pub answer: String,
}

impl Transcript {
    /// All of it and then `prompt`, for protocols with roles.
    pub(crate) fn as_messages(&self, prompt: &str) -> Vec<String> {
        let said = self.turns.iter().flat_map(|turn| [turn.prompt.as_str(), turn.answer.as_str()]);
        in_turns(&said.chain([prompt]).collect::<Vec<_>>())
    }

    /// The same as one text, for protocols without roles.
    pub(crate) fn as_text(&self, prompt: &str) -> String {
        self.as_messages(prompt).join("\n")
    }
}

impl Protocol {
    /// The generated text in the body of a streamed answer; what is not this protocol adds nothing.
    pub fn answer_text(self, body: &[u8]) -> String {
        let mut reader = FrameReader::new(self.wire().framing, NO_LIMIT);
        let mut events = Vec::new();
        let collected = reader.visit(body, |data| {
            events.push(text(data).into_owned());
            Flow::Continue(())
        });
        if collected.is_ok() {
            reader.finish(&mut events);
        }
        let mut texts = events.iter().filter_map(|data| self.text_in(&serde_json::from_str(data).ok()?));
        match self {
            // Its events repeat what came before.
            Protocol::SgLang => texts.next_back().unwrap_or_default(),
            _ => texts.collect(),
        }
    }

    fn text_in(self, event: &Value) -> Option<String> {
        let place = match self {
            Protocol::OpenAiCompletions | Protocol::WebSocket => "/choices/0/text",
            Protocol::OpenAiChat => "/choices/0/delta/content",
            Protocol::Tgi => "/token/text",
            Protocol::OllamaGenerate => "/response",
            Protocol::OllamaChat => "/message/content",
            Protocol::LlamaCpp => "/content",
            Protocol::SgLang => "/text",
            Protocol::Triton => "/text_output",
            Protocol::Anthropic => "/delta/text",
            Protocol::KServe | Protocol::OpenAiEmbeddings | Protocol::TeiEmbed | Protocol::OllamaEmbed => {
                return None;
            }
        };
        event.pointer(place)?.as_str().map(str::to_owned)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_text_of_each_kind_of_stream() {
        let chat = "data: {\"choices\":[{\"delta\":{\"role\":\"assistant\",\"content\":\"\"}}]}\n\n\
                    data: {\"choices\":[{\"delta\":{\"content\":\"Good \"}}]}\n\n\
                    data: {\"choices\":[{\"delta\":{\"content\":\"day\"}}]}\n\ndata: [DONE]\n\n";
        assert_eq!(Protocol::OpenAiChat.answer_text(chat.as_bytes()), "Good day");
        let repeated = "data: {\"text\":\"Good\"}\n\ndata: {\"text\":\"Good day\"}\n\ndata: [DONE]\n\n";
        assert_eq!(Protocol::SgLang.answer_text(repeated.as_bytes()), "Good day");
        let lines = "{\"response\":\"Good \",\"done\":false}\n{\"response\":\"day\",\"done\":true}";
        assert_eq!(Protocol::OllamaGenerate.answer_text(lines.as_bytes()), "Good day");
        assert_eq!(Protocol::OpenAiCompletions.answer_text(b"\xff<html>"), "");
    }
}
