//! `llmlab simulate`: a scenario in virtual time. The same as `llmlab run` with every engine simulated.

use crate::cli::SimulateArgs;
use crate::commands::run::{self, SimulateOn};
use crate::exit::{Code, Failure};

pub fn simulate(args: SimulateArgs) -> Result<Code, Failure> {
    run::run(args.run, Some(SimulateOn { hardware: args.hardware }))
}
