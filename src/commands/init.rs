//! `llmlab init`: a commented scenario to start from.

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::path::Path;

use crate::cli::InitArgs;
use crate::exit::{Code, Failure};

pub fn init(args: InitArgs) -> Result<Code, Failure> {
    let path = args.path.display();
    let mut file = new_file(&args.path, args.force)?;
    file.write_all(llmlab_scenarios::template().as_bytes())
        .map_err(|error| Failure::bad_input(format!("cannot write {path}: {error}")))?;
    println!("wrote {path}\nnext: llmlab run {path} --explain");
    Ok(Code::Pass)
}

/// A file to write a scenario into; with `force` one that exists is emptied.
pub fn new_file(path: &Path, force: bool) -> Result<File, Failure> {
    let mut options = OpenOptions::new();
    options.write(true);
    if force {
        options.create(true).truncate(true)
    } else {
        options.create_new(true)
    };
    let shown = path.display();
    options.open(path).map_err(|error| match error.kind() {
        std::io::ErrorKind::AlreadyExists => {
            Failure::bad_input(format!("{shown} exists already; name another file or pass --force"))
        }
        _ => Failure::bad_input(format!("cannot write {shown}: {error}")),
    })
}
