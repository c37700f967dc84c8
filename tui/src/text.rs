//! Numbers and names made fit for a cell.

/// Names and log lines come from files and servers. Control characters could move the cursor, and direction overrides
/// could make a line read as another, so both are shown as `?`.
pub fn clean(text: &str) -> String {
    let harmful = |c: char| {
        c.is_control()
            || matches!(c, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{feff}')
    };
    text.chars().map(|c| if harmful(c) { '?' } else { c }).collect()
}

/// `m:ss`, or `h:mm:ss` from an hour on.
pub fn clock(seconds: f64) -> String {
    if !seconds.is_finite() || seconds < 0.0 {
        return "-:--".into();
    }
    let total = seconds.round() as u64;
    let (hours, minutes, seconds) = (total / 3600, total / 60 % 60, total % 60);
    if hours > 0 { format!("{hours}:{minutes:02}:{seconds:02}") } else { format!("{minutes}:{seconds:02}") }
}

/// Milliseconds in at most four characters: `9.5`, `210`, `9999`, `12s`.
pub fn ms(value: f64) -> String {
    if !value.is_finite() || value < 0.0 {
        "-".into()
    } else if value < 9.95 {
        format!("{value:.1}")
    } else if value < 9_999.5 {
        format!("{value:.0}")
    } else if value < 999_500.0 {
        format!("{:.0}s", value / 1e3)
    } else {
        ">16m".into()
    }
}

/// A count or rate in at most five characters.
pub fn short(value: f64) -> String {
    if !value.is_finite() || value < 0.0 {
        "-".into()
    } else if value < 9.95 && value.fract() != 0.0 {
        format!("{value:.1}")
    } else if value < 99_999.5 {
        format!("{value:.0}")
    } else if value < 999_500.0 {
        format!("{:.0}k", value / 1e3)
    } else if value < 999.5e6 {
        format!("{:.0}M", value / 1e6)
    } else {
        format!("{value:.0e}")
    }
}

/// 0..=1 as a percentage.
pub fn percent(share: f64) -> String {
    if share.is_finite() { format!("{:.0}%", share.clamp(0.0, 1.0) * 100.0) } else { "-".into() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_fit_their_cells() {
        for (value, text) in
            [(0.0, "0.0"), (9.96, "10"), (210.4, "210"), (9999.6, "10s"), (123_456.0, "123s")]
        {
            assert_eq!(ms(value), text);
        }
        for exponent in -3..300 {
            let value = 10f64.powi(exponent) * 9.996;
            assert!(
                ms(value).len() <= 4 && short(value).len() <= 6,
                "{value}: {} {}",
                ms(value),
                short(value)
            );
        }
        for odd in [f64::NAN, f64::INFINITY, -1.0] {
            assert_eq!((ms(odd), short(odd), clock(odd)), ("-".into(), "-".into(), "-:--".into()));
        }
        assert_eq!((clock(59.6), clock(3725.0)), ("1:00".into(), "1:02:05".into()));
        assert_eq!(
            (percent(0.416), percent(7.0), percent(f64::NAN)),
            ("42%".into(), "100%".into(), "-".into())
        );
    }

    #[test]
    fn nothing_that_moves_the_cursor_survives() {
        assert_eq!(clean("a\x1b[2Jb\r\n\t\u{9b}c\u{202e}d"), "a?[2Jb????c?d");
        assert_eq!(clean("日本 naïve"), "日本 naïve");
    }
}
