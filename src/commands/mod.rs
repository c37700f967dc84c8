//! One file per verb.

mod autoscale;
mod bench_engine;
mod calibrate;
mod client_check;
mod deploy;
mod doctor;
mod explain;
mod fit;
mod hardware;
mod hdr_log;
mod init;
mod journey_client;
mod merge;
mod mock;
mod models;
mod plan;
mod replay;
mod report;
pub mod roofline;
mod run;
mod search_report;
mod serve;
mod simulate;
pub mod supervise;
mod sweep_report;
mod validate;

use clap::CommandFactory;

use crate::cli::{Cli, Command, SchemaOf};
use crate::exit::{Code, Failure};

pub fn dispatch(command: Command) -> Result<Code, Failure> {
    match command {
        Command::Run(args) => run::run(args, None),
        Command::Simulate(args) => simulate::simulate(args),
        Command::Plan(args) => plan::plan(*args),
        Command::Autoscale(args) => autoscale::autoscale(&args),
        Command::Serve(args) => serve::serve(args),
        Command::Supervise(args) => supervise::supervise(args),
        Command::JourneyClient => journey_client::journey_client(),
        Command::Mock(args) => mock::mock(args),
        Command::Replay(args) => replay::replay(args),
        Command::Hardware(command) => hardware::hardware(command),
        Command::Models(command) => models::models(command),
        Command::BenchEngine(args) => bench_engine::bench_engine(args),
        Command::Report(args) => report::report(args),
        Command::Deploy(command) => deploy::deploy(command),
        Command::Merge(args) => merge::run(args),
        Command::Calibrate(args) => calibrate::calibrate(args),
        Command::Doctor(args) => doctor::doctor(args),
        Command::Fit(args) => fit::fit(args),
        Command::Validate(args) => validate::validate(args),
        Command::Roofline(args) => roofline::roofline(args),
        Command::Init(args) => init::init(args),
        Command::Schema { of } => {
            let text = match of {
                SchemaOf::Scenario => llmlab_scenarios::json_schema(),
                SchemaOf::Plan => llmlab_scenarios::plan_schema(),
            };
            print!("{text}");
            Ok(Code::Pass)
        }
        Command::Completions { shell } => {
            clap_complete::generate(shell, &mut Cli::command(), "llmlab", &mut std::io::stdout());
            Ok(Code::Pass)
        }
    }
}
