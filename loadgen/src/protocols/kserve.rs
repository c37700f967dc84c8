//! `POST /v2/models/MODEL/infer` of the Open Inference Protocol (KServe v2), as Triton's TensorRT-LLM ensemble takes it:
//! named tensors in, named tensors out, everything in one answer. When its first token was made nobody can see.

use serde::Deserialize;
use serde_json::{Value, json};

use super::{Delta, StreamEvent, Usage, Wire, error_in, json, text, triton};
use crate::framing::Framing;
use crate::workload::PlannedRequest;

pub(super) const WIRE: Wire = Wire {
    name: "kserve",
    path: "/v2/models/{model}/infer",
    framing: Framing::Json,
    body,
    parse,
    ..triton::WIRE
};

fn body(_model: &str, request: &PlannedRequest) -> Vec<u8> {
    let tensor = |name: &str, datatype: &str, value: Value| json!({ "name": name, "shape": [1, 1], "datatype": datatype, "data": [value] });
    let inputs = [
        tensor("text_input", "BYTES", text(&request.prompt).into()),
        tensor("max_tokens", "INT32", request.max_tokens.into()),
        tensor("min_tokens", "INT32", request.max_tokens.into()),
        // No token has this id, so none ends the output.
        tensor("end_id", "INT32", (-1).into()),
        tensor("exclude_input_in_output", "BOOL", true.into()),
        tensor("return_num_input_tokens", "BOOL", true.into()),
        tensor("return_num_output_tokens", "BOOL", true.into()),
    ];
    let names = ["text_output", "num_input_tokens", "num_output_tokens"];
    let outputs = names.map(|name| json!({ "name": name }));
    json(&json!({ "inputs": inputs, "outputs": outputs }))
}

#[derive(Deserialize)]
struct Answer {
    outputs: Option<Vec<Tensor>>,
    error: Option<Value>,
}

#[derive(Deserialize)]
struct Tensor {
    name: String,
    data: Option<Value>,
}

fn parse(data: &str) -> Result<StreamEvent, String> {
    let answer: Answer = serde_json::from_str(data).map_err(|e| e.to_string())?;
    if let Some(error) = error_in(answer.error.as_ref()) {
        return Ok(error);
    }
    let outputs = answer.outputs.ok_or("neither outputs nor error in the answer")?;
    let first = |name: &str| {
        let tensor = outputs.iter().find(|tensor| tensor.name == name)?;
        innermost(tensor.data.as_ref()?)
    };
    let number = |name: &str| first(name)?.as_u64().and_then(|number| u32::try_from(number).ok());
    let text_output =
        first("text_output").and_then(Value::as_str).ok_or("no text_output among the outputs")?;
    Ok(StreamEvent::Delta(Delta {
        has_choice: true,
        text: !text_output.is_empty(),
        usage: Some(Usage {
            prompt_tokens: number("num_input_tokens"),
            completion_tokens: number("num_output_tokens"),
        }),
        last: true,
        ..Delta::default()
    }))
}

/// Data may be flat or nested as the shape is.
fn innermost(data: &Value) -> Option<&Value> {
    match data {
        Value::Array(values) => values.first().and_then(innermost),
        value => Some(value),
    }
}
