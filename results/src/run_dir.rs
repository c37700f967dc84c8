//! The directory of one run: its name, its lock and its manifest.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use serde::Serialize;
use time::OffsetDateTime;
use time::macros::format_description;

use crate::error::ResultsError;
use crate::manifest::{Manifest, TrialFacts};
use crate::search::SEARCH_FILE;
use crate::sweep::SWEEP_FILE;
use crate::trial::TrialWriter;

pub const MANIFEST_FILE: &str = "manifest.json";
const LOCK_FILE: &str = "lock";
const MAX_NAME_LEN: usize = 60;
/// Length of `yyyymmdd-hhmmss`.
const STAMP_LEN: usize = 15;

/// A run directory that this process may write. The lock is an advisory file lock, so the kernel releases it when the
/// process dies, however it dies.
#[derive(Debug)]
pub struct RunDir {
    path: PathBuf,
    _lock: File,
}

impl RunDir {
    /// Creates `<root>/<UTC yyyymmdd-hhmmss>-<name>`, with `-2`, `-3`, ... appended when that is taken.
    pub fn create(root: &Path, name: &str, now: OffsetDateTime) -> Result<RunDir, ResultsError> {
        fs::create_dir_all(root).map_err(ResultsError::io("create", root))?;
        let base = format!("{}-{}", utc_stamp(now), sanitise(name));
        for attempt in 1u32.. {
            let dir = if attempt == 1 { base.clone() } else { format!("{base}-{attempt}") };
            let path = root.join(dir);
            // create_dir is atomic, so two processes never both think the name was free.
            match fs::create_dir(&path) {
                Ok(()) => return RunDir::open(&path),
                Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {}
                Err(e) => return Err(ResultsError::io("create", &path)(e)),
            }
        }
        unreachable!("u32::MAX runs of one name in one second")
    }

