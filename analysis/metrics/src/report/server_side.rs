//! What the servers and the machines under them said of themselves, as table rows: one per figure that any target has.

use crate::analysis::{Analysis, TrialAnalysis};
use crate::machine::{GpuView, MachineView};
use crate::quantile::median;
use crate::report::format::{duration, percent, si, significant};
use crate::report::view::{Cell, Row};
use crate::server_view::{OwnLatency, ServerView};

type Pick = Box<dyn Fn(&TrialAnalysis) -> Option<f64>>;

struct Figure {
    label: String,
    group_start: bool,
    pick: Pick,
    print: fn(f64) -> String,
}

pub fn rows(a: &Analysis) -> Vec<Row> {
    let mut figures = of_the_server();
    figures.extend(of_the_machine());
    let names = gpus(a);
    figures.extend(names.iter().flat_map(|(index, name)| of_a_gpu(*index, name)));
    let mut rows: Vec<Row> = figures.iter().filter_map(|figure| row(a, figure)).collect();
    rows.extend(names.iter().filter_map(|(index, name)| throttle_row(a, *index, name)));
    rows
}

fn of_the_server() -> Vec<Figure> {
    let own = |label: &str,
               group_start,
               of: fn(&ServerView) -> Option<OwnLatency>,
               p: fn(&OwnLatency) -> Option<f64>| {
        let pick: Pick = Box::new(move |t| p(&of(t.server.as_ref()?)?));
        Figure { label: label.into(), group_start, pick, print: duration }
    };
    let hits: Pick = Box::new(|t| t.server.as_ref()?.prefix_hit_share);
    let scrape: Pick = Box::new(|t| Some(t.server.as_ref()?.scrape_max_ns? as f64));
    vec![
        Figure { label: "prefix cache hits".into(), group_start: false, pick: hits, print: share },
        own("TTFT p50, by the server", true, |s| s.ttft, |l| l.p50_ns),
        own("TTFT p95, by the server", false, |s| s.ttft, |l| l.p95_ns),
        own("ITL p50, by the server", false, |s| s.itl, |l| l.p50_ns),
        own("ITL p95, by the server", false, |s| s.itl, |l| l.p95_ns),
        own("queue p50, by the server", false, |s| s.queue, |l| l.p50_ns),
        own("queue p95, by the server", false, |s| s.queue, |l| l.p95_ns),
        Figure { label: "longest scrape".into(), group_start: false, pick: scrape, print: duration },
    ]
}

fn of_the_machine() -> Vec<Figure> {
    let figure = |label: &str, group_start, of: fn(&MachineView) -> Option<f64>, print| {
        let pick: Pick = Box::new(move |t| of(t.machine.as_ref()?));
        Figure { label: label.into(), group_start, pick, print }
    };
    vec![
        figure("server CPU, cores", true, |m| m.server_cores, significant),
        figure("server memory, most", false, |m| m.server_rss_max_bytes.map(|b| b as f64), bytes),
        figure("host CPU busy", false, |m| m.host_busy_share, share),
        figure("host CPU stolen", false, |m| m.host_steal_share, share),
        figure("CPU and memory power", false, |m| m.cpu_power_w, watts),
        figure("GPU power, all", false, |m| m.gpu_power_w, watts),
        figure("energy per output token", false, |m| m.joules_per_output_token, joules),
    ]
}

fn of_a_gpu(index: u32, name: &str) -> Vec<Figure> {
    let figure = |what: &str, group_start, of: fn(&GpuView) -> Option<f64>, print| {
        let pick: Pick =
            Box::new(move |t| of(t.machine.as_ref()?.gpus.iter().find(|gpu| gpu.index == index)?));
        Figure { label: format!("GPU {index} ({name}): {what}"), group_start, pick, print }
    };
    vec![
        figure("utilization", true, |g| g.utilization_mean, share),
        figure("power", false, |g| g.power_w, watts),
        figure("memory, most", false, |g| g.memory_max_bytes.map(|b| b as f64), bytes),
        figure("SM clock", false, |g| g.sm_clock_mean_mhz, megahertz),
        figure("memory clock", false, |g| g.memory_clock_mean_mhz, megahertz),
        figure("hottest", false, |g| g.temperature_max_c.map(f64::from), celsius),
    ]
}

/// Index and name of every GPU that any trial saw.
fn gpus(a: &Analysis) -> Vec<(u32, String)> {
    let mut found: Vec<(u32, String)> = Vec::new();
    for gpu in a.trials.iter().filter_map(|t| t.machine.as_ref()).flat_map(|m| &m.gpus) {
        if !found.iter().any(|(index, _)| *index == gpu.index) {
            found.push((gpu.index, gpu.name.clone()));
        }
    }
    found
}

/// Median over the target's trials, with their range; `None` when no target has the figure.
fn row(a: &Analysis, figure: &Figure) -> Option<Row> {
    let mut any = false;
    let cells = a
        .targets
        .iter()
        .map(|target| {
            let own = a.trials.iter().filter(|t| t.target == target.name);
            let mut values: Vec<f64> =
                own.filter_map(|t| (figure.pick)(t)).filter(|v| v.is_finite()).collect();
            crate::quantile::sort(&mut values);
            let (Some(middle), Some(low), Some(high)) = (median(&values), values.first(), values.last())
            else {
                return Cell { value: "–".into(), tone: "even", ..Cell::default() };
            };
            any = true;
            let range = match high > low {
                true => format!("[{}, {}]", (figure.print)(*low), (figure.print)(*high)),
                false => String::new(),
            };
            Cell { value: (figure.print)(middle), range, delta: String::new(), tone: "even" }
        })
        .collect();
    any.then(|| Row { label: figure.label.clone(), group_start: figure.group_start, brief: false, cells })
}

/// What held the clocks down, in the trial where it did most.
fn throttle_row(a: &Analysis, index: u32, name: &str) -> Option<Row> {
    let worst = |target: &str| {
        let views = a.trials.iter().filter(|t| t.target == target).filter_map(|t| t.machine.as_ref());
        let own = views.flat_map(|m| &m.gpus).filter(|gpu| gpu.index == index && !gpu.throttled.is_empty());
        own.max_by(|a, b| a.throttled[0].1.total_cmp(&b.throttled[0].1))
    };
    let cells: Vec<Cell> = a
        .targets
        .iter()
        .map(|target| {
            let reasons = worst(&target.name).map(|gpu| {
                let words =
                    gpu.throttled.iter().map(|(reason, part)| format!("{reason} {} %", percent(*part)));
                words.collect::<Vec<_>>().join(", ")
            });
            Cell { value: reasons.unwrap_or_else(|| "–".into()), tone: "even", ..Cell::default() }
        })
        .collect();
    let any = cells.iter().any(|cell| cell.value != "–");
    any.then(|| Row {
        label: format!("GPU {index} ({name}): held down by"),
        group_start: false,
        brief: false,
        cells,
    })
}

fn share(v: f64) -> String {
    format!("{} %", percent(v))
}

fn bytes(v: f64) -> String {
    format!("{}B", si(v))
}

fn watts(v: f64) -> String {
    format!("{} W", significant(v))
}

fn joules(v: f64) -> String {
    format!("{} J", significant(v))
}

fn megahertz(v: f64) -> String {
    format!("{v:.0} MHz")
}

fn celsius(v: f64) -> String {
    format!("{v:.0} °C")
}
