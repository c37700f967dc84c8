//! One chart as an SVG string: plotters draws it, then colours become CSS classes so that light, dark and hidden series are a matter of
//! style, and the plot's scale is written onto the element so that a script can read values off the curves.

use std::ops::Range;

use plotters::coord::ranged1d::{DefaultFormatting, KeyPointHint, Ranged};
use plotters::prelude::*;

use crate::report::series::Points;

/// Okabe and Ito's colour-blind safe palette without yellow (unreadable on white), in an order that separates neighbours.
pub const PALETTE: [RGBColor; 7] = [
    RGBColor(0x00, 0x72, 0xb2),
    RGBColor(0xd5, 0x5e, 0x00),
    RGBColor(0x00, 0x9e, 0x73),
    RGBColor(0xcc, 0x79, 0xa7),
    RGBColor(0xe6, 0x9f, 0x00),
    RGBColor(0x56, 0xb4, 0xe9),
    RGBColor(0x88, 0x88, 0x88),
];
/// Stand-ins that no series uses; [`restyle`] finds them in the output.
pub(super) const INK: RGBColor = RGBColor(1, 1, 1);
pub(super) const GRID: RGBColor = RGBColor(2, 2, 2);
const QUEUE: RGBColor = RGBColor(3, 3, 3);
pub(super) const FAILED: RGBColor = RGBColor(4, 4, 4);
pub(super) const PREFILL: RGBColor = RGBColor(5, 5, 5);
pub(super) const AGAIN: RGBColor = RGBColor(6, 6, 6);
pub(super) const DECODE: RGBColor = RGBColor(7, 7, 7);
pub(super) const DRAFTS: RGBColor = RGBColor(8, 8, 8);
pub(super) const PADDING: RGBColor = RGBColor(9, 9, 9);
pub(super) const HELD: RGBColor = RGBColor(10, 10, 10);
/// The page behind everything.
pub(super) const PAPER: RGBColor = RGBColor(11, 11, 11);
pub(super) const TEXT: RGBColor = RGBColor(12, 12, 12);
pub(super) const GAUGE: RGBColor = RGBColor(13, 13, 13);

const TEXT_PX: f64 = 13.0;

pub fn color(slot: usize) -> RGBColor {
    PALETTE[slot % PALETTE.len()]
}

/// An axis in the units it is printed in. A log axis carries log10 of them; `exponent` says so.
#[derive(Debug, Clone)]
pub struct Axis {
    pub label: String,
    pub low: f64,
    pub high: f64,
    pub ticks: Vec<f64>,
    pub unit: Unit,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unit {
    /// log10 of nanoseconds.
    LogNanoseconds,
    Seconds,
    Percent,
    Dollars,
    Number,
}

impl Unit {
    fn name(self) -> &'static str {
        match self {
            Unit::LogNanoseconds => "logns",
            Unit::Seconds => "s",
            Unit::Percent => "pct",
            Unit::Dollars => "usd",
            Unit::Number => "n",
        }
    }

    fn text(self, v: f64) -> String {
        match self {
            Unit::LogNanoseconds => {
                let ns = 10f64.powf(v);
                let (scale, unit) = crate::report::format::time_unit(ns * 1.0001);
                format!("{:.0} {unit}", ns / scale)
            }
            Unit::Seconds => format!("{} s", trim(v)),
            Unit::Percent => format!("{} %", trim(v * 100.0)),
            Unit::Dollars => dollars(v),
            Unit::Number => trim(v),
        }
    }
}

/// "$900", "$12k", "$3.4M"
fn dollars(usd: f64) -> String {
    match usd {
        v if v >= 1e6 => format!("${}M", trim(v / 1e6)),
        v if v >= 1e4 => format!("${}k", trim(v / 1e3)),
        v => format!("${}", trim(v)),
    }
}

