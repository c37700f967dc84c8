use std::io;
use std::path::{Path, PathBuf};

/// Everything that can go wrong between memory and disk. A damaged journal line is not an error but a warning of
/// [`crate::TrialFiles`]: the rest of the run is still worth reading.
#[derive(Debug, thiserror::Error)]
pub enum ResultsError {
    /// Disk full, permission denied, no such directory, ...
    #[error("cannot {action} {}: {source}{}", path.display(), hint(source))]
    Io { action: &'static str, path: PathBuf, source: io::Error },
    #[error("{} is being written by another llmlab process", path.display())]
    Locked { path: PathBuf },
    #[error(
        "{} has schema version {found}, this llmlab reads up to {supported}; use the llmlab that wrote it or a newer one",
        path.display()
    )]
    NewerSchema { path: PathBuf, found: u64, supported: u32 },
    #[error("{} is not a run manifest: {message}", path.display())]
    BadManifest { path: PathBuf, message: String },
    #[error("trial directory name {name:?} must be one plain path component")]
    BadTrialName { name: String },
    #[error("cannot write {}: {source}", path.display())]
    Parquet { path: PathBuf, source: ::parquet::errors::ParquetError },
    #[error("cannot encode {what} as JSON: {source}")]
    Encode { what: &'static str, source: serde_json::Error },
}

impl ResultsError {
    pub(crate) fn io(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> ResultsError {
        let path = path.to_path_buf();
        move |source| ResultsError::Io { action, path, source }
    }
}

/// [`crate::record::RecordSink`] speaks `io::Error`; the kind is kept and the message keeps the path.
impl From<ResultsError> for io::Error {
    fn from(error: ResultsError) -> io::Error {
        let kind = match &error {
            ResultsError::Io { source, .. } => source.kind(),
            _ => io::ErrorKind::Other,
        };
        io::Error::new(kind, error)
    }
}

fn hint(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::StorageFull => " (free some space; what was recorded before is intact)",
        io::ErrorKind::PermissionDenied => " (choose another place with --results)",
        _ => "",
    }
}
