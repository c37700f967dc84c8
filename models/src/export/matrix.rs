//! One tensor of the model as the tensors of a file: names, dtypes and shapes first, bytes when they are written.

use half::{bf16, f16};
use llmlab_quant::packed::awq::{self, AwqVersion};
use llmlab_quant::packed::compressed;
use llmlab_quant::packed::gptq::{self, GptqVersion};
use llmlab_quant::{
    Grouped, QuantError, Range, StoredMatrix, WeightFormat, f32_to_e4m3, quantize_grouped, quantize_matrix,
};
use rayon::prelude::*;
use safetensors::Dtype;

use crate::export::format::{FP8_BLOCK, GROUP, HfFormat};
use crate::spec::TensorSpec;

/// One tensor of the file.
pub struct Part {
    pub name: String,
    pub dtype: Dtype,
    pub shape: Vec<usize>,
}

impl Part {
    pub fn bytes(&self) -> usize {
        self.shape.iter().product::<usize>() * self.dtype.bitsize() / 8
    }
}

/// The parts of `tensor` in `format`, in the order of [`bytes`].
pub fn parts(tensor: &TensorSpec, format: HfFormat) -> Vec<Part> {
    let Some((rows, cols)) = quantized_shape(tensor, format) else {
        let shape = tensor.shape.iter().map(|&size| size as usize).collect();
        return vec![Part { name: tensor.name.clone(), dtype: format.float_dtype(), shape }];
    };
    let prefix = tensor.name.trim_end_matches(".weight");
    let part = |name: &str, dtype, shape: &[usize]| Part {
        name: format!("{prefix}.{name}"),
        dtype,
        shape: shape.to_vec(),
    };
    let groups = cols.div_ceil(GROUP);
    match format {
        HfFormat::Gptq { bits, .. } => {
            let per_word = 32 / bits as usize;
            vec![
                part("qweight", Dtype::I32, &[cols / per_word, rows]),
                part("qzeros", Dtype::I32, &[groups, rows / per_word]),
                part("scales", Dtype::F16, &[groups, rows]),
                part("g_idx", Dtype::I32, &[cols]),
            ]
        }
        HfFormat::Awq(AwqVersion::Gemm) => vec![
            part("qweight", Dtype::I32, &[cols, rows / 8]),
            part("qzeros", Dtype::I32, &[groups, rows / 8]),
            part("scales", Dtype::F16, &[groups, rows]),
        ],
        HfFormat::Awq(AwqVersion::Gemv) => {
            let width = groups.div_ceil(8);
            vec![
                part("qweight", Dtype::I32, &[rows, cols / 8]),
                part("qzeros", Dtype::I32, &[rows, width]),
                part("scales", Dtype::F16, &[rows, 8 * width]),
            ]
        }
        HfFormat::Int8 => {
            vec![part("weight", Dtype::I8, &[rows, cols]), part("weight_scale", Dtype::F32, &[rows, 1])]
        }
        HfFormat::Fp8 => {
            vec![part("weight", Dtype::F8_E4M3, &[rows, cols]), part("weight_scale", Dtype::F32, &[rows, 1])]
        }
        HfFormat::Fp8Tensor => {
            vec![part("weight", Dtype::F8_E4M3, &[rows, cols]), part("weight_scale", Dtype::F32, &[1])]
        }
        HfFormat::Fp8Block => vec![
            part("weight", Dtype::F8_E4M3, &[rows, cols]),
            part("weight_scale_inv", Dtype::F32, &[rows.div_ceil(FP8_BLOCK), cols.div_ceil(FP8_BLOCK)]),
        ],
        HfFormat::W4A16 { symmetric } => {
            let mut parts = vec![
                part("weight_packed", Dtype::I32, &[rows, cols.div_ceil(8)]),
                part("weight_scale", Dtype::F16, &[rows, groups]),
                part("weight_shape", Dtype::I64, &[2]),
            ];
            if !symmetric {
                parts.push(part("weight_zero_point", Dtype::I32, &[rows.div_ceil(8), groups]));
            }
            parts
        }
        HfFormat::F32 | HfFormat::Bf16 | HfFormat::F16 => unreachable!("not quantized"),
    }
}

