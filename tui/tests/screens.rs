//! Whole screens drawn into memory. Snapshots show the look; the loops below check every size and odd input.

use llmlab_tui::app::handle;
use llmlab_tui::snapshot::{Percentiles, Snapshot, TargetState};
use llmlab_tui::view::{View, draw};
use llmlab_tui::{Leave, Theme, plain};
use ratatui::Terminal;
use ratatui::backend::TestBackend;
use ratatui::crossterm::event::{KeyCode, KeyEvent, KeyModifiers};
use ratatui::style::Color;

fn target(name: &str, phase: &str) -> TargetState {
    TargetState {
        name: name.into(),
        description: "engine, policy vllm, bf16 weights, 1 thread".into(),
        phase: phase.into(),
        requests_total: 300,
        requests_done: 120,
        requests_failed: 0,
        in_flight: 12,
        ttft: Percentiles { p50_ms: 45.2, p90_ms: 120.0, p99_ms: 210.0, count: 120 },
        tpot: Percentiles { p50_ms: 8.1, p90_ms: 20.0, p99_ms: 40.3, count: 119 },
        output_tokens_per_s: 3204.0,
        queue: Some(0.0),
        batch: Some(12.0),
        kv_usage: Some(0.41),
        preemptions: Some(0.0),
        throughput_history: (0..60).map(|i| 3000.0 * (1.0 - (-f64::from(i) / 12.0).exp())).collect(),
        batch_history: (0..60).map(|i| f64::from(i % 16)).collect(),
        kv_history: (0..60).map(|i| f64::from(i) / 100.0).collect(),
    }
}

fn running() -> Snapshot {
    Snapshot {
        run_name: "vllm-vs-tgi".into(),
        activity: "vllm: measuring, repeat 2 of 3".into(),
        elapsed_s: 41.3,
        eta_s: Some(25.0),
        progress: 0.62,
        targets: vec![
            target("vllm", "running"),
            TargetState { name: "tgi".into(), phase: "waiting".into(), ..TargetState::default() },
        ],
        current: 0,
        log: (1..=20).map(|i| format!("log line {i}")).collect(),
        finished: false,
    }
}

fn terminal(width: u16, height: u16, snapshot: &Snapshot, view: &View, color: bool) -> Terminal<TestBackend> {
    let mut terminal = Terminal::new(TestBackend::new(width, height)).unwrap();
    terminal.draw(|frame| draw(frame, snapshot, view, Theme { color })).unwrap();
    terminal
}

fn screen(width: u16, height: u16, snapshot: &Snapshot, view: &View) -> String {
    terminal(width, height, snapshot, view, false).backend().to_string()
}

#[test]
fn at_80_by_24() {
    insta::assert_snapshot!(screen(80, 24, &running(), &View::default()));
}

#[test]
fn at_120_by_40() {
    insta::assert_snapshot!(screen(120, 40, &running(), &View::default()));
}

#[test]
fn at_50_by_14() {
    insta::assert_snapshot!(screen(50, 14, &running(), &View::default()));
}

#[test]
fn with_help() {
    insta::assert_snapshot!(screen(80, 24, &running(), &View { help: true, selected: None }));
}

#[test]
fn with_failures_and_the_second_target_selected() {
    let mut snapshot = running();
    snapshot.targets[0].requests_failed = 7;
    snapshot.targets[1] = TargetState { phase: "failed".into(), ..target("tgi", "failed") };
    insta::assert_snapshot!(screen(80, 24, &snapshot, &View { help: false, selected: Some(1) }));
}

#[test]
fn every_size_and_an_empty_snapshot_are_drawn_without_a_panic() {
    for width in [0, 1, 3, 19, 41, 80, 130] {
        for height in (0..12).chain([14, 24, 45]) {
            for snapshot in [&running(), &Snapshot::default()] {
                for help in [false, true] {
                    terminal(width, height, snapshot, &View { help, selected: Some(9) }, true);
                }
            }
        }
    }
}

#[test]
fn the_selected_target_is_visible_however_many_there_are() {
    let mut snapshot = running();
    snapshot.targets = (0..30).map(|i| target(&format!("t{i:02}"), "running")).collect();
    for selected in [0, 15, 29] {
        let screen = screen(80, 24, &snapshot, &View { help: false, selected: Some(selected) });
        assert!(screen.contains(&format!("> t{selected:02}")), "{screen}");
    }
}

#[test]
fn hostile_names_and_numbers_reach_the_screen_harmless() {
    let mut snapshot = running();
    snapshot.run_name = "x\x1b]0;title\x07".into();
    snapshot.activity = "y\r\n\x1b[2J".into();
    snapshot.log = vec!["z\u{9b}31m\u{202e}".into()];
    snapshot.targets[0].name = "a\tb\x1b[0m".into();
    snapshot.targets[0].ttft.p99_ms = f64::NAN;
    snapshot.targets[0].throughput_history = vec![f64::NAN, f64::INFINITY, -1.0];
    snapshot.progress = f64::NAN;
    snapshot.eta_s = Some(f64::INFINITY);
    let harmless = |text: &str| text.chars().all(|c| c == '\n' || !(c.is_control() || c == '\u{202e}'));
    assert!(harmless(&screen(80, 24, &snapshot, &View::default())));
    let line = plain::line(&snapshot);
    assert!(harmless(&line) && !line.contains('\n'), "{line:?}");
}

#[test]
fn without_colour_no_cell_has_one() {
    let colours = |color: bool| {
        let terminal = terminal(80, 24, &running(), &View::default(), color);
        let cells = terminal.backend().buffer().content().iter();
        cells.filter(|c| c.fg != Color::Reset || c.bg != Color::Reset).count()
    };
    assert_eq!(colours(false), 0);
    assert!(colours(true) > 0);
}

#[test]
fn keys_choose_targets_and_leave() {
    let snapshot = running();
    let mut view = View::default();
    let press = |view: &mut View, code| handle(KeyEvent::new(code, KeyModifiers::NONE), view, &snapshot);
    press(&mut view, KeyCode::Tab);
    assert_eq!(view.selected, Some(1));
    press(&mut view, KeyCode::Down);
    assert_eq!(view.selected, Some(0), "wraps around");
    press(&mut view, KeyCode::Up);
    assert_eq!(view.selected, Some(1));
    press(&mut view, KeyCode::Char('f'));
    assert_eq!(view.selected, None);

    press(&mut view, KeyCode::Char('?'));
    assert!(view.help);
    assert_eq!(press(&mut view, KeyCode::Esc), None, "Esc closes the help first");
    assert!(!view.help);
    assert_eq!(press(&mut view, KeyCode::Esc), Some(Leave::Quit));
    assert_eq!(press(&mut view, KeyCode::Char('q')), Some(Leave::Quit));
    assert_eq!(press(&mut view, KeyCode::Char('c')), None, "c alone is no command");
    let interrupt = KeyEvent::new(KeyCode::Char('c'), KeyModifiers::CONTROL);
    assert_eq!(handle(interrupt, &mut view, &snapshot), Some(Leave::Interrupt));
}

#[test]
fn the_plain_line_says_the_same_in_words() {
    insta::assert_snapshot!(plain::line(&running()), @"[ 62%] vllm: measuring, repeat 2 of 3 | 120/300 done, 0 failed, 12 in flight | TTFT 45/210 ms | TPOT 8.1/40 ms | 3204 tok/s | 0:25 left");
    let finished =
        Snapshot { finished: true, progress: 1.0, activity: "done".into(), targets: vec![], ..running() };
    insta::assert_snapshot!(plain::line(&finished), @"[100%] done | finished in 0:41");
}
