//! Which instruction set the kernels use, chosen once and carried by every packed matrix.

use std::fmt;
use std::str::FromStr;

use crate::KernelError;

/// An instruction set level with its own kernels. Ordered from slowest to fastest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Isa {
    /// Plain Rust; runs on every CPU.
    Portable,
    /// x86-64 with AVX2, FMA and F16C.
    Avx2,
    /// x86-64 with AVX-512 F, BW, VL, VNNI and BF16 all present.
    Avx512,
}

/// Names the instruction set that [`Isa::detect`] must use.
pub const ISA_ENV: &str = "LLMLAB_ISA";

impl Isa {
    pub const ALL: [Isa; 3] = [Isa::Portable, Isa::Avx2, Isa::Avx512];

    /// True when this CPU can run the kernels of this level.
    pub fn is_available(self) -> bool {
        match self {
            Isa::Portable => true,
            #[cfg(target_arch = "x86_64")]
            Isa::Avx2 => {
                is_x86_feature_detected!("avx2")
                    && is_x86_feature_detected!("fma")
                    && is_x86_feature_detected!("f16c")
            }
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512 => {
                Isa::Avx2.is_available()
                    && is_x86_feature_detected!("avx512f")
                    && is_x86_feature_detected!("avx512bw")
                    && is_x86_feature_detected!("avx512vl")
                    && is_x86_feature_detected!("avx512vnni")
                    && is_x86_feature_detected!("avx512bf16")
            }
            #[cfg(not(target_arch = "x86_64"))]
            Isa::Avx2 | Isa::Avx512 => false,
        }
    }

    /// Every level this CPU can run, slowest first.
    pub fn available() -> Vec<Isa> {
        Isa::ALL.into_iter().filter(|isa| isa.is_available()).collect()
    }

    /// The fastest level this CPU can run, whatever the environment says.
    pub fn best() -> Isa {
        Isa::ALL.into_iter().rev().find(|isa| isa.is_available()).unwrap_or(Isa::Portable)
    }

    /// The level named by `LLMLAB_ISA`, if it is set. An unknown name or a level this CPU lacks is an error.
    pub fn requested() -> Result<Option<Isa>, KernelError> {
        match std::env::var(ISA_ENV) {
            Ok(name) => {
                let isa = Isa::from_str(&name)?;
                if isa.is_available() { Ok(Some(isa)) } else { Err(KernelError::IsaUnavailable { isa }) }
            }
            Err(_) => Ok(None),
        }
    }

    /// The level to use: `LLMLAB_ISA` when it names a level this CPU has, else the best one.
    ///
    /// A bad `LLMLAB_ISA` is ignored here so that library code cannot fail on it; a front end that wants to tell the
    /// user calls [`Isa::requested`] first.
    pub fn detect() -> Isa {
        Isa::requested().ok().flatten().unwrap_or_else(Isa::best)
    }
}

impl fmt::Display for Isa {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Isa::Portable => "portable",
            Isa::Avx2 => "avx2",
            Isa::Avx512 => "avx512",
        })
    }
}

impl FromStr for Isa {
    type Err = KernelError;

    fn from_str(name: &str) -> Result<Self, KernelError> {
        Isa::ALL.into_iter().find(|isa| isa.to_string() == name).ok_or_else(|| KernelError::UnknownName {
            what: "instruction set",
            name: name.to_owned(),
            expected: "portable, avx2, avx512",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_round_trip_and_unknown_names_are_refused() {
        for isa in Isa::ALL {
            assert_eq!(isa.to_string().parse::<Isa>().unwrap(), isa);
        }
        let error = "sse9".parse::<Isa>().unwrap_err();
        assert!(error.to_string().contains("portable, avx2, avx512"), "{error}");
    }

    #[test]
    fn available_levels_are_ordered_and_end_with_the_best() {
        let available = Isa::available();
        assert_eq!(available.first(), Some(&Isa::Portable));
        assert!(available.is_sorted());
        assert_eq!(available.last(), Some(&Isa::best()));
    }
}
