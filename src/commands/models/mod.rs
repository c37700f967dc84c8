//! `llmlab models`: look into a model.

mod inspect;

use crate::cli::ModelsCommand;
use crate::exit::{Code, Failure};

pub fn models(command: ModelsCommand) -> Result<Code, Failure> {
    match command {
        ModelsCommand::Inspect(args) => inspect::inspect(args),
    }
}
