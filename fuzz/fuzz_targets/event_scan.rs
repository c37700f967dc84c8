//! Text as an event of the OpenAI protocols. Where the quick reading says anything, it says what the full one says.

#![no_main]

use libfuzzer_sys::fuzz_target;
use llmlab_loadgen::Protocol;

fuzz_target!(|text: &str| {
    for protocol in [Protocol::OpenAiCompletions, Protocol::OpenAiChat] {
        assert_ne!(protocol.scans_as_it_parses(text), Some(false), "{}", protocol.name());
    }
});
