//! Numbers for people, and text made safe for the place it goes to.

use crate::metric::Unit;

/// Three significant digits, never in exponent form; thousands stay whole.
pub fn significant(value: f64) -> String {
    let size = value.abs();
    if size == 0.0 {
        return "0".into();
    }
    // Rounding first, so that 9.996 becomes 10.0 and not 10.00.
    let magnitude = 10f64.powf(size.log10().floor() - 2.0);
    let rounded = (value / magnitude).round() * magnitude;
    match rounded.abs() {
        s if s >= 99.95 => format!("{rounded:.0}"),
        s if s >= 9.995 => format!("{rounded:.1}"),
        s if s >= 0.9995 => format!("{rounded:.2}"),
        s if s >= 0.0995 => format!("{rounded:.3}"),
        _ => format!("{rounded:.4}"),
    }
}

/// Nanoseconds with a unit that fits: "812 µs", "12.3 ms", "1.50 s".
pub fn duration(ns: f64) -> String {
    let (scale, unit) = time_unit(ns);
    format!("{} {unit}", significant(ns / scale))
}

/// (nanoseconds per unit, name).
pub fn time_unit(ns: f64) -> (f64, &'static str) {
    match ns.abs() {
        n if n >= 999.5e6 => (1e9, "s"),
        n if n >= 999.5e3 => (1e6, "ms"),
        n if n >= 999.5 || n == 0.0 => (1e3, "µs"),
        _ => (1.0, "ns"),
    }
}

/// One value with its unit.
pub fn value(v: f64, unit: Unit) -> String {
    match unit {
        Unit::Nanoseconds => duration(v),
        Unit::PerSecond | Unit::Count => significant(v),
        Unit::Share => format!("{} %", percent(v)),
        Unit::UsDollars => format!("${}", significant(v)),
    }
}

/// "[low, high]" in the unit of `middle`, which is printed beside it.
pub fn range(middle: f64, low: f64, high: f64, unit: Unit) -> String {
    let show = |v: f64| match unit {
        Unit::Nanoseconds => significant(v / time_unit(middle).0),
        Unit::Share => percent(v),
        Unit::PerSecond | Unit::Count | Unit::UsDollars => significant(v),
    };
    format!("[{}, {}]", show(low), show(high))
}

/// A share as a number of per cent.
pub fn percent(share: f64) -> String {
    let p = share * 100.0;
    if p == 0.0 || p.abs() >= 9.95 { format!("{p:.0}") } else { format!("{p:.1}") }
}

/// Bytes, FLOPs and the like with a decimal prefix: "12.3 G".
pub fn si(v: f64) -> String {
    let (scale, prefix) = match v.abs() {
        n if n >= 1e12 => (1e12, "T"),
        n if n >= 1e9 => (1e9, "G"),
        n if n >= 1e6 => (1e6, "M"),
        n if n >= 1e3 => (1e3, "k"),
        _ => (1.0, ""),
    };
    format!("{} {prefix}", significant(v / scale))
}

/// Text from outside with everything removed that could steer a terminal or hide its order: control characters (ESC, CR,
/// newline, C1) and bidirectional overrides become a visible mark.
pub fn plain(text: &str) -> String {
    text.chars()
        .map(|c| {
            let steers = c.is_control()
                || matches!(c, '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
            if steers { '\u{fffd}' } else { c }
        })
        .collect()
}

/// [`plain`] for places where lines and tabs are harmless.
pub fn plain_lines(text: &str) -> String {
    let lines: Vec<String> =
        text.lines().map(|line| line.split('\t').map(plain).collect::<Vec<_>>().join("\t")).collect();
    lines.join("\n")
}

/// Text for a Markdown line or table cell: punctuation that Markdown or embedded HTML would act on is escaped.
pub fn markdown_text(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in plain(text).chars() {
        match c {
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '&' => out.push_str("&amp;"),
            '\\' | '`' | '*' | '_' | '[' | ']' | '|' | '#' | '~' | '!' | '$' => {
                out.push('\\');
                out.push(c);
            }
            _ => out.push(c),
        }
    }
    // Naked addresses would become links on some sites.
    out.replace("://", ":\u{200b}//")
}

/// Cut to `width` characters, with an ellipsis when something was cut.
pub fn cut(text: &str, width: usize) -> String {
    if text.chars().count() <= width {
        return text.to_owned();
    }
    let mut short: String = text.chars().take(width.saturating_sub(1)).collect();
    short.push('…');
    short
}

/// Greedy line breaking at spaces; a word longer than `width` stands alone.
pub fn wrap(text: &str, width: usize, indent: &str) -> String {
    let mut lines: Vec<String> = Vec::new();
    let mut line = String::new();
    for word in text.split(' ') {
        let used = line.chars().count();
        if used > 0 && used + 1 + word.chars().count() > width {
            lines.push(std::mem::take(&mut line));
        }
        if line.is_empty() {
            line = if lines.is_empty() { word.to_owned() } else { format!("{indent}{word}") };
        } else {
            line.push(' ');
            line.push_str(word);
        }
    }
    lines.push(line);
    lines.join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn three_significant_digits() {
        for (v, want) in [
            (0.0, "0"),
            (0.0123, "0.0123"),
            (0.5, "0.500"),
            (1.0, "1.00"),
            (9.996, "10.0"),
            (12.34, "12.3"),
            (99.96, "100"),
            (1234.0, "1230"),
            (-5.678, "-5.68"),
        ] {
            assert_eq!(significant(v), want, "{v}");
        }
    }

    #[test]
    fn times_take_the_unit_that_fits() {
        assert_eq!(duration(812_000.0), "812 µs");
        assert_eq!(duration(12_300_000.0), "12.3 ms");
        assert_eq!(duration(999_700.0), "1.00 ms");
        assert_eq!(duration(1.5e9), "1.50 s");
        assert_eq!(range(12.3e6, 0.9e6, 1.5e9, Unit::Nanoseconds), "[0.900, 1500]");
        assert_eq!(value(0.0421, Unit::Share), "4.2 %");
    }

    #[test]
    fn a_name_cannot_steer_terminal_or_page() {
        assert_eq!(plain("a\u{1b}[31mred\r\nx\u{202e}y"), "a\u{fffd}[31mred\u{fffd}\u{fffd}x\u{fffd}y");
        assert_eq!(markdown_text("a|b <script> `c`"), "a\\|b &lt;script&gt; \\`c\\`");
        assert_eq!(markdown_text("![x](y)"), "\\!\\[x\\](y)");
    }

    #[test]
    fn wrapping_keeps_all_words() {
        assert_eq!(wrap("one two three four", 9, "  "), "one two\n  three\n  four");
        assert_eq!(wrap("toolongword x", 4, ""), "toolongword\nx");
    }
}
