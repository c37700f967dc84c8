//! A checkpoint in one `model.safetensors`, or in shards listed by `model.safetensors.index.json`: which files hold what.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Component, Path};

use serde::Deserialize;

use crate::error::ModelError;
use crate::files::{UniqueMap, parse_json, read_text};
use crate::spec::ModelSpec;
use crate::weights::layout::prefix;
use crate::weights::parts::Parts;
use crate::weights::safetensors_file::SafetensorsFile;

const SINGLE: &str = "model.safetensors";
const INDEX: &str = "model.safetensors.index.json";
const MAX_INDEX_BYTES: u64 = 64 << 20;
/// More open files than this meets the default limit of a process; the largest published checkpoints have under 200.
const MAX_SHARDS: usize = 768;

#[derive(Deserialize)]
struct Index {
    weight_map: UniqueMap<String>,
}

/// Opens the files of `folder` that hold tensors of `spec`'s modules. Tensors of other modules are ignored: older checkpoints
/// carry rotary tables.
pub fn open(folder: &Path, spec: &ModelSpec) -> Result<Parts, ModelError> {
    let single = folder.join(SINGLE);
    let index = folder.join(INDEX);
    // As transformers does: the single file wins where both exist.
    if single.exists() {
        let file = SafetensorsFile::open(&single)?;
        let place = file.names().into_iter().map(|name| (name, 0)).collect();
        return Ok(Parts { files: vec![file], place, list: single, absent: "is not in this file" });
    }
    if !index.exists() {
        let problem =
            format!("neither {SINGLE} nor {INDEX} is in this folder; accepted weights are safetensors");
        return Err(ModelError::Weights { path: folder.to_path_buf(), problem });
    }
    let json = read_text(&index, MAX_INDEX_BYTES)?;
    let map = parse_json::<Index>(json.as_bytes(), &index)?.weight_map.0;
    let tensors = spec.tensors();
    let modules: BTreeSet<&str> = tensors.iter().map(|tensor| prefix(&tensor.name)).collect();
    let mut files = Vec::new();
    let mut opened: BTreeMap<&str, usize> = BTreeMap::new();
    let mut place = BTreeMap::new();
    for (name, shard) in map.iter().filter(|(name, _)| modules.contains(prefix(name))) {
        let file = match opened.get(shard.as_str()) {
            Some(&file) => file,
            None => {
                check_shard_name(&index, shard)?;
                if files.len() == MAX_SHARDS {
                    let problem = format!("more than {MAX_SHARDS} shards");
                    return Err(ModelError::Key { path: index, key: "weight_map".into(), problem });
                }
                files.push(SafetensorsFile::open(&folder.join(shard))?);
                opened.insert(shard, files.len() - 1);
                files.len() - 1
            }
        };
        place.insert(name.clone(), file);
    }
    Ok(Parts { files, place, list: index, absent: "is not in weight_map" })
}

/// A shard is a file of the same folder. An index from the network must not make us open `../../etc/passwd`.
fn check_shard_name(index: &Path, shard: &str) -> Result<(), ModelError> {
    let mut parts = Path::new(shard).components();
    let plain =
        matches!((parts.next(), parts.next()), (Some(Component::Normal(name)), None) if name == shard);
    if plain && !shard.contains(['\\', '\0']) && shard.ends_with(".safetensors") {
        return Ok(());
    }
    let problem = format!("{:?} is not the name of a .safetensors file in this folder", shard);
    Err(ModelError::Key { path: index.to_path_buf(), key: "weight_map".into(), problem })
}
