//! Lines as the events of a stream of the OpenAI protocols. Where the quick reading says anything, it says what the full one
//! says.

#![no_main]

use libfuzzer_sys::fuzz_target;
use llmlab_loadgen::Protocol;

fuzz_target!(|text: &str| {
    let events: Vec<&str> = text.split('\n').collect();
    for protocol in [Protocol::OpenAiCompletions, Protocol::OpenAiChat] {
        assert!(!protocol.scans_as_it_parses(&events).contains(&Some(false)), "{}", protocol.name());
    }
});
