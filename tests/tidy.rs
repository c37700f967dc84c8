//! Rules about the tree itself: which crate may know which, and that every crate carries the workspace lints.

use std::collections::BTreeMap;
use std::path::Path;

/// Allowed edges inside the workspace. A missing crate or a new edge is a design decision: change this table with it.
const EDGES: &[(&str, &str, &[&str])] = &[
    ("scenarios", "llmlab-scenarios", &[]),
    ("models", "llmlab-models", &["llmlab-quant"]),
    ("results", "llmlab-results", &[]),
    ("engine/core", "llmlab-core", &[]),
    ("engine/quant", "llmlab-quant", &[]),
    ("engine/kernels", "llmlab-kernels", &["llmlab-quant"]),
    ("engine/runtime", "llmlab-runtime", &["llmlab-core", "llmlab-kernels", "llmlab-models", "llmlab-quant"]),
    ("engine/server", "llmlab-server", &["llmlab-core", "llmlab-models"]),
    ("loadgen", "llmlab-loadgen", &["llmlab-results"]),
    ("loadgen/mock", "llmlab-mock", &["llmlab-loadgen", "llmlab-results"]),
    ("loadgen/journeys", "llmlab-journeys", &["llmlab-loadgen", "llmlab-results"]),
    ("analysis/metrics", "llmlab-metrics", &["llmlab-results"]),
    (
        "analysis/sim",
        "llmlab-sim",
        &["llmlab-core", "llmlab-loadgen", "llmlab-models", "llmlab-quant", "llmlab-results"],
    ),
    (
        "analysis/planner",
        "llmlab-planner",
        &[
            "llmlab-core",
            "llmlab-loadgen",
            "llmlab-metrics",
            "llmlab-models",
            "llmlab-quant",
            "llmlab-results",
            "llmlab-scenarios",
            "llmlab-sim",
        ],
    ),
    ("tui", "llmlab-tui", &[]),
];

/// Names of llmlab crates in a manifest's `[dependencies]` (not dev-dependencies).
fn llmlab_dependencies(manifest: &str) -> Vec<String> {
    let mut in_dependencies = false;
    let mut found = Vec::new();
    for line in manifest.lines() {
        if let Some(section) = line.trim().strip_prefix('[') {
            in_dependencies = section.starts_with("dependencies");
        } else if in_dependencies
            && let Some(name) = line.split(['.', '=', ' ']).next()
            && name.starts_with("llmlab-")
        {
            found.push(name.to_string());
        }
    }
    found
}

fn read(path: &Path) -> String {
    std::fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

#[test]
fn crates_point_one_way() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    for (folder, name, allowed) in EDGES {
        let manifest = read(&root.join(folder).join("Cargo.toml"));
        assert!(manifest.contains(&format!("name = \"{name}\"")), "{folder} should hold {name}");
        for dependency in llmlab_dependencies(&manifest) {
            assert!(allowed.contains(&dependency.as_str()), "{name} must not depend on {dependency}");
        }
    }
}

#[test]
fn every_member_is_in_the_table() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let manifest = read(&root.join("Cargo.toml"));
    let members: Vec<&str> = manifest
        .split_once("members = [")
        .and_then(|(_, rest)| rest.split_once(']'))
        .map(|(list, _)| {
            list.split(',').map(|m| m.trim().trim_matches('"')).filter(|m| !m.is_empty()).collect()
        })
        .unwrap_or_default();
    let table: BTreeMap<&str, &str> = EDGES.iter().map(|(folder, name, _)| (*folder, *name)).collect();
    assert_eq!(members.len(), table.len());
    for member in members {
        assert!(table.contains_key(member), "{member} is not in the table of allowed edges");
    }
}

/// `unsafe` lives in the kernels; every other crate inherits the lint that denies it.
#[test]
fn only_kernels_leave_the_workspace_lints() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    for (folder, name, _) in EDGES {
        let manifest = read(&root.join(folder).join("Cargo.toml"));
        let inherits = manifest.contains("[lints]\nworkspace = true");
        assert_eq!(inherits, *name != "llmlab-kernels", "{name}");
    }
}
