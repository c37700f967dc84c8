//! Throughput, batch size and KV use of the selected target over its trial, side by side.

use ratatui::Frame;
use ratatui::layout::{Constraint, Layout, Rect};
use ratatui::widgets::Sparkline;

use super::frame_with_title;
use crate::snapshot::TargetState;
use crate::text::{percent, short};
use crate::theme::Theme;

const NARROWEST: u16 = 20;
/// Sparklines draw whole numbers; this keeps three digits of a share.
const RESOLUTION: f64 = 1000.0;

pub fn draw(frame: &mut Frame, area: Rect, target: &TargetState, theme: Theme) {
    if area.height < 3 {
        return;
    }
    let charts = [
        Chart { title: "tok/s", history: &target.throughput_history, ceiling: None, format: short },
        Chart { title: "batch", history: &target.batch_history, ceiling: None, format: short },
        Chart { title: "KV use", history: &target.kv_history, ceiling: Some(1.0), format: percent },
    ];
    let shown = usize::from(area.width / NARROWEST).clamp(1, charts.len());
    let areas = Layout::horizontal(vec![Constraint::Fill(1); shown]).split(area);
    for (chart, area) in charts.iter().zip(areas.iter()) {
        chart.draw(frame, *area, theme);
    }
}

struct Chart<'a> {
    title: &'a str,
    history: &'a [f64],
    /// Value of a full bar; `None` is the largest seen.
    ceiling: Option<f64>,
    format: fn(f64) -> String,
}

impl Chart<'_> {
    fn draw(&self, frame: &mut Frame, area: Rect, theme: Theme) {
        let Chart { title, history, ceiling, format } = self;
        let largest = history.iter().copied().filter(|v| v.is_finite()).fold(0.0, f64::max);
        let title = match history.last() {
            Some(now) => format!("{title} {}, max {}", format(*now), format(largest)),
            None => format!("{title} -"),
        };
        let block = frame_with_title(title, theme);
        let ceiling = ceiling.unwrap_or(largest).max(f64::MIN_POSITIVE);
        let bars = squeeze(history, block.inner(area).width.into());
        let bars = bars.into_iter().map(|v| v.map(|v| (v / ceiling * RESOLUTION).round() as u64));
        let sparkline =
            Sparkline::default().data(bars).max(RESOLUTION as u64).style(theme.chart()).block(block);
        frame.render_widget(sparkline, area);
    }
}

/// The whole history in at most `width` bars, each the mean of its share; `None` where nothing was measured.
fn squeeze(history: &[f64], width: usize) -> Vec<Option<f64>> {
    let bars = history.len().min(width);
    let share = |bar: usize| bar * history.len() / bars;
    (0..bars)
        .map(|bar| {
            let values: Vec<f64> =
                history[share(bar)..share(bar + 1)].iter().copied().filter(|v| *v >= 0.0).collect();
            let mean = values.iter().sum::<f64>() / values.len() as f64;
            mean.is_finite().then_some(mean)
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::squeeze;

    #[test]
    fn a_history_is_squeezed_by_means_and_never_stretched() {
        assert_eq!(squeeze(&[1.0, 3.0, 5.0, 7.0], 2), [Some(2.0), Some(6.0)]);
        assert_eq!(squeeze(&[1.0, f64::NAN], 5), [Some(1.0), None]);
        assert_eq!(squeeze(&[], 5), []);
        assert_eq!(squeeze(&[1.0], 0), []);
        let long: Vec<f64> = (0..240).map(f64::from).collect();
        let bars = squeeze(&long, 77);
        let total: f64 = bars.iter().flatten().sum();
        assert_eq!(bars.len(), 77);
        assert!((total / 77.0 - 119.5).abs() < 1.0, "{total}");
    }
}
