//! Every request in flight needs a socket. Running out in the middle makes a trial worthless, so look before.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use crate::driver::DriveError;
use crate::workload::{Mode, Workload};

/// Files a process has open besides our sockets: results, runtime, terminal, libraries.
const OTHERS: u64 = 128;

/// Raises the soft limit as far as the workload may need. A closed loop that cannot fit is refused; an open loop goes
/// on with what there is, because how many of its requests overlap is up to the server.
pub(crate) fn prepare(workload: &Workload) -> Result<(), DriveError> {
    let requests = workload.requests.len() as u64;
    let (sockets, certain) = match workload.mode {
        Mode::Open => (requests, false),
        // Twice: a connection may still be draining when its user opens the next.
        Mode::Closed { users, .. } => (requests.min(2 * u64::from(users)), true),
    };
    raise(sockets, certain)
}

/// The same for users whose requests are another client's.
pub fn prepare_users(users: u32) -> Result<(), DriveError> {
    raise(2 * u64::from(users), true)
}

fn raise(sockets: u64, certain: bool) -> Result<(), DriveError> {
    let limit = getrlimit(Resource::Nofile);
    let (raise_to, refuse) = decide(sockets + OTHERS, limit.current, limit.maximum);
    if let Some(soft) = raise_to {
        // A refusal here is no news yet: requests that get no socket say so in their records.
        let _ = setrlimit(Resource::Nofile, Rlimit { current: Some(soft), maximum: limit.maximum });
    }
    if certain && refuse {
        return Err(DriveError::FdLimit {
            needed: sockets + OTHERS,
            hard: limit.maximum.unwrap_or(u64::MAX),
        });
    }
    Ok(())
}

/// (new soft limit if it should change, whether even the hard limit is too low). `None` limits are unlimited.
fn decide(needed: u64, soft: Option<u64>, hard: Option<u64>) -> (Option<u64>, bool) {
    let Some(soft) = soft else { return (None, false) };
    if soft >= needed {
        return (None, false);
    }
    let reachable = hard.map_or(needed, |hard| needed.min(hard));
    ((reachable > soft).then_some(reachable), reachable < needed)
}

#[cfg(test)]
mod tests {
    use super::decide;

    #[test]
    fn raises_only_as_far_as_needed_and_allowed() {
        assert_eq!(decide(100, None, None), (None, false));
        assert_eq!(decide(100, Some(100), Some(100)), (None, false));
        assert_eq!(decide(500, Some(100), Some(1000)), (Some(500), false));
        assert_eq!(decide(500, Some(100), None), (Some(500), false));
        assert_eq!(decide(5000, Some(100), Some(1000)), (Some(1000), true));
        assert_eq!(decide(5000, Some(1000), Some(1000)), (None, true));
    }
}
