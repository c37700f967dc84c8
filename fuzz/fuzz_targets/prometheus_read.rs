//! Bytes as a page of metrics: whatever a sample was read as, writing that down and reading it again gives the same, and what
//! reports take from the page is finite and in order.

#![no_main]

use libfuzzer_sys::fuzz_target;
use llmlab_loadgen::prometheus::{Sample, samples, server_sample};

fuzz_target!(|page: &[u8]| {
    let text = String::from_utf8_lossy(page);
    for sample in samples(&text) {
        let written = write(&sample);
        let mut again = samples(&written);
        let read = again.next().expect("a line that was a sample is one again");
        assert_eq!((read.name, read.value.to_bits()), (sample.name, sample.value.to_bits()), "{written}");
        assert!(read.pairs().eq(sample.pairs()), "{written}");
        assert!(again.next().is_none(), "{written}");
    }
    let told = server_sample(1, 1, page);
    for value in
        [told.running, told.waiting, told.kv_usage, told.preemptions_total, told.generation_tokens_total]
    {
        assert!(value.is_none_or(f64::is_finite), "{told:?}");
    }
    for histogram in [told.ttft, told.itl, told.queue].into_iter().flatten() {
        assert_eq!(histogram.bounds.len(), histogram.cumulative.len());
        assert!(histogram.bounds.is_sorted_by(|a, b| a < b), "{histogram:?}");
    }
});

fn write(sample: &Sample<'_>) -> String {
    let escaped = |value: &str| value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n");
    let pairs: Vec<String> =
        sample.pairs().map(|(name, value)| format!("{name}=\"{}\"", escaped(&value))).collect();
    format!("{}{{{}}} {:?}", sample.name, pairs.join(","), sample.value)
}
