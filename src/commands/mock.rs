//! `llmlab mock`: a server with known timing, and a run beside what it served.

use std::fmt::Write as _;
use std::fs::OpenOptions;
use std::io::{BufWriter, Write as _};
use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::sync::mpsc;
use std::thread::JoinHandle;

use llmlab_mock::{
    Accuracy, Certificate, Faults, Jitter, MockConfig, Served, Timing, affinity, compare, log,
};
use llmlab_results::calibration::Errors;

use crate::cli::MockArgs;
use crate::exit::{Code, Failure};
use crate::parent::shutdown;
use crate::text;

pub fn mock(args: MockArgs) -> Result<Code, Failure> {
    if let (Some(run), Some(log)) = (&args.check, &args.log) {
        return check(run, log);
    }
    let config = MockConfig {
        addr: SocketAddr::new(args.host, args.port),
        model: args.model,
        timing: Timing {
            ttft: args.ttft,
            itl: args.itl,
            ttft_jitter: args.ttft_jitter.unwrap_or(Jitter::None),
            itl_jitter: args.itl_jitter.unwrap_or(Jitter::None),
            stall: args.stall,
            tokens_per_event: args.tokens_per_event,
        },
        faults: Faults::new(args.faults).map_err(Failure::bad_input)?,
        seed: args.seed,
        spin: args.spin,
        tls: args.tls.as_deref().map(|file| certificate(args.host, file)).transpose()?,
    };
    let (served, writer) = match &args.log {
        Some(path) => log_to(path).map(|(served, writer)| (Some(served), Some(writer)))?,
        None => (None, None),
    };
    // After the log's thread was started: that one may go where there is room.
    if let Some(core) = args.core {
        affinity::stay_on(&[core]).map_err(|error| Failure::bad_input(format!("--core {core}: {error}")))?;
    }
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(Failure::internal)?;
    let addr = config.addr;
    let scheme = if config.tls.is_some() { "https" } else { "http" };
    let listening = move |addr| {
        println!("listening on {scheme}://{addr}");
        let _ = std::io::stdout().flush();
    };
    runtime
        .block_on(llmlab_mock::serve(config, served, listening, shutdown(args.exit_with_parent)))
        .map_err(|error| Failure::target(format!("{addr}: {error}")))?;
    // Requests under way end here, and their lines are written.
    drop(runtime);
    match writer.map(JoinHandle::join) {
        None | Some(Ok(Ok(()))) => Ok(Code::Pass),
        Some(Ok(Err(error))) => Err(Failure::internal(format!("the log could not be written: {error}"))),
        Some(Err(_)) => Err(Failure::internal("the log's thread panicked")),
    }
}

/// Made now, and written where a client finds it.
fn certificate(host: IpAddr, file: &Path) -> Result<Certificate, Failure> {
    let made = Certificate::make(host).map_err(Failure::internal)?;
    OpenOptions::new()
        .write(true)
        .create_new(true)
        .open(file)
        .and_then(|mut out| out.write_all(made.pem().as_bytes()))
        .map_err(|error| Failure::bad_input(format!("--tls {}: {error}", file.display())))?;
    Ok(made)
}

type LogThread = JoinHandle<std::io::Result<()>>;

fn log_to(path: &Path) -> Result<(mpsc::Sender<Served>, LogThread), Failure> {
    let file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .open(path)
        .map_err(|error| Failure::bad_input(format!("--log {}: {error}", path.display())))?;
    let (send, receive) = mpsc::channel();
    let writer = std::thread::Builder::new()
        .name("mock-log".into())
        .spawn(move || log::write(BufWriter::new(file), &receive))
        .map_err(Failure::internal)?;
    Ok((send, writer))
}

fn check(run: &Path, log: &Path) -> Result<Code, Failure> {
    let (_, trials) = llmlab_results::read_run(run).map_err(Failure::bad_input)?;
    let log = read_log(log)?;
    let rows: Vec<(String, Accuracy)> = trials
        .iter()
        .map(|trial| (trial.facts.dir.clone(), compare(trial.facts.start_monotonic_ns, &trial.records, &log)))
        .collect();
    if rows.iter().all(|(_, accuracy)| accuracy.compared == 0) {
        return Err(Failure::bad_input(
            "no request of the run is in the log; was it this mock that the run was driven against?",
        ));
    }
    text::print(&table("trial", &rows))
}

pub(super) fn read_log(path: &Path) -> Result<Vec<Served>, Failure> {
    let text = std::fs::read_to_string(path).map_err(|error| error.to_string());
    text.and_then(|text| log::read(&text))
        .map_err(|error| Failure::bad_input(format!("{}: {error}", path.display())))
}

/// One row per run or load, milliseconds.
pub(super) fn table(of: &str, rows: &[(String, Accuracy)]) -> String {
    let width = rows.iter().map(|(name, _)| name.len()).max().unwrap_or(0).max(of.len());
    let figures = ["sent late", "TTFT error", "ITL error", "mock late"];
    let mut out = format!("{:width$}  {:>8}  {:>8}", "", "", "");
    figures.iter().for_each(|figure| out.push_str(&format!("  {figure:^23}")));
    out.push_str(&format!("\n{of:width$}  {:>8}  {:>8}", "requests", "left out"));
    figures.iter().for_each(|_| out.push_str(&format!("  {:>7} {:>7} {:>7}", "p50", "p99", "max")));
    for (name, accuracy) in rows {
        let _ = write!(out, "\n{name:width$}  {:>8}  {:>8}", accuracy.compared, accuracy.left_out);
        for errors in [accuracy.send_lag, accuracy.ttft, accuracy.itl, accuracy.served_late] {
            let Errors { p50_ns, p99_ns, max_ns, .. } = errors;
            let [p50, p99, max] = [p50_ns, p99_ns, max_ns].map(|ns| ns as f64 / 1e6);
            let _ = write!(out, "  {p50:>7.3} {p99:>7.3} {max:>7.3}");
        }
    }
    out.push_str("\n(milliseconds)\n");
    out
}
