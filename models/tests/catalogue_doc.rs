//! The tables in docs/catalogue.md are made from the catalogue, so that they cannot go stale. `UPDATE_DOCS=1` writes them.

use std::fmt::Write;
use std::path::PathBuf;

use llmlab_models::catalogue::{self, Figure};

const START: &str = "\n<!-- made by models/tests/catalogue_doc.rs -->\n";

fn tables() -> String {
    let mut text = String::from(
        "\n## Models\n\n| name | what | parameters | active | published in | engine |\n|---|---|---:|---:|---|---|\n",
    );
    for model in catalogue::published_models() {
        let sizes = &model.architecture;
        let billions = |n: u64| format!("{:.2} B", n as f64 / 1e9);
        let active = match sizes.active_parameters() {
            all if all == sizes.parameters() => String::new(),
            active => billions(active),
        };
        let engine = if model.spec.is_some() { "yes" } else { "" };
        let all = billions(sizes.parameters());
        writeln!(
            text,
            "| {} | {} | {all} | {active} | {} | {engine} |",
            sizes.name, model.description, sizes.stored
        )
        .unwrap();
    }
    text += "\n## Devices\n\n| name | what | kind | GB | GB/s | bf16 TFLOPS | on demand $/h |\n|---|---|---|---:|---:|---:|---:|\n";
    for device in catalogue::hardwares() {
        let value =
            |figure: &Option<Figure>| figure.as_ref().map_or(String::new(), |of| of.value.to_string());
        let price = catalogue::price(&device.name).map_or(String::new(), |of| of.usd_per_hour.to_string());
        let (memory, bf16) = (value(&device.memory_gb), value(&device.bf16_tflops));
        let bandwidth = device.memory_bandwidth_gb_per_s.value;
        let (name, what, kind) = (&device.name, &device.description, device.kind.name());
        writeln!(text, "| {name} | {what} | {kind} | {memory} | {bandwidth} | {bf16} | {price} |").unwrap();
    }
    text
}

#[test]
fn the_tables_of_the_documentation_are_those_of_the_catalogue() {
    let path = PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/catalogue.md"));
    let found = std::fs::read_to_string(&path).unwrap();
    let words = found.split(START).next().unwrap();
    let wanted = format!("{words}{START}{}", tables());
    if std::env::var_os("UPDATE_DOCS").is_some() {
        std::fs::write(&path, wanted).unwrap();
    } else {
        assert!(found == wanted, "run UPDATE_DOCS=1 cargo test -p llmlab-models --test catalogue_doc");
    }
}
