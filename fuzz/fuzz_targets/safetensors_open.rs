//! Bytes as a safetensors file: header, and every tensor in each of the ways it is read.

#![no_main]

use std::path::Path;

use libfuzzer_sys::fuzz_target;
use llmlab_models::weights::SafetensorsFile;

fuzz_target!(|bytes: &[u8]| {
    let Ok(file) = SafetensorsFile::from_source(Path::new("fuzzed.safetensors"), Box::new(bytes.to_vec()))
    else {
        return;
    };
    for name in file.names() {
        let info = file.info(&name).expect("a listed tensor has a description");
        let elements: usize = info.shape.iter().product();
        if let Ok(values) = file.floats(&name) {
            assert_eq!(values.len(), elements);
            assert!(values.iter().all(|value| value.is_finite()));
        }
        let raw = file.bytes(&name).expect("tensors are inside the file");
        assert!(raw.len() <= bytes.len());
        let _ = file.words(&name);
    }
    assert!(file.floats("not a tensor").is_err());
});