/// The bytes of each of [`parts`], from the tensor's values.
pub fn bytes(tensor: &TensorSpec, values: &[f32], format: HfFormat) -> Result<Vec<Vec<u8>>, QuantError> {
    let Some((rows, cols)) = quantized_shape(tensor, format) else {
        return Ok(vec![match format.float_dtype() {
            Dtype::BF16 => to_bytes(values, |value| bf16::from_f32(value).to_le_bytes()),
            Dtype::F16 => to_bytes(values, |value| f16::from_f32(value).to_le_bytes()),
            _ => to_bytes(values, f32::to_le_bytes),
        }]);
    };
    match format {
        HfFormat::Gptq { bits, version, act_order } => {
            let range = if version == GptqVersion::V1 { Range::Symmetric } else { Range::Asymmetric };
            let grouped = match act_order {
                true => act_ordered(bits, range, rows, cols, values)?,
                false => quantize_grouped(bits, GROUP, range, rows, cols, values)?,
            };
            let packed = gptq::pack(&grouped, rows, cols, version)?;
            Ok(vec![
                words(&packed.qweight),
                words(&packed.qzeros),
                halves(&packed.scales),
                words(&packed.g_idx),
            ])
        }
        HfFormat::Awq(version) => {
            let grouped = quantize_grouped(4, GROUP, Range::Asymmetric, rows, cols, values)?;
            let packed = awq::pack(&grouped, rows, cols, version)?;
            Ok(vec![words(&packed.qweight), words(&packed.qzeros), halves(&packed.scales)])
        }
        HfFormat::Int8 => match quantize_matrix(WeightFormat::Int8, rows, cols, values)? {
            StoredMatrix::Int8(channel) => {
                let q = channel.q.iter().map(|q| *q as u8).collect();
                Ok(vec![q, to_bytes(&channel.scales, f32::to_le_bytes)])
            }
            other => unreachable!("int8 gave {:?}", other.format()),
        },
        HfFormat::Fp8 => Ok(fp8(values, (rows, cols), (1, cols))),
        HfFormat::Fp8Tensor => Ok(fp8(values, (rows, cols), (rows, cols))),
        HfFormat::Fp8Block => Ok(fp8(values, (rows, cols), (FP8_BLOCK, FP8_BLOCK))),
        HfFormat::W4A16 { symmetric } => {
            let range = if symmetric { Range::Symmetric } else { Range::Asymmetric };
            let grouped = quantize_grouped(4, GROUP, range, rows, cols, values)?;
            let packed = compressed::pack(&grouped, rows, cols)?;
            let shape = [rows as i64, cols as i64].into_iter().flat_map(i64::to_le_bytes).collect();
            let mut parts = vec![words(&packed.weight_packed), halves(&packed.weight_scale), shape];
            if !symmetric {
                // Where every zero point is the middle level the packer leaves them out; the config promises them.
                let zeros = packed
                    .weight_zero_point
                    .unwrap_or_else(|| vec![0x8888_8888u32 as i32; rows.div_ceil(8) * cols.div_ceil(GROUP)]);
                parts.push(words(&zeros));
            }
            Ok(parts)
        }
        HfFormat::F32 | HfFormat::Bf16 | HfFormat::F16 => unreachable!("not quantized"),
    }
}

/// Rows and columns of a tensor that `format` quantizes.
fn quantized_shape(tensor: &TensorSpec, format: HfFormat) -> Option<(usize, usize)> {
    let wanted = format.is_quantized() && tensor.role.is_layer_matrix() && !tensor.role.is_router();
    wanted.then(|| (tensor.shape[0] as usize, tensor.shape[1] as usize))
}

/// Groups over columns in descending order of their length. GPTQ orders by the inputs it saw in calibration; there are none
/// here, and any order makes a file with act-order.
fn act_ordered(
    bits: u32,
    range: Range,
    rows: usize,
    cols: usize,
    values: &[f32],
) -> Result<Grouped, QuantError> {
    let mut lengths = vec![0.0f32; cols];
    for row in values.chunks_exact(cols) {
        lengths.iter_mut().zip(row).for_each(|(length, value)| *length += value * value);
    }
    let mut order: Vec<usize> = (0..cols).collect();
    order.sort_by(|left, right| lengths[*right].total_cmp(&lengths[*left]));
    let ordered: Vec<f32> =
        values.chunks_exact(cols).flat_map(|row| order.iter().map(|&col| row[col])).collect();
    let mut grouped = quantize_grouped(bits, GROUP, range, rows, cols, &ordered)?;
    let mut q = vec![0; rows * cols];
    for (row, ordered) in q.chunks_exact_mut(cols).zip(grouped.q.chunks_exact(cols)) {
        order.iter().zip(ordered).for_each(|(&col, value)| row[col] = *value);
    }
    let mut group_of = vec![0; cols];
    order.iter().enumerate().for_each(|(place, &col)| group_of[col] = (place / GROUP) as u32);
    (grouped.q, grouped.group_of) = (q, Some(group_of));
    Ok(grouped)
}

/// E4M3 bytes and scales: the largest magnitude of each block at 448.
fn fp8(
    values: &[f32],
    (rows, cols): (usize, usize),
    (block_rows, block_cols): (usize, usize),
) -> Vec<Vec<u8>> {
    let across = cols.div_ceil(block_cols);
    let mut largest = vec![f32::MIN_POSITIVE * 448.0; rows.div_ceil(block_rows) * across];
    for (row, values) in values.chunks_exact(cols).enumerate() {
        for (block, values) in values.chunks(block_cols).enumerate() {
            let slot = &mut largest[row / block_rows * across + block];
            *slot = values.iter().fold(*slot, |largest, value| largest.max(value.abs()));
        }
    }
    let scales: Vec<f32> = largest.into_iter().map(|largest| largest / 448.0).collect();
    let mut q = vec![0; rows * cols];
    q.par_chunks_mut(cols).zip(values.par_chunks(cols)).enumerate().for_each(|(row, (q, values))| {
        let scales = &scales[row / block_rows * across..][..across];
        for (col, (q, value)) in q.iter_mut().zip(values).enumerate() {
            *q = f32_to_e4m3(value / scales[col / block_cols]);
        }
    });
    vec![q, to_bytes(&scales, f32::to_le_bytes)]
}

fn words(values: &[i32]) -> Vec<u8> {
    values.iter().flat_map(|word| word.to_le_bytes()).collect()
}

/// Scales that were rounded to half precision when they were chosen.
fn halves(values: &[f32]) -> Vec<u8> {
    to_bytes(values, |value| f16::from_f32(value).to_le_bytes())
}

fn to_bytes<const N: usize>(values: &[f32], bytes: impl Fn(f32) -> [u8; N] + Sync) -> Vec<u8> {
    let mut out = vec![0; values.len() * N];
    out.par_chunks_mut(N << 16).zip(values.par_chunks(1 << 16)).for_each(|(out, values)| {
        for (out, value) in out.as_chunks_mut::<N>().0.iter_mut().zip(values) {
            *out = bytes(*value);
        }
    });
    out
}
