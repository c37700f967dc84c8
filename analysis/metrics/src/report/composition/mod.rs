//! The batch step by step: which request held which place, and what was computed for it. A picture of a scheduling policy at work.
//!
//! Reading order: [`lanes`] (who holds which place from when to when), [`pieces`] (what is seen of them in a window of steps),
//! [`draw`] (the picture).

pub mod draw;
pub mod lanes;
pub mod pieces;

use crate::Trial;
use crate::analysis::Analysis;
use crate::report::format::plain;
use crate::report::series::trials_of;
use crate::report::svg::standalone;
use draw::draw;
use pieces::Composition;

/// The batch of one target. `svg` holds the target's name as escaped text.
#[derive(Debug, Clone, PartialEq)]
pub struct Picture {
    pub target: String,
    pub svg: String,
}

/// For each target with a step log, from its first usable repeat.
pub fn pictures(analysis: &Analysis, trials: &[Trial]) -> Vec<Picture> {
    analysis
        .targets
        .iter()
        .filter_map(|target| {
            let trial = *trials_of(trials, &target.name).first()?;
            let composition = Composition::of(&trial.steps)?;
            Some(Picture { target: target.name.clone(), svg: draw(&plain(&target.name), &composition) })
        })
        .collect()
}

/// Each picture as a file: (name with extension, SVG).
pub fn compositions(analysis: &Analysis, trials: &[Trial]) -> Vec<(String, String)> {
    let mut files: Vec<(String, String)> = Vec::new();
    for picture in pictures(analysis, trials) {
        let stem = format!("composition-{}", harmless(&picture.target));
        let taken = files.iter().filter(|(name, _)| name.starts_with(&stem)).count();
        let name = if taken == 0 { format!("{stem}.svg") } else { format!("{stem}-{}.svg", taken + 1) };
        files.push((name, standalone(&picture.svg)));
    }
    files
}

/// Scenarios allow only harmless names; a stored run may say anything.
fn harmless(name: &str) -> String {
    let kept = name.chars().take(60);
    kept.map(|c| if c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-') { c } else { '-' }).collect()
}
