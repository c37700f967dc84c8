//! Where the values of one matrix lie in a checkpoint: as one tensor of floats, or in the parts of a packed format. All shapes
//! and dtypes are checked here, before a value is read.

use llmlab_quant::WeightFormat;
use llmlab_quant::packed::awq::AwqVersion;
use safetensors::Dtype;

use crate::error::ModelError;
use crate::spec::TensorSpec;
use crate::weights::parts::Parts;
use crate::weights::scheme::Scheme;

/// How one tensor of the model is stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Layout {
    /// One tensor under the model's own name.
    Floats(WeightFormat),
    /// `prefix.qweight`, `.qzeros`, `.scales`, `.g_idx`; or compressed-tensors' `prefix.weight_packed` and others; which, the
    /// scheme says.
    Packed { act_order: bool },
    /// `prefix.weight` of signed bytes, `.weight_scale`.
    Int8,
    /// `prefix.weight` of E4M3 bytes and the tensor of its scales, in blocks of these sides.
    Fp8 { block_rows: usize, block_cols: usize, inverse_name: bool, input_scale: bool },
}

const FLOATS: [Dtype; 3] = [Dtype::F32, Dtype::F16, Dtype::BF16];

/// `name` without its last part.
pub fn prefix(name: &str) -> &str {
    name.rsplit_once('.').map_or(name, |(prefix, _)| prefix)
}

/// Finds `tensor` and checks its parts.
pub fn find(tensor: &TensorSpec, parts: &Parts, scheme: Option<Scheme>) -> Result<Layout, ModelError> {
    let (name, prefix) = (tensor.name.as_str(), prefix(&tensor.name));
    let [rows, cols] = match tensor.shape[..] {
        [rows, cols] => [rows as usize, cols as usize],
        _ => return floats(tensor, parts),
    };
    let finder = Finder { parts, prefix, rows, cols };
    match scheme {
        Some(Scheme::Gptq { bits, group, .. }) if finder.has("qweight")? => finder.gptq(bits, group),
        Some(Scheme::Awq { group, version }) if finder.has("qweight")? => finder.awq(group, version),
        Some(Scheme::Packed { bits, group, symmetric }) if finder.has("weight_packed")? => {
            finder.packed(bits, group, symmetric)
        }
        Some(Scheme::Int8 { .. }) if parts.dtype(name)? == Some(Dtype::I8) => finder.int8(),
        Some(Scheme::Fp8 { block, .. }) if parts.dtype(name)? == Some(Dtype::F8_E4M3) => finder.fp8(block),
        None if parts.dtype(name)?.is_none()
            && (finder.has("qweight")? || finder.has("weight_packed")?) =>
        {
            let problem = "is quantized, and config.json has no quantization_config".to_string();
            Err(parts.missing(name, problem))
        }
        _ => floats(tensor, parts),
    }
}

fn floats(tensor: &TensorSpec, parts: &Parts) -> Result<Layout, ModelError> {
    let shape: Vec<usize> = tensor.shape.iter().map(|&size| size as usize).collect();
    match parts.expect(&tensor.name, &FLOATS, &shape)? {
        Dtype::F16 => Ok(Layout::Floats(WeightFormat::F16)),
        Dtype::BF16 => Ok(Layout::Floats(WeightFormat::Bf16)),
        _ => Ok(Layout::Floats(WeightFormat::F32)),
    }
}

/// The parts of one matrix.
struct Finder<'a> {
    parts: &'a Parts,
    prefix: &'a str,
    rows: usize,
    cols: usize,
}

