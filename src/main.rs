//! `llmlab`: measures an LLM server, explains the number, and compares. This package is the composition root: the only
//! place where the crates of the workspace meet. Reading order: [`cli`], [`commands`], [`wire`].

mod adapters;
mod calibration;
mod catalogue;
mod cli;
mod command;
mod commands;
mod detect;
mod exit;
mod host;
mod interrupt;
mod journey;
mod leftovers;
mod live;
mod machine;
mod mock_words;
mod parent;
mod simulation;
mod speculation;
mod table;
mod target;
mod tethered;
mod text;
mod weights;
mod wire;

use clap::Parser;

fn main() -> std::process::ExitCode {
    let args = cli::Cli::parse();
    match catalogue::add(&args.catalogue.files).and_then(|()| commands::dispatch(args.command)) {
        Ok(code) => code.into(),
        Err(failure) => failure.report(),
    }
}
