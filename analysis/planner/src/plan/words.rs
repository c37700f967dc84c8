//! Numbers for people.

/// Three significant digits with a unit that suits.
pub fn seconds(seconds: f64) -> String {
    match seconds {
        s if s.is_nan() => "-".into(),
        s if s.is_infinite() => "never".into(),
        s if s < 1e-3 => format!("{} us", digits(s * 1e6)),
        s if s < 1.0 => format!("{} ms", digits(s * 1e3)),
        s if s < 120.0 => format!("{} s", digits(s)),
        s => format!("{} min", digits(s / 60.0)),
    }
}

/// "$12,300", "$0.00042"
pub fn dollars(usd: f64) -> String {
    if usd.abs() >= 1000.0 { format!("${}", thousands(usd)) } else { format!("${}", digits(usd)) }
}

/// Whole, with commas, rounded to three digits above a thousand.
pub fn thousands(value: f64) -> String {
    let magnitude = value.abs().max(1.0).log10().floor() as i32;
    let step = 10f64.powi((magnitude - 2).max(0));
    let whole = ((value / step).round() * step) as i64;
    let plain = whole.abs().to_string();
    let mut out = String::new();
    for (place, digit) in plain.chars().enumerate() {
        if place > 0 && (plain.len() - place).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    if whole < 0 { format!("-{out}") } else { out }
}

/// Three significant digits, no exponent.
pub fn digits(value: f64) -> String {
    if value == 0.0 || !value.is_finite() {
        return format!("{value}");
    }
    let places = (2 - value.abs().log10().floor() as i32).max(0) as usize;
    format!("{value:.places$}")
}

pub fn percent(share: f64) -> String {
    format!("{} %", digits(share * 100.0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_have_three_digits() {
        assert_eq!(seconds(0.0123456), "12.3 ms");
        assert_eq!(seconds(2e-6), "2.00 us");
        assert_eq!(seconds(f64::INFINITY), "never");
        assert_eq!(dollars(12345.0), "$12,300");
        assert_eq!(dollars(0.000423), "$0.000423");
        assert_eq!(thousands(1_234_567.0), "1,230,000");
        assert_eq!(digits(100.4), "100");
    }
}
