//! Where a user's own catalogue is: `$XDG_CONFIG_HOME/llmlab/catalogue`, `./llmlab-catalogue`, and what `--catalogue` names.

use std::path::PathBuf;

use llmlab_models::catalogue;

use crate::exit::Failure;

const IN_FOLDER: &str = "llmlab-catalogue";

/// Puts the user's files over the built-in tables; the more particular place wins.
pub fn add(named: &[PathBuf]) -> Result<(), Failure> {
    let mut places: Vec<PathBuf> = config_folder()
        .into_iter()
        .chain([PathBuf::from(IN_FOLDER)])
        .filter(|place| place.is_dir())
        .collect();
    places.extend_from_slice(named);
    if places.is_empty() {
        return Ok(());
    }
    catalogue::add_files(&places).map_err(|error| Failure::bad_input(format!("catalogue: {error}")))
}

fn config_folder() -> Option<PathBuf> {
    let named = std::env::var_os("XDG_CONFIG_HOME").map(PathBuf::from).filter(|path| path.is_absolute());
    let base = named.or_else(|| Some(PathBuf::from(std::env::var_os("HOME")?).join(".config")))?;
    Some(base.join("llmlab").join("catalogue"))
}
