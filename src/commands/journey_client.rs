//! `llmlab journey-client`: the process that a journey's users live in.

use std::fs::File;
use std::io::BufReader;

use crate::exit::{Code, Failure};

/// Events go to what was standard output; that itself becomes standard error, because goose prints.
pub fn journey_client() -> Result<Code, Failure> {
    let events = rustix::io::dup(rustix::stdio::stdout()).map_err(Failure::internal)?;
    rustix::stdio::dup2_stdout(rustix::stdio::stderr()).map_err(Failure::internal)?;
    llmlab_journeys::client::run(BufReader::new(std::io::stdin()), File::from(events))
        .map_err(Failure::bad_input)?;
    Ok(Code::Pass)
}
