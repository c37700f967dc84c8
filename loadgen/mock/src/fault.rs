//! What a server can do wrong, and how often it does.

use std::fmt;
use std::str::FromStr;

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::Rng;
use serde::{Deserialize, Serialize};

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Fault {
    /// The port is bound and nobody listens.
    Refuse,
    /// The request is read and the connection reset.
    ResetBeforeHeaders,
    /// A connection that has carried a request before is closed when the next one comes, without a byte in answer.
    CloseReused,
    /// The connection closes inside an event, after half of the stream.
    CutMidEvent,
    /// The stream ends properly, but for its `[DONE]`.
    NoDone,
    #[serde(rename = "429")]
    Http429,
    #[serde(rename = "500")]
    Http500,
    /// One event holds half a JSON object.
    MalformedJson,
    /// From the middle of the stream on, one byte a second.
    SlowDrip,
    /// One event of 17 MiB.
    HugeEvent,
}

impl Fault {
    pub const ALL: [Fault; 10] = [
        Fault::Refuse,
        Fault::ResetBeforeHeaders,
        Fault::CloseReused,
        Fault::CutMidEvent,
        Fault::NoDone,
        Fault::Http429,
        Fault::Http500,
        Fault::MalformedJson,
        Fault::SlowDrip,
        Fault::HugeEvent,
    ];

    pub fn name(self) -> &'static str {
        match self {
            Fault::Refuse => "refuse",
            Fault::ResetBeforeHeaders => "reset-before-headers",
            Fault::CloseReused => "close-reused",
            Fault::CutMidEvent => "cut-mid-event",
            Fault::NoDone => "no-done",
            Fault::Http429 => "429",
            Fault::Http500 => "500",
            Fault::MalformedJson => "malformed-json",
            Fault::SlowDrip => "slow-drip",
            Fault::HugeEvent => "huge-event",
        }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Fault {
    type Err = String;

    fn from_str(name: &str) -> Result<Fault, String> {
        Fault::ALL.into_iter().find(|fault| fault.name() == name).ok_or_else(|| {
            let known: Vec<&str> = Fault::ALL.iter().map(|fault| fault.name()).collect();
            format!("unknown fault {name:?}; known: {}", known.join(", "))
        })
    }
}

/// Faults with the share of requests each meets; a request meets at most one.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Faults {
    rates: Vec<(Fault, f64)>,
}

impl Faults {
    pub fn new(rates: Vec<(Fault, f64)>) -> Result<Faults, String> {
        for (fault, rate) in &rates {
            if !(*rate > 0.0 && *rate <= 1.0) {
                return Err(format!("fault {fault}: its rate must be above 0 and at most 1, got {rate}"));
            }
        }
        let sum: f64 = rates.iter().map(|(_, rate)| rate).sum();
        if sum > 1.0 + 1e-9 {
            return Err(format!("the rates of all faults are {sum} together; at most 1"));
        }
        let refuses = rates.iter().any(|(fault, _)| *fault == Fault::Refuse);
        if refuses && rates != [(Fault::Refuse, 1.0)] {
            return Err(
                "fault refuse is for the whole server: its rate is 1, and no other fault goes with it".into(),
            );
        }
        Ok(Faults { rates })
    }

    /// One that every request meets.
    pub fn always(fault: Fault) -> Faults {
        Faults { rates: vec![(fault, 1.0)] }
    }

    pub(crate) fn refuses(&self) -> bool {
        self.rates.iter().any(|(fault, _)| *fault == Fault::Refuse)
    }

    /// `reused`: the connection has carried a request before.
    pub(crate) fn draw(&self, rng: &mut ChaCha8Rng, reused: bool) -> Option<Fault> {
        if self.rates.is_empty() {
            return None;
        }
        let mut left = (rng.next_u64() >> 11) as f64 / (1_u64 << 53) as f64;
        for (fault, rate) in &self.rates {
            if left < *rate {
                return (*fault != Fault::CloseReused || reused).then_some(*fault);
            }
            left -= rate;
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand_chacha::rand_core::SeedableRng;

    #[test]
    fn every_fault_has_a_name_that_is_read_back() {
        for fault in Fault::ALL {
            assert_eq!(fault.name().parse(), Ok(fault));
            assert_eq!(serde_json::to_string(&fault).unwrap(), format!("\"{fault}\""));
        }
        assert!("fire".parse::<Fault>().unwrap_err().contains("slow-drip"));
    }

    #[test]
    fn faults_come_at_their_rates() {
        let faults = Faults::new(vec![(Fault::Http429, 0.2), (Fault::CutMidEvent, 0.3)]).unwrap();
        let mut rng = ChaCha8Rng::seed_from_u64(1);
        let drawn: Vec<_> = (0..10_000).map(|_| faults.draw(&mut rng, false)).collect();
        let share = |fault| drawn.iter().filter(|drawn| **drawn == fault).count() as f64 / 1e4;
        for (fault, rate) in [(Some(Fault::Http429), 0.2), (Some(Fault::CutMidEvent), 0.3), (None, 0.5)] {
            assert!((share(fault) - rate).abs() < 0.02, "{fault:?} {}", share(fault));
        }
        assert!(Faults::new(vec![(Fault::NoDone, 0.6), (Fault::Http500, 0.6)]).is_err());
        assert!(Faults::new(vec![(Fault::NoDone, f64::NAN)]).is_err());
        assert!(Faults::new(vec![(Fault::Refuse, 0.5)]).is_err());
    }

    #[test]
    fn only_a_connection_used_before_can_be_closed_on_reuse() {
        let faults = Faults::always(Fault::CloseReused);
        let mut rng = ChaCha8Rng::seed_from_u64(1);
        assert_eq!(faults.draw(&mut rng, false), None);
        assert_eq!(faults.draw(&mut rng, true), Some(Fault::CloseReused));
    }
}
