//! A result appears under its name when it is complete, or not at all.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use crate::exit::Failure;

/// A path to write to, beside the one that was asked for. Dropped without [`Output::keep`] it is removed again.
#[derive(Debug)]
pub struct Output {
    wanted: PathBuf,
    partial: PathBuf,
    replace: bool,
    kept: bool,
}

impl Output {
    /// Checks that nothing of value is in the way. `force` replaces a file, or a folder that holds a model or nothing; any
    /// other folder is refused, because replacing it would delete what it holds.
    pub fn new(wanted: &Path, force: bool) -> Result<Output, Failure> {
        let shown = wanted.display();
        let Some(name) = wanted.file_name() else {
            return Err(Failure::bad_input(format!("{shown} is not a name for a file or folder")));
        };
        let found = std::fs::symlink_metadata(wanted).ok();
        if let Some(found) = &found {
            if !force {
                return Err(Failure::bad_input(format!(
                    "{shown} exists already; name another output or pass --force"
                )));
            }
            let is_gguf = is_gguf(wanted);
            if found.is_dir() && (is_gguf || !is_model_or_empty(wanted)) {
                return Err(Failure::bad_input(format!(
                    "{shown} is a folder of something else; it is not replaced"
                )));
            }
            if !found.is_dir() && !is_gguf {
                return Err(Failure::bad_input(format!(
                    "{shown} is a file, a model folder would go there; end the name in .gguf or choose another"
                )));
            }
        }
        let folder = wanted.parent().filter(|parent| !parent.as_os_str().is_empty());
        if let Some(folder) = folder
            && !folder.is_dir()
        {
            return Err(Failure::bad_input(format!("{} is not a folder", folder.display())));
        }
        let mut hidden = OsString::from(".");
        hidden.push(name);
        hidden.push(format!(".partial-{}", std::process::id()));
        Ok(Output {
            wanted: wanted.to_path_buf(),
            partial: wanted.with_file_name(hidden),
            replace: found.is_some(),
            kept: false,
        })
    }

    /// Where to write: on the same file system, so that the rename at the end cannot be half done.
    pub fn partial(&self) -> &Path {
        &self.partial
    }

    /// Gives the finished result its name.
    pub fn keep(mut self) -> Result<(), Failure> {
        let failed = |error: std::io::Error| {
            Failure::internal(format!("cannot rename the result to {}: {error}", self.wanted.display()))
        };
        // A file is replaced by the rename itself; a folder that is not empty must make way first.
        if self.replace && self.wanted.is_dir() {
            let mut old = self.partial.clone().into_os_string();
            old.push("-old");
            std::fs::rename(&self.wanted, &old).map_err(failed)?;
            if let Err(error) = std::fs::rename(&self.partial, &self.wanted) {
                let _ = std::fs::rename(&old, &self.wanted);
                return Err(failed(error));
            }
            // What is left over is the old model under a hidden name: untidy, not wrong.
            let _ = std::fs::remove_dir_all(&old);
        } else {
            std::fs::rename(&self.partial, &self.wanted).map_err(failed)?;
        }
        self.kept = true;
        Ok(())
    }
}

impl Drop for Output {
    fn drop(&mut self) {
        if !self.kept {
            if self.partial.is_dir() {
                let _ = std::fs::remove_dir_all(&self.partial);
            } else {
                let _ = std::fs::remove_file(&self.partial);
            }
        }
    }
}

/// Whether a path means a GGUF file.
pub fn is_gguf(path: &Path) -> bool {
    path.extension().is_some_and(|extension| extension.eq_ignore_ascii_case("gguf"))
}

fn is_model_or_empty(folder: &Path) -> bool {
    let empty = std::fs::read_dir(folder).is_ok_and(|mut entries| entries.next().is_none());
    empty || folder.join("config.json").is_file()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_appears_under_the_name_before_it_is_complete() {
        let dir = tempfile::tempdir().unwrap();
        let wanted = dir.path().join("m.gguf");
        let output = Output::new(&wanted, false).unwrap();
        std::fs::write(output.partial(), "half").unwrap();
        assert!(!wanted.exists());
        drop(output);
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0, "an abandoned result leaves nothing");

        let output = Output::new(&wanted, false).unwrap();
        std::fs::write(output.partial(), "whole").unwrap();
        output.keep().unwrap();
        assert_eq!(std::fs::read_to_string(&wanted).unwrap(), "whole");
        assert!(Output::new(&wanted, false).is_err());
        let output = Output::new(&wanted, true).unwrap();
        std::fs::write(output.partial(), "newer").unwrap();
        output.keep().unwrap();
        assert_eq!(std::fs::read_to_string(&wanted).unwrap(), "newer");
    }

    #[test]
    fn force_replaces_models_and_nothing_else() {
        let dir = tempfile::tempdir().unwrap();
        let home = dir.path().join("home");
        std::fs::create_dir(&home).unwrap();
        std::fs::write(home.join("thesis.tex"), "years").unwrap();
        assert!(Output::new(&home, true).is_err());

        let model = dir.path().join("model");
        std::fs::create_dir(&model).unwrap();
        std::fs::write(model.join("config.json"), "{}").unwrap();
        std::fs::write(model.join("stale.safetensors"), "old").unwrap();
        assert!(Output::new(&model, false).is_err());
        let output = Output::new(&model, true).unwrap();
        std::fs::create_dir(output.partial()).unwrap();
        std::fs::write(output.partial().join("config.json"), "new").unwrap();
        output.keep().unwrap();
        assert!(!model.join("stale.safetensors").exists());
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 2, "home and model, nothing hidden");
        assert!(Output::new(&dir.path().join("absent/m.gguf"), false).is_err());
    }
}
