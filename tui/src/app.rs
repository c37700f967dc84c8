//! The loop: take a snapshot, draw it, wait a tenth of a second for a key.

use std::io;
use std::time::Duration;

use ratatui::crossterm::event::{self, Event, KeyCode, KeyEvent, KeyEventKind, KeyModifiers};

use crate::snapshot::Snapshot;
use crate::theme::Theme;
use crate::view::{View, draw};

const FRAME: Duration = Duration::from_millis(100);

/// Why [`run`] returned.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Leave {
    /// The snapshot said that the run is finished.
    Finished,
    /// q or Esc: the person has seen enough; the run may go on.
    Quit,
    /// Ctrl-C: the person wants the run to end. In raw mode it arrives as a key, not as a signal.
    Interrupt,
}

/// Shows snapshots until the run is finished or a key ends it; `on_quit` is called in the latter case only, with the
/// terminal already restored. It is restored on every way out, panics included.
pub fn run(mut source: impl FnMut() -> Snapshot, on_quit: impl FnOnce()) -> io::Result<Leave> {
    // try_init also installs a panic hook that restores the terminal before the message is printed.
    let mut terminal = ratatui::try_init()?;
    let restore = Restore;
    let theme = Theme::from_environment();
    let mut view = View::default();
    loop {
        let snapshot = source();
        terminal.draw(|frame| draw(frame, &snapshot, &view, theme))?;
        if snapshot.finished {
            return Ok(Leave::Finished);
        }
        if event::poll(FRAME)?
            && let Event::Key(key) = event::read()?
            && let Some(leave) = handle(key, &mut view, &snapshot)
        {
            // Only then can whatever on_quit prints be seen.
            drop(restore);
            on_quit();
            return Ok(leave);
        }
    }
}

struct Restore;

impl Drop for Restore {
    fn drop(&mut self) {
        // The panic hook has already done it; twice would move the cursor over the panic's message.
        if !std::thread::panicking() {
            ratatui::restore();
        }
    }
}

/// Applies one key; some keys end the loop. Esc first closes the help.
pub fn handle(key: KeyEvent, view: &mut View, snapshot: &Snapshot) -> Option<Leave> {
    if key.kind == KeyEventKind::Release {
        return None;
    }
    match key.code {
        KeyCode::Char('c') if key.modifiers.contains(KeyModifiers::CONTROL) => return Some(Leave::Interrupt),
        KeyCode::Esc if view.help => view.help = false,
        KeyCode::Char('q') | KeyCode::Esc => return Some(Leave::Quit),
        KeyCode::Char('?') | KeyCode::Char('h') => view.help = !view.help,
        KeyCode::Tab | KeyCode::Down | KeyCode::Right => view.step(snapshot, 1),
        KeyCode::BackTab | KeyCode::Up | KeyCode::Left => view.step(snapshot, -1),
        KeyCode::Char('f') => view.selected = None,
        _ => {}
    }
    None
}
