//! The documented exit codes, and the one way an error reaches the terminal.

use std::process::ExitCode;

/// What the process tells its caller. Documented in README.md; scripts depend on the numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Code {
    Pass = 0,
    Internal = 1,
    Usage = 2,
    Target = 3,
    /// The run finished but its numbers must not be used: nothing succeeded, or the client was the bottleneck.
    Invalid = 4,
    SloFailed = 10,
    Interrupted = 130,
}

impl From<Code> for ExitCode {
    fn from(code: Code) -> ExitCode {
        ExitCode::from(code as u8)
    }
}

/// An error with the exit code it maps to.
#[derive(Debug)]
pub struct Failure {
    pub code: Code,
    pub error: miette::Report,
}

impl Failure {
    pub fn usage(error: impl Into<miette::Report>) -> Failure {
        Failure { code: Code::Usage, error: error.into() }
    }

    pub fn target(message: impl std::fmt::Display) -> Failure {
        Failure { code: Code::Target, error: miette::miette!("{message}") }
    }

    pub fn internal(message: impl std::fmt::Display) -> Failure {
        Failure { code: Code::Internal, error: miette::miette!("{message}") }
    }

    pub fn bad_input(message: impl std::fmt::Display) -> Failure {
        Failure { code: Code::Usage, error: miette::miette!("{message}") }
    }

    /// The same, of a target.
    pub fn of_target(self, name: &str) -> Failure {
        Failure { code: self.code, error: miette::miette!("target {name}: {}", self.error) }
    }

    /// The error and its causes on one line.
    pub fn words(&self) -> String {
        self.error.chain().map(ToString::to_string).collect::<Vec<_>>().join(": ")
    }

    /// The same, of what a file says.
    pub fn of_file(self, file: Option<&std::path::Path>) -> Failure {
        match file {
            Some(file) => Failure { error: miette::miette!("{}: {}", file.display(), self.error), ..self },
            None => self,
        }
    }

    pub fn report(self) -> ExitCode {
        eprintln!("{:?}", self.error);
        self.code.into()
    }
}

impl From<anyhow::Error> for Failure {
    fn from(error: anyhow::Error) -> Failure {
        Failure::internal(format!("{error:#}"))
    }
}
