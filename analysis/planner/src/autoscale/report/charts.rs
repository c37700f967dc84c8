//! A chart for each policy: what the load takes, what was wanted, and what was ready.

use llmlab_metrics::report::kit::{Axis, Unit, lines};

use super::super::answer::{Autoscaling, Replayed};
use crate::plan::report::Chart;

const SIZE: (u32, u32) = (580, 260);
const HOURS: f64 = 24.0;

pub fn charts(answer: &Autoscaling) -> Vec<Chart> {
    answer.policies.iter().map(|policy| chart(answer, policy)).collect()
}

fn chart(answer: &Autoscaling, policy: &Replayed) -> Chart {
    let width = HOURS / answer.load_rps.len().max(1) as f64;
    let need = |(place, rps): (usize, &f64)| ((place as f64 + 0.5) * width, rps / answer.replica_rps);
    let load: Vec<(f64, f64)> = answer.load_rps.iter().enumerate().map(need).collect();
    let series = vec![(6, load), (1, stairs(&policy.score.wanted)), (0, stairs(&policy.score.ready))];
    let top = series.iter().flat_map(|(_, points)| points).map(|(_, y)| *y).fold(1.0, f64::max);
    let x = Axis::from_zero("hour of the day", HOURS, Unit::Number);
    let y = Axis::from_zero("replicas", top, Unit::Number);
    Chart {
        title: format!("{}: {}", policy.name, policy.rule),
        key: vec![("what the load takes".into(), 6), ("wanted".into(), 1), ("ready".into(), 0)],
        svg: lines(SIZE, &x, &y, &series),
    }
}

/// Corners of steps, to the end of the day.
fn stairs(steps: &[(f64, u32)]) -> Vec<(f64, f64)> {
    let mut points = Vec::with_capacity(2 * steps.len() + 1);
    let mut before = None;
    for (hour, replicas) in steps.iter().filter(|(hour, _)| *hour <= HOURS) {
        points.extend(before.map(|before| (*hour, before)));
        points.push((*hour, f64::from(*replicas)));
        before = Some(f64::from(*replicas));
    }
    points.extend(before.map(|before| (HOURS, before)));
    points
}
