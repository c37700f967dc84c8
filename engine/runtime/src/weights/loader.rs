//! Reads a model's tensors one by one and packs them, so that memory peaks little above the packed size.

use llmlab_kernels::{Isa, KernelError, PackedMatrix, ThreadPool};
use llmlab_models::spec::names::{EMBEDDING, FINAL_NORM, LM_HEAD};
use llmlab_models::spec::{FeedForward as FeedForwardNames, LayerNames, Linear, MlpNames, MoeNames};
use llmlab_models::{ModelSpec, TensorRole, WeightSource};
use llmlab_quant::{Grouped, MatrixRole, StoredMatrix, TensorPlace, WeightFormat, WeightRecipe};

use super::projection::Part;
use super::{AttentionWeights, DecoderWeights, Experts, FeedForward, LayerWeights, Mlp, Projection};
use crate::config::RuntimeError;

/// Where the weights come from and what becomes of them.
pub(crate) struct Loader<'a> {
    pub spec: &'a ModelSpec,
    pub source: &'a dyn WeightSource,
    pub recipe: WeightRecipe,
    pub isa: Isa,
    pub pool: &'a ThreadPool,
}

impl Loader<'_> {
    /// At most one matrix exists in another form beside the packed ones.
    pub fn load(&self) -> Result<DecoderWeights, RuntimeError> {
        let spec = self.spec;
        let embedding_role =
            if spec.tie_word_embeddings { MatrixRole::TiedEmbedding } else { MatrixRole::Embedding };
        let embedding = self.outside(EMBEDDING, embedding_role)?;
        if embedding.columns.is_some() {
            return self.unsupported(format!("{EMBEDDING} has its columns in another order"));
        }
        let layers = (0..spec.num_layers).map(|layer| self.layer(layer)).collect::<Result<_, _>>()?;
        let final_norm = self.norm(FINAL_NORM, spec.hidden_size as usize)?;
        let untied_head = if spec.tie_word_embeddings {
            None
        } else {
            Some(Projection::new(vec![self.outside(LM_HEAD, MatrixRole::Output)?], None))
        };
        Ok(DecoderWeights {
            embedding: Projection::new(vec![embedding], None),
            layers,
            final_norm,
            untied_head,
        })
    }

    fn layer(&self, layer: u32) -> Result<LayerWeights, RuntimeError> {
        let names: LayerNames = self.spec.names(layer);
        let (hidden, head_dim) = (self.spec.hidden_size as usize, self.spec.head_dim as usize);
        let optional =
            |name: &Option<String>, len| name.as_ref().map(|name| self.norm(name, len)).transpose();
        let after_attention = self.norm(&names.post_attention_norm, hidden)?;
        // With sandwich norms the name says where the norm stands: after attention, before the residual sum.
        let (output_norm, feed_forward_norm) = match optional(&names.pre_feedforward_norm, hidden)? {
            Some(before_feed_forward) => (Some(after_attention), before_feed_forward),
            None => (None, after_attention),
        };
        Ok(LayerWeights {
            attention: AttentionWeights {
                input_norm: self.norm(&names.input_norm, hidden)?,
                qkv: self.projection(&names.qkv, layer)?,
                q_norm: optional(&names.q_norm, head_dim)?,
                k_norm: optional(&names.k_norm, head_dim)?,
                o: self.projection(std::slice::from_ref(&names.o), layer)?,
                output_norm,
            },
            feed_forward_norm,
            feed_forward: match &names.feed_forward {
                FeedForwardNames::Dense(mlp) => FeedForward::Dense(self.mlp(mlp, layer)?),
                FeedForwardNames::Experts(moe) => FeedForward::Experts(self.experts(moe, layer)?),
            },
            feed_forward_output_norm: optional(&names.post_feedforward_norm, hidden)?,
        })
    }

    fn mlp(&self, names: &MlpNames, layer: u32) -> Result<Mlp, RuntimeError> {
        Ok(Mlp {
            gate_up: self.projection(&names.gate_up, layer)?,
            down: self.projection(std::slice::from_ref(&names.down), layer)?,
        })
    }

    fn experts(&self, names: &MoeNames, layer: u32) -> Result<Experts, RuntimeError> {
        let shared_gate = names.shared.as_ref().map(|(_, gate)| gate);
        let routers: Vec<&Linear> = [&names.router].into_iter().chain(shared_gate).collect();
        let parts = routers.into_iter().map(|router| self.floats(router)).collect::<Result<_, _>>()?;
        Ok(Experts {
            router: Projection::new(parts, None),
            experts: names.experts.iter().map(|names| self.mlp(names, layer)).collect::<Result<_, _>>()?,
            shared: names.shared.as_ref().map(|(names, _)| self.mlp(names, layer)).transpose()?,
        })
    }

    /// The matrices side by side, with their biases.
    pub fn projection(&self, linears: &[Linear], layer: u32) -> Result<Projection, RuntimeError> {
        let parts = linears.iter().map(|linear| self.part(linear, layer)).collect::<Result<_, _>>()?;
        let mut bias = Vec::new();
        for linear in linears {
            if let Some(name) = &linear.bias {
                bias.extend(self.vector(name, linear.rows as usize)?);
            }
        }
        Ok(Projection::new(parts, (!bias.is_empty()).then_some(bias)))
    }

    /// A matrix of a layer.
    pub fn part(&self, linear: &Linear, layer: u32) -> Result<Part, RuntimeError> {
        let role = match linear.role {
            TensorRole::Query => MatrixRole::Query,
            TensorRole::Key => MatrixRole::Key,
            TensorRole::Value => MatrixRole::Value,
            TensorRole::Qkv => MatrixRole::Qkv,
            TensorRole::AttentionOutput => MatrixRole::AttentionOutput,
            TensorRole::Gate => MatrixRole::Gate,
            TensorRole::Up => MatrixRole::Up,
            TensorRole::GateUp => MatrixRole::GateUp,
            TensorRole::Down => MatrixRole::Down,
            other => panic!("{}: {other:?} is no matrix of a layer's products", linear.weight),
        };
        self.packed(&linear.weight, linear.rows as usize, linear.cols as usize, role, layer)
    }

    /// A table outside the layers: [vocab, hidden].
    pub fn outside(&self, name: &str, role: MatrixRole) -> Result<Part, RuntimeError> {
        self.packed(name, self.spec.vocab_size as usize, self.spec.hidden_size as usize, role, 0)
    }

    /// A matrix kept in f32 whatever the recipe says.
    fn floats(&self, linear: &Linear) -> Result<Part, RuntimeError> {
        let (rows, cols) = (linear.rows as usize, linear.cols as usize);
        let values = self.vector(&linear.weight, rows * cols)?;
        let matrix = PackedMatrix::pack_parallel(self.pool, WeightFormat::F32, rows, cols, &values, self.isa);
        Ok(Part { matrix: named(&linear.weight, matrix)?, columns: None })
    }

    fn packed(
        &self,
        name: &str,
        rows: usize,
        cols: usize,
        role: MatrixRole,
        layer: u32,
    ) -> Result<Part, RuntimeError> {
        let place = TensorPlace {
            role,
            layer: layer as usize,
            layers: self.spec.num_layers as usize,
            cols,
            gqa: (self.spec.num_heads / self.spec.num_kv_heads) as usize,
            experts: self.spec.moe.as_ref().map_or(0, |moe| moe.experts as usize),
        };
        let stored_format = self.source.format(name)?;
        let wanted = self.recipe.format(&place).unwrap_or(stored_format);
        if wanted == stored_format {
            return self.as_stored(name, rows, cols);
        }
        let values = self.vector(name, rows * cols)?;
        let matrix = PackedMatrix::pack_parallel(self.pool, wanted, rows, cols, &values, self.isa);
        Ok(Part { matrix: named(name, matrix)?, columns: None })
    }

    /// The checkpoint's own numbers, none of them rounded again.
    fn as_stored(&self, name: &str, rows: usize, cols: usize) -> Result<Part, RuntimeError> {
        let mut stored = self.source.stored(name)?;
        let columns = match &mut stored {
            StoredMatrix::Grouped(grouped) => self.gather_groups(name, grouped)?,
            _ => None,
        };
        let matrix = PackedMatrix::from_stored(self.pool, rows, cols, &stored, self.isa);
        Ok(Part { matrix: named(name, matrix)?, columns })
    }

    /// Moves the columns of each group together and returns where each came from.
    fn gather_groups(&self, name: &str, grouped: &mut Grouped) -> Result<Option<Vec<u32>>, RuntimeError> {
        let Some(group_of) = grouped.group_of.take() else { return Ok(None) };
        let cols = group_of.len();
        let mut columns: Vec<u32> = (0..cols as u32).collect();
        columns.sort_by_key(|column| group_of[*column as usize]);
        let whole_groups = columns
            .iter()
            .enumerate()
            .all(|(place, column)| group_of[*column as usize] as usize == place / grouped.group);
        if !whole_groups {
            return self.unsupported(format!("{name}: groups of columns are not all {} long", grouped.group));
        }
        let mut row = vec![0; cols];
        for values in grouped.q.chunks_exact_mut(cols) {
            columns.iter().zip(&mut row).for_each(|(column, to)| *to = values[*column as usize]);
            values.copy_from_slice(&row);
        }
        Ok(Some(columns))
    }

    /// The weight of a norm, as it multiplies.
    pub fn norm(&self, name: &str, len: usize) -> Result<Vec<f32>, RuntimeError> {
        let mut weight = self.vector(name, len)?;
        if self.spec.norm_plus_one {
            weight.iter_mut().for_each(|value| *value += 1.0);
        }
        Ok(weight)
    }

    fn vector(&self, name: &str, expected: usize) -> Result<Vec<f32>, RuntimeError> {
        let values = self.source.tensor(name)?;
        if values.len() != expected {
            return Err(RuntimeError::TensorSize { tensor: name.into(), found: values.len(), expected });
        }
        Ok(values)
    }

    fn unsupported<T>(&self, problem: String) -> Result<T, RuntimeError> {
        Err(RuntimeError::Unsupported { model: self.spec.name.clone(), problem })
    }
}

fn named<T>(name: &str, result: Result<T, KernelError>) -> Result<T, RuntimeError> {
    result.map_err(|source| RuntimeError::Pack { tensor: name.into(), source })
}
