//! What the client gets wrong by itself, as its calibration found it, against what it measured.

use llmlab_results::calibration::{CalibrationFacts, ClientCalibration};

use crate::latency::Latency;
use crate::trust::{LATE_NS, LATE_SHARE, UntrustedCause};

/// Empty without a calibration. `late_limit_ns` is the trial's; a gap between tokens has a limit of its own, because a TTFT of
/// seconds does not make a gap that is wrong by a tenth of one any better.
pub fn causes(
    calibration: Option<&ClientCalibration>,
    latency: &Latency,
    late_limit_ns: f64,
) -> Vec<UntrustedCause> {
    let Some(ClientCalibration::Measured(facts)) = calibration else {
        return Vec::new();
    };
    let CalibrationFacts { ttft, itl, streams, .. } = facts;
    let itl_p50_ns = latency.itl.as_ref().and_then(|d| d.raw.p50_ns).unwrap_or(0.0);
    let itl_limit_ns = LATE_NS.max(LATE_SHARE * itl_p50_ns);
    let (ttft_ns, itl_ns, streams) = (ttft.p99_ns as f64, itl.p99_ns as f64, *streams);
    let mut causes = Vec::new();
    if facts.is_behind() {
        let (left_out, requests) = (facts.left_out, facts.requests);
        causes.push(UntrustedCause::ClientBehind { left_out, requests, streams });
    }
    if ttft_ns > late_limit_ns {
        let (p99_ns, limit_ns) = (ttft_ns, late_limit_ns);
        causes.push(UntrustedCause::ClientTtftError { p99_ns, limit_ns, streams });
    }
    if itl_ns > itl_limit_ns {
        let (p99_ns, limit_ns) = (itl_ns, itl_limit_ns);
        causes.push(UntrustedCause::ClientItlError { p99_ns, limit_ns, streams });
    }
    causes
}
