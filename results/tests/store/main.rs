//! Writing and reading stored runs through the public interface.

mod journal;
mod merge;
mod parquet;
mod run_dir;
mod sample;
mod sweep;
