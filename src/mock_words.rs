//! How the mock's jitter, stalls and faults are typed.

use llmlab_mock::{Fault, Jitter, Stall};
use llmlab_scenarios::units::parse_duration;

pub fn jitter(text: &str) -> Result<Jitter, String> {
    let (kind, time) = text.split_once(':').ok_or_else(|| {
        format!("{text:?} is not a kind and a time; accepted: uniform:5ms, exponential:5ms, normal:2ms")
    })?;
    let time = parse_duration(time)?;
    match kind {
        "uniform" => Ok(Jitter::Uniform(time)),
        "exponential" => Ok(Jitter::Exponential { mean: time }),
        "normal" => Ok(Jitter::Normal { deviation: time }),
        _ => Err(format!("unknown kind {kind:?}; known: uniform, exponential, normal")),
    }
}

pub fn stall(text: &str) -> Result<Stall, String> {
    let (length, every) =
        text.split_once(" every ").ok_or_else(|| format!("{text:?} is not like \"2s every 10s\""))?;
    Stall::new(parse_duration(length.trim())?, parse_duration(every.trim())?)
}

pub fn fault(text: &str) -> Result<(Fault, f64), String> {
    let Some((name, rate)) = text.split_once(':') else { return Ok((text.parse()?, 1.0)) };
    let rate = rate.parse().map_err(|_| format!("{rate:?} is not a rate; accepted: above 0, at most 1"))?;
    Ok((name.parse()?, rate))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn what_is_typed_is_understood() {
        let ms = Duration::from_millis;
        assert_eq!(jitter("uniform:5ms"), Ok(Jitter::Uniform(ms(5))));
        assert_eq!(
            jitter("exponential:1.5ms"),
            Ok(Jitter::Exponential { mean: Duration::from_micros(1500) })
        );
        assert_eq!(stall("2s every 10s"), Stall::new(ms(2000), ms(10_000)));
        assert_eq!(fault("429:0.25"), Ok((Fault::Http429, 0.25)));
        assert_eq!(fault("no-done"), Ok((Fault::NoDone, 1.0)));
    }

    #[test]
    fn what_is_not_is_said() {
        assert!(jitter("5ms").unwrap_err().contains("uniform:5ms"));
        assert!(jitter("gamma:5ms").unwrap_err().contains("known: uniform"));
        assert!(jitter("normal:5").unwrap_err().contains("unit"));
        assert!(stall("2s").unwrap_err().contains("every"));
        assert!(stall("10s every 2s").unwrap_err().contains("shorter"));
        assert!(fault("fire").unwrap_err().contains("slow-drip"));
        assert!(fault("429:often").unwrap_err().contains("often"));
    }
}
