//! How far a search or a replay is, on standard error.

use std::io::{IsTerminal, Write};
use std::sync::Mutex;
use std::time::{Duration, Instant};

/// A line that is written over on a terminal, and now and then a line elsewhere.
pub struct Progress {
    what: &'static str,
    started: Instant,
    told: Mutex<Instant>,
    terminal: bool,
}

impl Progress {
    #[expect(clippy::disallowed_methods, reason = "a person waits")]
    pub fn new(what: &'static str) -> Progress {
        let now = Instant::now();
        Progress { what, started: now, told: Mutex::new(now), terminal: std::io::stderr().is_terminal() }
    }

    #[expect(clippy::disallowed_methods, reason = "a person waits")]
    pub fn tell(&self, done: usize, of: usize) {
        let pause = if self.terminal { Duration::from_millis(200) } else { Duration::from_secs(10) };
        let now = Instant::now();
        let Ok(mut told) = self.told.try_lock() else { return };
        if now.duration_since(*told) < pause {
            return;
        }
        *told = now;
        let left = now.duration_since(self.started).as_secs_f64() / done as f64 * (of - done) as f64;
        let end = if self.terminal { "\x1b[K\r" } else { "\n" };
        eprint!("{done} of {of} {}, about {left:.0} s left{end}", self.what);
        let _ = std::io::stderr().flush();
    }

    pub fn end(&self) {
        if self.terminal {
            eprint!("\x1b[K");
        }
    }
}
