//! A checkpoint in one `model.safetensors`, or in shards listed by `model.safetensors.index.json`.

use std::collections::BTreeMap;
use std::path::{Component, Path};

use llmlab_quant::WeightFormat;
use serde::Deserialize;

use crate::error::ModelError;
use crate::files::{UniqueMap, parse_json, read_text};
use crate::spec::ModelSpec;
use crate::weights::WeightSource;
use crate::weights::safetensors_file::SafetensorsFile;

const SINGLE: &str = "model.safetensors";
const INDEX: &str = "model.safetensors.index.json";
const MAX_INDEX_BYTES: u64 = 64 << 20;
/// More open files than this meets the default limit of a process; the largest published checkpoints have under 200.
const MAX_SHARDS: usize = 768;

/// The weights of a Hugging Face folder. All headers are checked when it is opened, values are read one tensor at a time.
pub struct SafetensorsWeights {
    files: Vec<SafetensorsFile>,
    /// Tensor name to the file that holds it; the model's own tensors only.
    place: BTreeMap<String, usize>,
}

#[derive(Deserialize)]
struct Index {
    weight_map: UniqueMap<String>,
}

impl SafetensorsWeights {
    /// Opens the checkpoint in `folder` and checks that each tensor of `spec` is there with its shape. Tensors the model
    /// does not have are ignored: older checkpoints carry rotary tables.
    pub fn open(folder: &Path, spec: &ModelSpec) -> Result<Self, ModelError> {
        let single = folder.join(SINGLE);
        let index = folder.join(INDEX);
        // As transformers does: the single file wins where both exist.
        if single.exists() {
            let file = SafetensorsFile::open(&single)?;
            let place = spec.tensors().into_iter().map(|tensor| (tensor.name, 0)).collect();
            return checked(vec![file], place, spec);
        }
        if !index.exists() {
            let problem =
                format!("neither {SINGLE} nor {INDEX} is in this folder; accepted weights are safetensors");
            return Err(ModelError::Weights { path: folder.to_path_buf(), problem });
        }
        let json = read_text(&index, MAX_INDEX_BYTES)?;
        let map = parse_json::<Index>(json.as_bytes(), &index)?.weight_map.0;
        let mut files = Vec::new();
        let mut opened: BTreeMap<&str, usize> = BTreeMap::new();
        let mut place = BTreeMap::new();
        for tensor in spec.tensors() {
            let Some(shard) = map.get(&tensor.name) else {
                let problem = "is not in weight_map".to_string();
                return Err(ModelError::Tensor { path: index, tensor: tensor.name, problem });
            };
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
            place.insert(tensor.name, file);
        }
        checked(files, place, spec)
    }
}

impl WeightSource for SafetensorsWeights {
    fn tensor(&self, name: &str) -> Result<Vec<f32>, ModelError> {
        self.file_of(name)?.read(name)
    }

    fn format(&self, name: &str) -> Result<WeightFormat, ModelError> {
        self.file_of(name)?.format(name)
    }
}

impl SafetensorsWeights {
    fn file_of(&self, name: &str) -> Result<&SafetensorsFile, ModelError> {
        let file =
            self.place.get(name).ok_or_else(|| ModelError::NoSuchTensor { tensor: name.to_string() })?;
        Ok(&self.files[*file])
    }
}

fn checked(
    files: Vec<SafetensorsFile>,
    place: BTreeMap<String, usize>,
    spec: &ModelSpec,
) -> Result<SafetensorsWeights, ModelError> {
    for tensor in spec.tensors() {
        files[place[&tensor.name]].check(&tensor.name, &tensor.shape)?;
    }
    Ok(SafetensorsWeights { files, place })
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