    /// Opens an existing directory for writing. [`crate::read_run`] needs no lock and is not kept out by one.
    pub fn open(path: &Path) -> Result<RunDir, ResultsError> {
        let lock_path = path.join(LOCK_FILE);
        let lock = OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .open(&lock_path)
            .map_err(ResultsError::io("create", &lock_path))?;
        match lock.try_lock() {
            Ok(()) => Ok(RunDir { path: path.to_path_buf(), _lock: lock }),
            Err(TryLockError::WouldBlock) => Err(ResultsError::Locked { path: path.to_path_buf() }),
            Err(TryLockError::Error(e)) => Err(ResultsError::io("lock", &lock_path)(e)),
        }
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Replaces the manifest. A reader, or a crash at any moment, sees the old one or the new one, never a mixture.
    pub fn write_manifest(&self, manifest: &Manifest) -> Result<(), ResultsError> {
        write_json(&self.path.join(MANIFEST_FILE), manifest, "the manifest")
    }

    /// Creates the trial's directory (named `facts.dir`) and its files.
    pub fn start_trial(&self, facts: &TrialFacts) -> Result<TrialWriter, ResultsError> {
        TrialWriter::create(&self.path, facts)
    }
}

/// The newest run, sweep or search under `root`: by the time in its name, then by when its manifest was last written. `None` when
/// there is none, or no `root`.
pub fn latest_run(root: &Path) -> Result<Option<PathBuf>, ResultsError> {
    let entries = match fs::read_dir(root) {
        Ok(entries) => entries,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(ResultsError::io("list", root)(e)),
    };
    let mut newest = None;
    for entry in entries {
        let entry = entry.map_err(ResultsError::io("list", root))?;
        let name = entry.file_name().to_string_lossy().into_owned();
        let Some(stamp) = stamp_of(&name) else { continue };
        let found =
            [MANIFEST_FILE, SWEEP_FILE, SEARCH_FILE].map(|file| fs::metadata(entry.path().join(file)));
        let Some(manifest) = found.into_iter().find_map(Result::ok) else { continue };
        let rank = (stamp.to_owned(), manifest.modified().ok(), name);
        if newest.as_ref().is_none_or(|(best, _)| rank > *best) {
            newest = Some((rank, entry.path()));
        }
    }
    Ok(newest.map(|(_, path)| path))
}

/// Serialises, writes beside the destination, flushes, renames over it and flushes the directory.
pub(crate) fn write_json<T: Serialize>(
    path: &Path,
    value: &T,
    what: &'static str,
) -> Result<(), ResultsError> {
    let mut json =
        serde_json::to_vec_pretty(value).map_err(|source| ResultsError::Encode { what, source })?;
    json.push(b'\n');
    replace_file(path, |file| file.write_all(&json).map_err(ResultsError::io("write", path)))
}

pub(crate) fn replace_file(
    path: &Path,
    write: impl FnOnce(&mut File) -> Result<(), ResultsError>,
) -> Result<(), ResultsError> {
    let mut temporary = path.as_os_str().to_owned();
    temporary.push(".tmp");
    let temporary = PathBuf::from(temporary);
    let result =
        File::create(&temporary).map_err(ResultsError::io("create", &temporary)).and_then(|mut file| {
            write(&mut file)?;
            file.sync_all().map_err(ResultsError::io("flush", &temporary))?;
            fs::rename(&temporary, path).map_err(ResultsError::io("replace", path))
        });
    if result.is_err() {
        // A half-written file must not be left to fill a full disk further; the error that matters is the first one.
        let _ = fs::remove_file(&temporary);
        return result;
    }
    sync_dir(path.parent().unwrap_or(Path::new(".")))
}

pub(crate) fn sync_dir(path: &Path) -> Result<(), ResultsError> {
    File::open(path).and_then(|dir| dir.sync_all()).map_err(ResultsError::io("flush", path))
}

fn utc_stamp(now: OffsetDateTime) -> String {
    let now = now.to_offset(time::UtcOffset::UTC);
    now.format(format_description!("[year][month][day]-[hour][minute][second]"))
        .expect("a UTC time has every component of this format")
}

/// The time part of a run directory's name, if it is one.
fn stamp_of(name: &str) -> Option<&str> {
    let (stamp, rest) = name.split_at_checked(STAMP_LEN)?;
    let digits = stamp.bytes().enumerate().all(|(i, b)| if i == 8 { b == b'-' } else { b.is_ascii_digit() });
    (digits && rest.starts_with('-')).then_some(stamp)
}

/// Keeps what is harmless in a path and in a shell; everything else becomes one hyphen.
fn sanitise(name: &str) -> String {
    let mut clean = String::new();
    for c in name.chars() {
        if c.is_ascii_alphanumeric() || c == '_' || c == '.' {
            clean.push(c);
        } else if !clean.ends_with('-') {
            clean.push('-');
        }
    }
    clean.truncate(MAX_NAME_LEN);
    let clean = clean.trim_matches(['-', '.']);
    if clean.is_empty() { "run".to_owned() } else { clean.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_made_harmless() {
        for (typed, kept) in [
            ("vllm-vs-tgi", "vllm-vs-tgi"),
            ("../../etc/passwd", "etc-passwd"),
            ("a b/c\0d\n", "a-b-c-d"),
            ("naïve 日本", "na-ve"),
            ("", "run"),
            ("...", "run"),
        ] {
            assert_eq!(sanitise(typed), kept, "{typed:?}");
        }
        assert_eq!(sanitise(&"x".repeat(500)).len(), MAX_NAME_LEN);
    }

    #[test]
    fn only_stamped_directories_are_runs() {
        assert_eq!(stamp_of("20261121-101500-quickstart"), Some("20261121-101500"));
        assert_eq!(stamp_of("20261121-101500"), None);
        assert_eq!(stamp_of("notes-from-monday-x"), None);
        assert_eq!(stamp_of("日本日本日本日本"), None);
    }
}
