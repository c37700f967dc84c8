//! `llmlab models`: look into a model, rewrite it in another format, make one from a seed, measure how well it predicts a text;
//! the published ones, and the memory they take.

mod catalogue;
mod inspect;
mod memory;
mod output;
mod perplexity;
mod progress;
mod write;

use crate::cli::ModelsCommand;
use crate::exit::{Code, Failure};

pub fn models(command: ModelsCommand) -> Result<Code, Failure> {
    match command {
        ModelsCommand::List(args) => catalogue::list(&args),
        ModelsCommand::Show(args) => catalogue::show(&args),
        ModelsCommand::Memory(args) => memory::memory(&args),
        ModelsCommand::Inspect(args) => inspect::inspect(args),
        ModelsCommand::Convert(args) => write::convert(args),
        ModelsCommand::Synth(args) => write::synth(args),
        ModelsCommand::Perplexity(args) => perplexity::perplexity(args),
    }
}
