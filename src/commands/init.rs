//! `llmlab init`: a commented scenario to start from.

use std::io::Write;

use crate::cli::InitArgs;
use crate::exit::{Code, Failure};

pub fn init(args: InitArgs) -> Result<Code, Failure> {
    let path = args.path.display();
    let mut options = std::fs::OpenOptions::new();
    options.write(true);
    if args.force {
        options.create(true).truncate(true)
    } else {
        options.create_new(true)
    };
    let mut file = options.open(&args.path).map_err(|error| match error.kind() {
        std::io::ErrorKind::AlreadyExists => {
            Failure::bad_input(format!("{path} exists already; name another file or pass --force"))
        }
        _ => Failure::bad_input(format!("cannot write {path}: {error}")),
    })?;
    file.write_all(llmlab_scenarios::template().as_bytes())
        .map_err(|error| Failure::bad_input(format!("cannot write {path}: {error}")))?;
    println!("wrote {path}\nnext: llmlab run {path} --explain");
    Ok(Code::Pass)
}
