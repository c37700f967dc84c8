//! Progress for people without the live view: one line every few seconds, on standard error.

use std::io::IsTerminal;
use std::time::Duration;

use crate::live::Live;

/// Prints until the run has finished. On a terminal the line is rewritten in place; in a log file it is not.
pub fn follow(live: &Live) {
    let terminal = std::io::stderr().is_terminal();
    let every = if terminal { Duration::from_millis(250) } else { Duration::from_secs(5) };
    let tick = Duration::from_millis(50);
    let mut since = every;
    let mut last_activity = String::new();
    loop {
        let snapshot = live.snapshot();
        if snapshot.finished {
            if terminal {
                eprint!("\r\x1b[K");
            }
            return;
        }
        if since >= every || snapshot.activity != last_activity {
            since = Duration::ZERO;
            let line = llmlab_tui::plain::line(&snapshot);
            if terminal {
                eprint!("\r\x1b[K{line}");
            } else if !snapshot.activity.is_empty() {
                eprintln!("{line}");
            }
            last_activity = snapshot.activity;
        }
        std::thread::sleep(tick);
        since += tick;
    }
}
