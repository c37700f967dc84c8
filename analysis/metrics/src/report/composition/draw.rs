//! The picture: places of the batch over time, and below them the queue and the free memory.

use plotters::coord::Shift;
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};

use super::pieces::{Composition, Work};
use crate::report::svg::{
    AGAIN, Axis, DECODE, DRAFTS, Drawn, FAILED, GAUGE, GRID, HELD, INK, PADDING, PAPER, PREFILL, Pixels,
    TEXT, Unit, restyle,
};

const WIDTH_PX: u32 = 1140;
const HEAD_PX: u32 = 86;
const STRIP_PX: u32 = 62;
const TIME_AXIS_PX: u32 = 40;
const LEFT_PX: u32 = 72;
const RIGHT_PX: u32 = 16;
/// Narrower steps are not told apart by lines.
const NARROW_PX: f64 = 5.0;
const DIGIT_PX: f64 = 5.8;
const HOW_TO_READ: &str = "Read it from left to right. A column is one step of the engine, as wide as it took. A row is a place in the batch: \
                           one request holds it from its admission to its end. Below: requests waiting, and free KV blocks.";

type Area<'a> = DrawingArea<SVGBackend<'a>, Shift>;
type Plot<'a> = Result<Pixels, DrawingAreaErrorKind<<SVGBackend<'a> as DrawingBackend>::ErrorType>>;

/// `name` must be free of control characters; it is escaped.
pub fn draw(name: &str, composition: &Composition) -> String {
    let lanes_px = (composition.places.max(4) as u32 * lane_px(composition.places)) + 12;
    let size = (WIDTH_PX, HEAD_PX + lanes_px + 2 * STRIP_PX + TIME_AXIS_PX);
    let x = time_axis(composition.length_ms);
    let y = places_axis(composition.places);
    let mut text = String::new();
    let pixels =
        paint(&mut text, size, name, composition, &x, &y).expect("writing SVG into a string does not fail");
    restyle(&text, size, &x, &y, pixels)
}

fn lane_px(places: usize) -> u32 {
    (460 / places.max(1) as u32).clamp(8, 15)
}

/// To the end of the last step; ticks at round times.
fn time_axis(length_ms: f64) -> Axis {
    let mut axis = Axis::from_zero("", length_ms, Unit::Number);
    axis.high = length_ms.max(1e-6);
    axis.ticks.retain(|tick| *tick <= axis.high);
    axis
}

/// First place on top.
fn places_axis(places: usize) -> Axis {
    let low = places.max(4) as f64;
    let every = if places > 16 { 8 } else { 4 };
    let ticks = (0..=places.max(4)).step_by(every).map(|n| n as f64).collect();
    Axis { label: "sequences".into(), low, high: 0.0, ticks, unit: Unit::Number }
}

fn paint<'a>(
    text: &'a mut String,
    size: (u32, u32),
    name: &str,
    composition: &Composition,
    x: &Axis,
    y: &Axis,
) -> Drawn<'a> {
    let root = SVGBackend::with_string(text, size).into_drawing_area();
    let (head, rest) = root.split_vertically(HEAD_PX);
    let (batch, rest) = rest.split_vertically(size.1 - HEAD_PX - 2 * STRIP_PX - TIME_AXIS_PX);
    let (queue, memory) = rest.split_vertically(STRIP_PX);
    heading(&head, name, composition)?;
    let (left, right, top, _) = lanes(&batch, composition, x, y)?;
    strip(&queue, "waiting", &composition.waiting, None, x, false)?;
    let blocks = f64::from(composition.total_blocks);
    let (_, _, _, bottom) = strip(&memory, "free blocks", &composition.free_blocks, Some(blocks), x, true)?;
    root.present()?;
    Ok((left, right, top, bottom))
}

fn heading<'a>(area: &Area<'a>, name: &str, composition: &Composition) -> Plot<'a> {
    let Composition { first_step, last_step, steps_in_log, hidden_places, .. } = composition;
    let hidden = match hidden_places {
        0 => String::new(),
        n => format!("; {n} more places are not drawn"),
    };
    let title = format!("{name}: the batch in steps {first_step} to {last_step} of {steps_in_log}{hidden}");
    let write = |text: &str, at: (i32, i32), px: f64, color: RGBColor| {
        let style = ("sans-serif", px).into_font().color(&color).pos(Pos::new(HPos::Left, VPos::Center));
        area.draw(&Text::new(text.to_owned(), at, style))
    };
    write(&title, (8, 14), 16.0, TEXT)?;
    write(HOW_TO_READ, (8, 38), 12.0, INK)?;
    let mut left = 8;
    for (color, words) in legend(composition) {
        area.draw(&Rectangle::new([(left, 57), (left + 12, 69)], color.filled()))?;
        write(words, (left + 18, 63), 13.0, INK)?;
        left += 18 + (words.chars().count() as f64 * 6.0) as i32 + 18;
    }
    Ok((0, 0, 0, 0))
}

/// Only what is in the picture.
fn legend(composition: &Composition) -> Vec<(RGBColor, &'static str)> {
    let words = [
        (Work::Prefill, "prefill (number: tokens of the chunk)"),
        (Work::Again, "computed again after a preemption"),
        (Work::Decode, "decode"),
        (Work::Drafts, "drafts being verified"),
        (Work::Padding, "padding"),
        (Work::Held, "holds its place, nothing computed"),
    ];
    let shown = |work: &Work| composition.pieces.iter().any(|piece| piece.work == *work);
    let mut legend: Vec<_> =
        words.into_iter().filter(|(work, _)| shown(work)).map(|(work, words)| (color(work), words)).collect();
    if !composition.preempted.is_empty() {
        legend.push((FAILED, "preempted"));
    }
    legend
}

