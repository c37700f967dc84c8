//! `protocol = "auto"`: live servers are asked what they are before anything starts.

use std::collections::HashMap;

use llmlab_loadgen::detect::{Detected, PROBES, Reply, identify};
use llmlab_scenarios::spec::{AUTO, EndpointSpec, RunSpec, TargetChoice};

use crate::exit::Failure;
use crate::target;

/// Servers that were asked already: the cells of a sweep mostly have the same ones.
#[derive(Debug, Default)]
pub struct Known(HashMap<(String, Option<String>, Option<String>), Detected>);

impl Known {
    /// Puts protocol and model in place of every "auto", and says on standard error what was found.
    pub fn resolve(&mut self, spec: &mut RunSpec) -> Result<(), Failure> {
        for target in &mut spec.targets {
            let TargetChoice::Endpoint(endpoint) = &mut target.kind else { continue };
            if endpoint.protocol == AUTO {
                self.endpoint(&target.name, endpoint)?;
            }
        }
        Ok(())
    }

    fn endpoint(&mut self, name: &str, endpoint: &mut EndpointSpec) -> Result<(), Failure> {
        let whom = (endpoint.url.clone(), endpoint.api_key_env.clone(), endpoint.api_key_file.clone());
        let found = match self.0.get(&whom) {
            Some(found) => found.clone(),
            None => {
                let found = ask(name, endpoint)?;
                eprintln!("target {name}: {} is {found}", endpoint.url);
                self.0.insert(whom, found.clone());
                found
            }
        };
        endpoint.protocol = found.protocol.name().to_owned();
        endpoint.model = endpoint.model.take().or(found.model);
        if endpoint.model.is_none() && found.protocol.names_model() {
            return Err(Failure::target(format!(
                "target {name}: {} is {}, which does not say what models it has; name one with `model` in a scenario",
                endpoint.url, found.server
            )));
        }
        Ok(())
    }
}

fn ask(name: &str, endpoint: &EndpointSpec) -> Result<Detected, Failure> {
    let key = target::api_key(endpoint)?;
    let failed = |why: String| Failure::target(format!("target {name}: {}: {why}", endpoint.url));
    let mut replies = Vec::with_capacity(PROBES.len());
    for path in PROBES {
        match target::get(endpoint, path, key.as_ref(), target::CONTROL_TIMEOUT) {
            Ok((status, body)) => replies.push(Reply { path, status, body }),
            // Every server has some answer to the first one, if only that there is no such page.
            Err(error) if replies.is_empty() => {
                return Err(failed(format!("GET {path}: {error}; is the server up?")));
            }
            Err(_) => {}
        }
    }
    identify(&replies).map_err(|unknown| failed(unknown.to_string()))
}

#[cfg(test)]
mod tests {
    use llmlab_loadgen::Protocol;

    /// The scenario crate knows names only, the load generator what is behind them.
    #[test]
    fn scenarios_accept_the_protocols_there_are() {
        let schema: serde_json::Value = serde_json::from_str(&llmlab_scenarios::json_schema()).unwrap();
        let names = schema.pointer("/$defs/EndpointTable/properties/protocol/enum").unwrap();
        let mut known = Protocol::ALL.map(Protocol::name).to_vec();
        known.push(llmlab_scenarios::spec::AUTO);
        assert_eq!(names, &serde_json::json!(known));
    }
}
