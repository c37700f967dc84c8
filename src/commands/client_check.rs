//! The load generator against `llmlab mock` in a process of its own: how far off are its records?

use std::time::Duration;

use llmlab_loadgen::{DriveFacts, DriveOptions, Endpoint, Protocol, Silent, Timeouts, Workload, drive_with};
use llmlab_mock::{Accuracy, affinity, compare};
use llmlab_results::record::RequestRecord;
use tokio_util::sync::CancellationToken;

use super::mock::read_log;
use crate::exit::Failure;
use crate::leftovers::Folder;
use crate::target::{EngineProcess, own_command};

/// What is driven, against which timing, and where.
#[derive(Debug, Clone, Copy)]
pub struct Load<'a> {
    pub workload: &'a Workload,
    /// One that the mock speaks.
    pub protocol: Protocol,
    /// With a certificate that the mock makes.
    pub tls: bool,
    pub ttft: Duration,
    pub itl: Duration,
    /// `None`: wherever the system puts it.
    pub mock_core: Option<usize>,
    pub client_cores: Option<&'a [usize]>,
    /// After it nothing more is sent.
    pub time_limit: Option<Duration>,
}

#[derive(Debug, Clone)]
pub struct Checked {
    pub driven: DriveFacts,
    pub accuracy: Accuracy,
}

/// Starts a mock, drives the load, stops the mock and compares. On `cancel` all in flight is dropped.
pub fn check(load: &Load<'_>, cancel: &CancellationToken) -> Result<Checked, Failure> {
    let folder = Folder::create()?;
    let log = folder.path().join("served.jsonl");
    let mut command = own_command()?;
    command
        .args(["mock", "--port", "0", "--exit-with-parent"])
        .args(["--ttft", &format!("{}ns", load.ttft.as_nanos())])
        .args(["--itl", &format!("{}ns", load.itl.as_nanos())])
        .arg("--log")
        .arg(&log);
    let ca_file = load.tls.then(|| folder.path().join("ca.pem"));
    if let Some(file) = &ca_file {
        command.arg("--tls").arg(file);
    }
    command.args(load.mock_core.map(|core| format!("--core={core}")));
    let EngineProcess { process, url } = EngineProcess::spawn(command, folder.path())?;
    let endpoint = Endpoint {
        base_url: url,
        protocol: load.protocol,
        model: "mock".into(),
        api_key: None,
        ca_file,
        timeouts: Timeouts::default(),
    };
    let (driven, records) = drive(load, &endpoint, cancel)?;
    process.stop()?;
    let accuracy = compare(driven.start_monotonic_ns, &records, &read_log(&log)?);
    Ok(Checked { driven, accuracy })
}

/// From a thread of its own where cores were chosen: it stays on them, as do the threads it starts.
fn drive(
    load: &Load<'_>,
    endpoint: &Endpoint,
    cancel: &CancellationToken,
) -> Result<(DriveFacts, Vec<RequestRecord>), Failure> {
    let driving = || {
        let mut records = Vec::new();
        let options =
            DriveOptions { drain: Duration::ZERO, time_limit: load.time_limit, ..DriveOptions::default() };
        let driven = drive_with(endpoint, load.workload, options, &mut records, &Silent, cancel)
            .map_err(Failure::target)?;
        Ok((driven, records))
    };
    let Some(cores) = load.client_cores else { return driving() };
    std::thread::scope(|scope| {
        let pinned = scope.spawn(|| {
            affinity::stay_on(cores).map_err(Failure::internal)?;
            driving()
        });
        pinned.join().unwrap_or_else(|_| Err(Failure::internal("the client panicked")))
    })
}