fn trim(v: f64) -> String {
    let text = format!("{v:.2}");
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

impl Axis {
    /// A value of this axis in its unit.
    pub fn text(&self, value: f64) -> String {
        self.unit.text(value)
    }

    /// Covers positive nanoseconds with ticks at 1, 2, 5 per decade (1 only on wide ranges).
    pub fn log_ns(label: &str, low_ns: f64, high_ns: f64) -> Axis {
        let low = low_ns.max(1.0).log10() - 0.03;
        let high = high_ns.max(low_ns.max(1.0) * 1.2).log10() + 0.03;
        let steps: &[f64] = if high - low > 2.4 { &[1.0] } else { &[1.0, 2.0, 5.0] };
        let ticks = (0..13)
            .flat_map(|decade| steps.iter().map(move |s| f64::from(decade) + s.log10()))
            .filter(|t| *t >= low && *t <= high)
            .collect();
        Axis { label: label.into(), low, high, ticks, unit: Unit::LogNanoseconds }
    }

    /// From zero to at least `high`, with about five round ticks.
    pub fn from_zero(label: &str, high: f64, unit: Unit) -> Axis {
        let high = if high.is_finite() && high > 0.0 { high } else { 1.0 };
        let rough = high / 5.0;
        let decade = 10f64.powf(rough.log10().floor());
        let step = [1.0, 2.0, 2.5, 5.0, 10.0]
            .into_iter()
            .map(|f| f * decade)
            .find(|s| *s >= rough * 0.999)
            .unwrap_or(rough);
        let top = (high / step).ceil().max(1.0);
        let ticks = (0..=top as usize).map(|i| i as f64 * step).collect();
        Axis { label: label.into(), low: 0.0, high: top * step, ticks, unit }
    }
}

/// plotters chooses ticks itself unless the axis is a type of ours.
impl Ranged for Axis {
    type FormatOption = DefaultFormatting;
    type ValueType = f64;

    /// `limit` runs backwards for a vertical axis, and `low > high` turns an axis round.
    fn map(&self, value: &f64, limit: (i32, i32)) -> i32 {
        let share = (value - self.low) / (self.high - self.low);
        (f64::from(limit.0) + share * f64::from(limit.1 - limit.0)).round() as i32
    }

    fn key_points<Hint: KeyPointHint>(&self, hint: Hint) -> Vec<f64> {
        if hint.weight().allow_light_points() { Vec::new() } else { self.ticks.clone() }
    }

    fn range(&self) -> Range<f64> {
        self.low..self.high
    }
}

/// Overlaid curves; `slot` gives each its colour.
pub fn lines(size: (u32, u32), x: &Axis, y: &Axis, series: &[(usize, Points)]) -> String {
    let mut text = String::new();
    let pixels = draw_lines(&mut text, size, x, y, series).expect("writing SVG into a string does not fail");
    restyle(&text, size, x, y, pixels)
}

/// A rectangle of a waterfall: x from/to in seconds, row from the top.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Bar {
    pub row: usize,
    pub from: f64,
    pub to: f64,
    pub fill: Fill,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fill {
    Waiting,
    Prefill(usize),
    Decode(usize),
    Failed,
}

/// Horizontal bars, one row per request, first on top.
pub fn waterfall(width: u32, rows: usize, x: &Axis, bars: &[Bar]) -> String {
    let size = (width, 56 + 8 * rows.max(4) as u32);
    let y = Axis {
        label: String::new(),
        low: rows.max(4) as f64,
        high: 0.0,
        ticks: Vec::new(),
        unit: Unit::Number,
    };
    let mut text = String::new();
    let pixels = draw_bars(&mut text, size, x, &y, bars).expect("writing SVG into a string does not fail");
    restyle(&text, size, x, &y, pixels)
}

/// Pixel edges of the plotting area: left, right, top, bottom.
pub(super) type Pixels = (i32, i32, i32, i32);
pub(super) type Drawn<'a> =
    Result<Pixels, DrawingAreaErrorKind<<SVGBackend<'a> as DrawingBackend>::ErrorType>>;

/// Grid, ticks and names of two axes.
pub(super) fn mesh<'c, B: DrawingBackend + 'c>(
    chart: &mut ChartContext<'c, B, Cartesian2d<Axis, Axis>>,
    x: &Axis,
    y: &Axis,
) -> Result<(), DrawingAreaErrorKind<B::ErrorType>> {
    chart
        .configure_mesh()
        .max_light_lines(0)
        .bold_line_style(GRID)
        .axis_style(INK)
        .label_style(("sans-serif", TEXT_PX).into_font().color(&INK))
        .axis_desc_style(("sans-serif", TEXT_PX).into_font().color(&INK))
        .x_labels(x.ticks.len().max(1))
        .y_labels(y.ticks.len().max(1))
        .x_label_formatter(&|v| x.text(*v))
        .y_label_formatter(&|v| y.text(*v))
        .x_desc(x.label.clone())
        .y_desc(y.label.clone())
        .draw()
}

fn draw_lines<'a>(
    text: &'a mut String,
    size: (u32, u32),
    x: &Axis,
    y: &Axis,
    series: &[(usize, Points)],
) -> Drawn<'a> {
    let root = SVGBackend::with_string(text, size).into_drawing_area();
    let mut chart = ChartBuilder::on(&root)
        .margin_top(8)
        .margin_right(14)
        .x_label_area_size(if x.label.is_empty() { 24 } else { 40 })
        .y_label_area_size(56)
        .build_cartesian_2d(x.clone(), y.clone())?;
    mesh(&mut chart, x, y)?;
    for (slot, points) in series {
        chart.draw_series(LineSeries::new(points.iter().copied(), color(*slot).stroke_width(2)))?;
    }
    let (xs, ys) = chart.plotting_area().get_pixel_range();
    let pixels = (xs.start, xs.end, ys.start, ys.end);
    root.present()?;
    Ok(pixels)
}

