//! The picture of the batch: well-formed, bounded however long the log, the same for the same log.

mod common;

use common::{START_NS, example, manifest, record, trial};
use llmlab_metrics::{Trial, analyse, compositions, html};
use llmlab_results::step::{StepRow, StepSeq};

/// Every open tag is closed in order, attributes are quoted and given once, text holds no bare markup.
fn check_xml(text: &str) {
    let mut open: Vec<&str> = Vec::new();
    let mut rest = text;
    while let Some(at) = rest.find('<') {
        assert!(!rest[..at].contains('>'), "a bare > in {:?}", &rest[..at]);
        let end = at + rest[at..].find('>').expect("a tag ends");
        let tag = &rest[at + 1..end];
        rest = &rest[end + 1..];
        if let Some(name) = tag.strip_prefix('/') {
            assert_eq!(open.pop(), Some(name), "closed in order");
            continue;
        }
        let inner = tag.trim_end_matches('/');
        let name = inner.split_whitespace().next().unwrap();
        let quotes: Vec<&str> = inner.split('"').collect();
        assert!(quotes.len() % 2 == 1, "unbalanced quotes in <{tag}>");
        let mut names: Vec<&str> =
            quotes.iter().step_by(2).filter_map(|part| part.trim().strip_suffix('=')).collect();
        let count = names.len();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), count, "an attribute twice in <{tag}>");
        if !tag.ends_with('/') {
            open.push(name);
        }
    }
    assert!(open.is_empty(), "left open: {open:?}");
}

fn pictures(trials: &[Trial], names: &[&str]) -> Vec<(String, String)> {
    compositions(&analyse(&manifest(names), trials), trials)
}

/// The worst a log can do: more sequences than can be drawn, each doing something else at every step.
fn restless(steps: u64, sequences: u64) -> Trial {
    let mut t = trial("restless", 1, vec![record(0, 0, &[100, 120])]);
    t.steps = (0..steps)
        .map(|step| StepRow {
            step,
            start_monotonic_ns: START_NS + step * 10_000_000,
            elapsed_ns: 9_000_000,
            seqs: (0..sequences)
                .map(|id| StepSeq {
                    id: id + step / 3 * sequences,
                    new_tokens: 2 + (step + id) as u32 % 3,
                    context: step as u32 % 3 * 5,
                    padding: id as u32 % 2,
                    drafts: (step + id) as u32 % 2,
                })
                .collect(),
            running: sequences as u32,
            waiting: (step % 50) as u32,
            free_blocks: (step % 1000) as u32,
            total_blocks: 1000,
            block_size: 16,
            preempted: (0..sequences / 4).map(|id| id + step.saturating_sub(1) / 3 * sequences).collect(),
            ..StepRow::default()
        })
        .collect();
    t
}

#[test]
fn a_picture_for_each_target_in_file_and_page() {
    let (m, trials) = example(1);
    let analysis = analyse(&m, &trials);
    let files = compositions(&analysis, &trials);
    let names: Vec<&str> = files.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(names, ["composition-vllm.svg", "composition-tgi.svg"]);
    for (name, svg) in &files {
        check_xml(svg);
        assert!(svg.starts_with("<svg xmlns="), "{name}");
        for part in [
            "the batch in steps",
            "Read it from left to right",
            "decode",
            "waiting",
            "free blocks",
            "milliseconds",
        ] {
            assert!(svg.contains(part), "{part} is missing in {name}");
        }
        assert!(svg.len() < 500_000, "{name}: {} bytes", svg.len());
    }
    assert_eq!(files, compositions(&analysis, &trials), "the same log, the same picture");
    assert!(html(&analysis, &m, &trials).contains("Batch composition"));
}

#[test]
fn size_does_not_grow_with_the_log() {
    for (steps, sequences) in [(3, 2), (100, 64), (400, 500), (5_000, 20)] {
        let files = pictures(&[restless(steps, sequences)], &["restless"]);
        let [(_, svg)] = files.as_slice() else { panic!("{} pictures", files.len()) };
        check_xml(svg);
        assert!(svg.len() < 500_000, "{steps} steps of {sequences}: {} bytes", svg.len());
        for class in ["prefill-fill", "drafts-fill", "padding-fill"] {
            assert!(svg.contains(class), "{class} is missing");
        }
    }
    let many = &pictures(&[restless(100, 100)], &["restless"])[0].1;
    assert!(many.contains("more places are not drawn") && many.contains("preempted"));
}

#[test]
fn odd_logs_make_no_picture_or_a_plain_one() {
    let mut none = restless(0, 1);
    assert!(pictures(&[none.clone()], &["restless"]).is_empty());
    // A step without sequences, and one whose clock and counts are at their ends.
    none.steps = vec![
        StepRow { step: u64::MAX, start_monotonic_ns: u64::MAX, elapsed_ns: u64::MAX, ..StepRow::default() },
        StepRow {
            preempted: vec![7],
            seqs: vec![StepSeq {
                id: 7,
                new_tokens: u32::MAX,
                context: u32::MAX,
                padding: u32::MAX,
                drafts: u32::MAX,
            }],
            free_blocks: u32::MAX,
            ..StepRow::default()
        },
    ];
    for (_, svg) in pictures(&[none], &["restless"]) {
        check_xml(&svg);
        assert!(!svg.contains("NaN") && !svg.contains("inf"));
    }
}

#[test]
fn a_name_is_only_text() {
    let hostile = "../<script>\u{1b}&\"";
    let mut t = restless(10, 3);
    t.facts.target = hostile.into();
    let files = pictures(&[t], &[hostile]);
    let [(name, svg)] = files.as_slice() else { panic!() };
    assert_eq!(name, "composition-..--script----.svg");
    check_xml(svg);
    assert!(!svg.contains("<script>") && !svg.contains('\u{1b}'));
}