fn color(work: Work) -> RGBColor {
    match work {
        Work::Prefill => PREFILL,
        Work::Again => AGAIN,
        Work::Decode => DECODE,
        Work::Drafts => DRAFTS,
        Work::Padding => PADDING,
        Work::Held => HELD,
    }
}

fn lanes<'a>(area: &Area<'a>, composition: &Composition, x: &Axis, y: &Axis) -> Plot<'a> {
    let mut chart = ChartBuilder::on(area)
        .margin_top(4)
        .margin_bottom(8)
        .margin_right(RIGHT_PX)
        .y_label_area_size(LEFT_PX)
        .build_cartesian_2d(x.clone(), y.clone())?;
    chart
        .configure_mesh()
        .disable_x_mesh()
        .max_light_lines(0)
        .bold_line_style(GRID)
        .axis_style(INK)
        .label_style(("sans-serif", 13.0).into_font().color(&INK))
        .axis_desc_style(("sans-serif", 13.0).into_font().color(&INK))
        .y_labels(y.ticks.len())
        .y_label_formatter(&|v| format!("{v:.0}"))
        .y_desc(y.label.clone())
        .draw()?;
    chart.draw_series(composition.pieces.iter().map(|piece| {
        let top = piece.place as f64;
        Rectangle::new([(piece.from, top + 0.08), (piece.to, top + 0.92)], color(piece.work).filled())
    }))?;
    let (xs, ys) = chart.plotting_area().get_pixel_range();
    let px_per_ms = f64::from(xs.end - xs.start) / x.high;
    // Columns show as cuts through the bars.
    let mut previous = 0.0;
    for &begin in &composition.begins {
        if (begin - previous) * px_per_ms >= NARROW_PX {
            let line = PathElement::new(vec![(begin, y.high), (begin, y.low)], PAPER.stroke_width(1));
            chart.draw_series([line])?;
            previous = begin;
        }
    }
    let chunk_style =
        ("sans-serif", 10.0).into_font().color(&PAPER).pos(Pos::new(HPos::Center, VPos::Center));
    let chunks = composition.pieces.iter().filter(|piece| matches!(piece.work, Work::Prefill | Work::Again));
    chart.draw_series(chunks.filter_map(|piece| {
        let words = piece.tokens.to_string();
        let fits = (piece.to - piece.from) * px_per_ms >= words.len() as f64 * DIGIT_PX + 2.0;
        let middle = ((piece.from + piece.to) / 2.0, piece.place as f64 + 0.5);
        fits.then(|| Text::new(words, middle, chunk_style.clone()))
    }))?;
    // Three pixels to the right of the step's begin: where the bar ends.
    let mark = 3.0 / px_per_ms;
    chart.draw_series(composition.preempted.iter().map(|(place, at)| {
        let top = *place as f64;
        Rectangle::new([(at - mark, top), (at + mark, top + 1.0)], FAILED.filled())
    }))?;
    Ok((xs.start, xs.end, ys.start, ys.end))
}

/// A value over time under the batch, on the same time axis.
fn strip<'a>(
    area: &Area<'a>,
    label: &str,
    values: &[(f64, f64)],
    whole: Option<f64>,
    x: &Axis,
    with_time: bool,
) -> Plot<'a> {
    let most = values.iter().map(|(_, value)| *value).fold(whole.unwrap_or(0.0), f64::max).max(1.0);
    let y = Axis { label: label.into(), low: 0.0, high: most, ticks: vec![0.0, most], unit: Unit::Number };
    let mut chart = ChartBuilder::on(area)
        .margin_top(6)
        .margin_bottom(if with_time { 0 } else { 8 })
        .margin_right(RIGHT_PX)
        .x_label_area_size(if with_time { TIME_AXIS_PX } else { 0 })
        .y_label_area_size(LEFT_PX)
        .build_cartesian_2d(x.clone(), y.clone())?;
    let mut mesh = chart.configure_mesh();
    mesh.max_light_lines(0)
        .bold_line_style(GRID)
        .axis_style(INK)
        .label_style(("sans-serif", 13.0).into_font().color(&INK))
        .axis_desc_style(("sans-serif", 13.0).into_font().color(&INK))
        .x_labels(x.ticks.len().max(1))
        .y_labels(2)
        .x_label_formatter(&|v| short(*v))
        .y_label_formatter(&|v| format!("{v:.0}"))
        .y_desc(label);
    if with_time {
        mesh.x_desc("milliseconds since the first step shown");
    }
    mesh.draw()?;
    let mut steps: Vec<(f64, f64)> = Vec::with_capacity(values.len() * 2);
    for &(at, value) in values {
        if let Some(&(_, before)) = steps.last() {
            steps.push((at, before));
        }
        steps.push((at, value));
    }
    chart.draw_series(AreaSeries::new(steps, 0.0, GAUGE.filled()))?;
    let (xs, ys) = chart.plotting_area().get_pixel_range();
    Ok((xs.start, xs.end, ys.start, ys.end))
}

/// Round ticks without trailing zeros.
fn short(v: f64) -> String {
    let text = format!("{v:.3}");
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}