fn draw_bars<'a>(text: &'a mut String, size: (u32, u32), x: &Axis, y: &Axis, bars: &[Bar]) -> Drawn<'a> {
    let root = SVGBackend::with_string(text, size).into_drawing_area();
    let mut chart = ChartBuilder::on(&root)
        .margin_top(8)
        .margin_right(14)
        .margin_left(14)
        .x_label_area_size(40)
        .build_cartesian_2d(x.clone(), y.clone())?;
    chart
        .configure_mesh()
        .disable_y_mesh()
        .max_light_lines(0)
        .bold_line_style(GRID)
        .axis_style(INK)
        .label_style(("sans-serif", TEXT_PX).into_font().color(&INK))
        .axis_desc_style(("sans-serif", TEXT_PX).into_font().color(&INK))
        .x_labels(x.ticks.len().max(1))
        .x_label_formatter(&|v| x.unit.text(*v))
        .x_desc(x.label.clone())
        .draw()?;
    chart.draw_series(bars.iter().map(|bar| {
        let style = match bar.fill {
            Fill::Waiting => QUEUE.filled(),
            Fill::Prefill(slot) => color(slot).mix(0.45).filled(),
            Fill::Decode(slot) => color(slot).filled(),
            Fill::Failed => FAILED.filled(),
        };
        let top = bar.row as f64;
        Rectangle::new([(bar.from, top + 0.12), (bar.to, top + 0.88)], style)
    }))?;
    let (xs, ys) = chart.plotting_area().get_pixel_range();
    let pixels = (xs.start, xs.end, ys.start, ys.end);
    root.present()?;
    Ok(pixels)
}