impl Finder<'_> {
    fn name(&self, part: &str) -> String {
        format!("{}.{part}", self.prefix)
    }

    fn has(&self, part: &str) -> Result<bool, ModelError> {
        Ok(self.parts.dtype(&self.name(part))?.is_some())
    }

    fn expect(&self, part: &str, dtypes: &[Dtype], shape: &[usize]) -> Result<(), ModelError> {
        self.parts.expect(&self.name(part), dtypes, shape).map(drop)
    }

    fn gptq(&self, bits: u32, group: Option<usize>) -> Result<Layout, ModelError> {
        let per_word = 32 / bits as usize;
        let (rows, cols) = (self.rows, self.cols);
        self.whole_words("qweight", rows, per_word)?;
        self.whole_words("qweight", cols, per_word)?;
        let groups = group.map_or(1, |group| cols.div_ceil(group));
        self.expect("qweight", &[Dtype::I32], &[cols / per_word, rows])?;
        self.expect("qzeros", &[Dtype::I32], &[groups, rows / per_word])?;
        self.expect("scales", &FLOATS, &[groups, rows])?;
        let act_order = self.has("g_idx")?;
        if act_order {
            self.expect("g_idx", &[Dtype::I32], &[cols])?;
        }
        Ok(Layout::Packed { act_order })
    }

    fn awq(&self, group: Option<usize>, version: AwqVersion) -> Result<Layout, ModelError> {
        let (rows, cols) = (self.rows, self.cols);
        let groups = group.map_or(1, |group| cols.div_ceil(group));
        match version {
            AwqVersion::Gemm => {
                self.whole_words("qweight", rows, 8)?;
                self.expect("qweight", &[Dtype::I32], &[cols, rows / 8])?;
                self.expect("qzeros", &[Dtype::I32], &[groups, rows / 8])?;
                self.expect("scales", &FLOATS, &[groups, rows])?;
            }
            AwqVersion::Gemv => {
                self.whole_words("qweight", cols, 8)?;
                self.expect("qweight", &[Dtype::I32], &[rows, cols / 8])?;
                // How far the width is padded depends on the group; it is what the file says, if it is enough.
                let width = self.parts.shape(&self.name("qzeros"))?.and_then(|shape| shape.get(1).copied());
                let width = width.filter(|width| (groups.div_ceil(8)..=cols).contains(width));
                let width = width.unwrap_or_else(|| groups.div_ceil(8));
                self.expect("qzeros", &[Dtype::I32], &[rows, width])?;
                self.expect("scales", &FLOATS, &[rows, 8 * width])?;
            }
        }
        Ok(Layout::Packed { act_order: false })
    }

    fn packed(&self, bits: u32, group: Option<usize>, symmetric: bool) -> Result<Layout, ModelError> {
        let per_word = 32 / bits as usize;
        let (rows, cols) = (self.rows, self.cols);
        let groups = group.map_or(1, |group| cols.div_ceil(group));
        self.expect("weight_packed", &[Dtype::I32], &[rows, cols.div_ceil(per_word)])?;
        self.expect("weight_scale", &FLOATS, &[rows, groups])?;
        if !symmetric {
            self.expect("weight_zero_point", &[Dtype::I32], &[rows.div_ceil(per_word), groups])?;
        }
        let act_order = self.has("weight_g_idx")?;
        if act_order {
            self.expect("weight_g_idx", &[Dtype::I32], &[cols])?;
        }
        Ok(Layout::Packed { act_order })
    }

    fn int8(&self) -> Result<Layout, ModelError> {
        self.expect("weight", &[Dtype::I8], &[self.rows, self.cols])?;
        if !self.is_one("weight_scale")? {
            self.per_row("weight_scale")?;
        }
        Ok(Layout::Int8)
    }

    fn fp8(&self, block: Option<(usize, usize)>) -> Result<Layout, ModelError> {
        let (rows, cols) = (self.rows, self.cols);
        self.expect("weight", &[Dtype::F8_E4M3], &[rows, cols])?;
        let inverse_name = self.has("weight_scale_inv")?;
        let scale = if inverse_name { "weight_scale_inv" } else { "weight_scale" };
        let (block_rows, block_cols) = match block {
            Some((block_rows, block_cols)) => {
                let shape = [rows.div_ceil(block_rows), cols.div_ceil(block_cols)];
                self.expect(scale, &FLOATS, &shape)?;
                (block_rows, block_cols)
            }
            None if self.is_one(scale)? => (rows, cols),
            None => {
                self.per_row(scale)?;
                (1, cols)
            }
        };
        let input_scale = self.has("input_scale")?;
        if input_scale && !self.is_one("input_scale")? {
            self.expect("input_scale", &FLOATS, &[1])?;
        }
        Ok(Layout::Fp8 { block_rows, block_cols, inverse_name, input_scale })
    }

    /// Whether `part` is one float, with or without dimensions.
    fn is_one(&self, part: &str) -> Result<bool, ModelError> {
        let name = self.name(part);
        match self.parts.shape(&name)? {
            Some(shape) if shape.len() <= 2 && shape.iter().all(|&size| size == 1) => {
                let shape = shape.to_vec();
                self.parts.expect(&name, &FLOATS, &shape).map(|_| true)
            }
            _ => Ok(false),
        }
    }

    /// Expects one float a row: `[rows, 1]`, or `[rows]`.
    fn per_row(&self, part: &str) -> Result<(), ModelError> {
        let flat = self.parts.shape(&self.name(part))?.is_some_and(|shape| shape.len() == 1);
        if flat {
            self.expect(part, &FLOATS, &[self.rows])
        } else {
            self.expect(part, &FLOATS, &[self.rows, 1])
        }
    }

    fn whole_words(&self, part: &str, size: usize, per_word: usize) -> Result<(), ModelError> {
        if size.is_multiple_of(per_word) {
            return Ok(());
        }
        let problem = format!("{size} values do not fill words of {per_word}");
        Err(self.parts.missing(&self.name(part), problem))
    }
}
