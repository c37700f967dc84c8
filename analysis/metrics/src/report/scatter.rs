//! Points in a plane, as one SVG.

use plotters::prelude::*;

use crate::report::svg::{Axis, Drawn, color, mesh, restyle};

/// A point in the axes' own units; `strong` ones are filled.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Dot {
    pub x: f64,
    pub y: f64,
    pub slot: usize,
    pub strong: bool,
}

pub fn scatter(size: (u32, u32), x: &Axis, y: &Axis, dots: &[Dot]) -> String {
    let mut text = String::new();
    let pixels = draw(&mut text, size, x, y, dots).expect("writing SVG into a string does not fail");
    restyle(&text, size, x, y, pixels)
}

fn draw<'a>(text: &'a mut String, size: (u32, u32), x: &Axis, y: &Axis, dots: &[Dot]) -> Drawn<'a> {
    let root = SVGBackend::with_string(text, size).into_drawing_area();
    let mut chart = ChartBuilder::on(&root)
        .margin_top(8)
        .margin_right(14)
        .x_label_area_size(40)
        .y_label_area_size(66)
        .build_cartesian_2d(x.clone(), y.clone())?;
    mesh(&mut chart, x, y)?;
    chart.draw_series(dots.iter().map(|dot| {
        let style = color(dot.slot);
        let style = if dot.strong { style.filled() } else { style.stroke_width(1) };
        Circle::new((dot.x, dot.y), 5, style)
    }))?;
    let (xs, ys) = chart.plotting_area().get_pixel_range();
    let pixels = (xs.start, xs.end, ys.start, ys.end);
    root.present()?;
    Ok(pixels)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::svg::Unit;

    #[test]
    fn every_dot_is_a_circle_in_its_colour() {
        let axis = Axis::from_zero("x", 10.0, Unit::Number);
        let dots =
            [Dot { x: 1.0, y: 1.0, slot: 0, strong: true }, Dot { x: 5.0, y: 9.0, slot: 1, strong: false }];
        let svg = scatter((300, 200), &axis, &axis, &dots);
        assert_eq!(svg.matches("<circle").count(), 2);
        assert!(svg.contains("t0-fill") && svg.contains("t1-stroke"), "{svg}");
    }
}
