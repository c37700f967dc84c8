//! What to ask. A scenario file becomes a validated [`spec::RunSpec`]; every mistake in the file becomes one error
//! with file, line, caret and the accepted values.

pub mod spec;
