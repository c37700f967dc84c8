//! Student's t, the only distribution the comparison needs. Reference: Abramowitz and Stegun 26.7, 26.5; Lentz's continued fraction.

/// Mean with a two-sided interval over independent values.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Interval {
    pub mean: f64,
    pub low: f64,
    pub high: f64,
}

/// mean ± t(1 - (1 - confidence)/2, n - 1) · s / √n. `None` below two values: one run has no spread to judge by.
pub fn t_interval(values: &[f64], confidence: f64) -> Option<Interval> {
    let n = values.len() as f64;
    if values.len() < 2 {
        return None;
    }
    let mean = values.iter().sum::<f64>() / n;
    let variance = values.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / (n - 1.0);
    let half = t_quantile(0.5 + confidence / 2.0, n - 1.0) * (variance / n).sqrt();
    Some(Interval { mean, low: mean - half, high: mean + half })
}

/// Inverse of [`t_cdf`] by bisection; `p` in (0, 1), `df` > 0.
pub fn t_quantile(p: f64, df: f64) -> f64 {
    if p < 0.5 {
        return -t_quantile(1.0 - p, df);
    }
    let mut high = 1.0;
    while t_cdf(high, df) < p && high < 1e12 {
        high *= 2.0;
    }
    let mut low = 0.0;
    // 200 halvings reach the last bit from any bracket.
    for _ in 0..200 {
        let middle = (low + high) / 2.0;
        if t_cdf(middle, df) < p { low = middle } else { high = middle }
    }
    (low + high) / 2.0
}

/// P(T <= t) with `df` degrees of freedom.
pub fn t_cdf(t: f64, df: f64) -> f64 {
    let tail = incomplete_beta(df / (df + t * t), df / 2.0, 0.5) / 2.0;
    if t >= 0.0 { 1.0 - tail } else { tail }
}

/// Regularised incomplete beta function I_x(a, b).
fn incomplete_beta(x: f64, a: f64, b: f64) -> f64 {
    if x <= 0.0 || x >= 1.0 {
        return x.clamp(0.0, 1.0);
    }
    let front = (ln_gamma(a + b) - ln_gamma(a) - ln_gamma(b) + a * x.ln() + b * (1.0 - x).ln()).exp();
    // The fraction converges fast only on this side of the mean.
    if x < (a + 1.0) / (a + b + 2.0) {
        front * beta_fraction(x, a, b) / a
    } else {
        1.0 - front * beta_fraction(1.0 - x, b, a) / b
    }
}

/// Lentz's method for the continued fraction of the incomplete beta function.
fn beta_fraction(x: f64, a: f64, b: f64) -> f64 {
    const TINY: f64 = 1e-300;
    let guard = |v: f64| if v.abs() < TINY { TINY } else { v };
    let mut c = 1.0;
    let mut d = 1.0 / guard(1.0 - (a + b) * x / (a + 1.0));
    let mut result = d;
    for i in 1..=300 {
        let m = f64::from(i);
        let even = m * (b - m) * x / ((a + 2.0 * m - 1.0) * (a + 2.0 * m));
        d = 1.0 / guard(1.0 + even * d);
        c = guard(1.0 + even / c);
        result *= d * c;
        let odd = -(a + m) * (a + b + m) * x / ((a + 2.0 * m) * (a + 2.0 * m + 1.0));
        d = 1.0 / guard(1.0 + odd * d);
        c = guard(1.0 + odd / c);
        let factor = d * c;
        result *= factor;
        if (factor - 1.0).abs() < 1e-15 {
            break;
        }
    }
    result
}

/// Lanczos approximation (g = 7, n = 9), about 15 digits for x > 0.5.
fn ln_gamma(x: f64) -> f64 {
    const G: [f64; 9] = [
        0.999_999_999_999_809_9,
        676.520_368_121_885_1,
        -1_259.139_216_722_402_8,
        771.323_428_777_653_1,
        -176.615_029_162_140_6,
        12.507_343_278_686_905,
        -0.138_571_095_265_720_12,
        9.984_369_578_019_572e-6,
        1.505_632_735_149_311_6e-7,
    ];
    if x < 0.5 {
        // Reflection keeps the series in the range where it is accurate.
        return (std::f64::consts::PI / (std::f64::consts::PI * x).sin()).ln() - ln_gamma(1.0 - x);
    }
    let x = x - 1.0;
    let base = x + 7.5;
    let sum = G.iter().enumerate().skip(1).fold(G[0], |sum, (i, g)| sum + g / (x + i as f64));
    0.5 * (2.0 * std::f64::consts::PI).ln() + (x + 0.5) * base.ln() - base + sum.ln()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn close(got: f64, want: f64) {
        assert!((got - want).abs() <= 1e-9 * want.abs().max(1.0), "{got} != {want}");
    }

    /// `scipy.stats.t.ppf(p, df)`, scipy 1.16.
    #[test]
    fn t_quantiles_agree_with_scipy() {
        for (p, df, want) in [
            (0.975, 1.0, 12.706204736174694),
            (0.975, 2.0, 4.302652729749462),
            (0.975, 3.0, 3.1824463052837078),
            (0.975, 4.0, 2.7764451051977934),
            (0.975, 9.0, 2.262157162798205),
            (0.975, 30.0, 2.0422724563012378),
            (0.975, 1000.0, 1.9623390808264083),
            (0.95, 2.0, 2.9199855803537242),
            (0.995, 5.0, 4.032142983555228),
            (0.6, 7.0, 0.2631668613520229),
        ] {
            close(t_quantile(p, df), want);
            close(t_quantile(1.0 - p, df), -want);
        }
    }

    /// `scipy.stats.t.cdf(t, df)`.
    #[test]
    fn t_cdf_agrees_with_scipy() {
        for (t, df, want) in [
            (1.0, 1.0, 0.75),
            (-2.0, 3.0, 0.06966298427942152),
            (0.5, 10.0, 0.6860531971285135),
            (4.0, 2.0, 0.9714045207910317),
        ] {
            close(t_cdf(t, df), want);
        }
    }

    /// `scipy.stats.t.interval(0.95, 3, loc=x.mean(), scale=scipy.stats.sem(x))` for x = [1, 2, 4, 8.5].
    #[test]
    fn interval_agrees_with_scipy() {
        let interval = t_interval(&[1.0, 2.0, 4.0, 8.5], 0.95).unwrap();
        close(interval.mean, 3.875);
        close(interval.low, -1.4174617883960439);
        close(interval.high, 9.167461788396043);
        assert_eq!(t_interval(&[1.0], 0.95), None);
    }
}