/// Colours become classes, fixed size becomes a view box, the scale becomes data attributes.
pub(super) fn restyle(svg: &str, size: (u32, u32), x: &Axis, y: &Axis, pixels: Pixels) -> String {
    let body = svg.split_once('>').map_or("", |(_, rest)| rest);
    let mut out = format!(
        "<svg class=\"chart\" viewBox=\"0 0 {} {}\" role=\"img\" data-px=\"{},{},{},{}\" data-x=\"{},{}\" data-xunit=\"{}\" data-y=\"{},{}\" data-yunit=\"{}\">{body}",
        size.0,
        size.1,
        pixels.0,
        pixels.1,
        pixels.2,
        pixels.3,
        x.low,
        x.high,
        x.unit.name(),
        y.low,
        y.high,
        y.unit.name()
    );
    let hex = |c: RGBColor| format!("#{:02X}{:02X}{:02X}", c.0, c.1, c.2);
    for (stand_in, class, real) in [
        (INK, "ink", "#555555"),
        (GRID, "grid", "#DDDDDD"),
        (QUEUE, "queue", "#BBBBBB"),
        (FAILED, "failed", "#B00020"),
        (PREFILL, "prefill", "#E07B00"),
        (AGAIN, "again", "#8F3A0E"),
        (DECODE, "decode", "#2C7FB8"),
        (DRAFTS, "drafts", "#8FCBEA"),
        (PADDING, "padding", "#9AA1AB"),
        (HELD, "held", "#E4E7EC"),
        (PAPER, "paper", "#FFFFFF"),
        (TEXT, "text", "#1B1F26"),
        (GAUGE, "gauge", "#8C7BB5"),
    ] {
        for attribute in ["fill", "stroke"] {
            let found = format!("{attribute}=\"{}\"", hex(stand_in));
            out = out.replace(&found, &format!("class=\"{class}-{attribute}\" {attribute}=\"{real}\""));
        }
    }
    for (slot, color) in PALETTE.iter().enumerate() {
        for attribute in ["fill", "stroke"] {
            let found = format!("{attribute}=\"{}\"", hex(*color));
            out = out.replace(&found, &format!("class=\"t{slot} t{slot}-{attribute}\" {found}"));
        }
    }
    out
}

/// The same chart as a file of its own: namespace, size, and both colour schemes inside.
pub fn standalone(svg: &str) -> String {
    let style = "<style>.chart{background:#fff}@media(prefers-color-scheme:dark){.chart{background:#14171c}\
                 .ink-fill{fill:#b8bec8}.ink-stroke{stroke:#b8bec8}.grid-stroke{stroke:#2c323b}.queue-fill{fill:#5a626e}\
                 .held-fill{fill:#2c323b}.paper-fill{fill:#14171c}.paper-stroke{stroke:#14171c}.text-fill{fill:#e4e8ee}}</style>";
    let open = svg.replacen("<svg ", "<svg xmlns=\"http://www.w3.org/2000/svg\" ", 1);
    open.replacen('>', &format!(">{style}"), 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn round_ticks_cover_the_data() {
        let axis = Axis::from_zero("x", 7.3, Unit::Number);
        assert_eq!(axis.ticks, vec![0.0, 2.0, 4.0, 6.0, 8.0]);
        assert_eq!(axis.high, 8.0);
        assert_eq!(Axis::from_zero("x", f64::NAN, Unit::Number).high, 1.0);
        assert_eq!(Axis::from_zero("x", 0.0, Unit::Number).high, 1.0);
    }

    #[test]
    fn log_ticks_are_one_two_five() {
        let axis = Axis::log_ns("t", 9e6, 120e6);
        let ms: Vec<i64> = axis.ticks.iter().map(|t| (10f64.powf(*t) / 1e6).round() as i64).collect();
        assert_eq!(ms, vec![10, 20, 50, 100]);
        assert_eq!(axis.unit.text(7.0), "10 ms");
        assert_eq!(axis.unit.text(9.0), "1 s");
    }

    #[test]
    fn series_carry_their_class_and_no_element_has_two() {
        let x = Axis::from_zero("time", 2.0, Unit::Seconds);
        let y = Axis::from_zero("v", 2.0, Unit::Number);
        let svg = lines(
            (400, 200),
            &x,
            &y,
            &[(0, vec![(0.0, 1.0), (2.0, 2.0)]), (1, vec![(0.0, 0.5), (1.0, 1.0)])],
        );
        assert!(svg.contains("class=\"t0 t0-stroke\"") && svg.contains("class=\"t1 t1-stroke\""), "{svg}");
        for tag in svg.split('<').filter(|t| !t.starts_with("svg")) {
            assert!(tag.matches("class=").count() <= 1, "two class attributes are invalid XML: {tag}");
        }
        assert!(!svg.contains("http://"));
    }
}
