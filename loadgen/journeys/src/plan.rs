//! What the users do. Written by whoever starts the client, which reads it from its standard input.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use llmlab_loadgen::{Endpoint, LengthDist, Secret, Timeouts};
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// Holds the API key, so it is never printed and goes over a pipe only.
#[derive(Clone, Serialize, Deserialize)]
pub struct JourneyPlan {
    pub endpoint: EndpointPlan,
    pub seed: u64,
    pub iterations: u32,
    /// Users started per second.
    pub hatch_rate: f64,
    /// After each step: at least, at most.
    pub pause: (Duration, Duration),
    pub tokens_per_word: f64,
    /// Longest prompt and longest output of one ask, in tokens.
    pub input_max: u32,
    pub output_max: u32,
    /// How long steps in flight may go on once the journey is stopped.
    pub drain: Duration,
    pub flows: Vec<Flow>,
}

/// [`Endpoint`] as it goes through the pipe.
#[derive(Clone, Serialize, Deserialize)]
pub struct EndpointPlan {
    pub base_url: String,
    pub protocol: String,
    pub model: String,
    pub api_key: Option<String>,
    pub ca_file: Option<PathBuf>,
    /// Connect, first token, inter-token, total.
    pub timeouts: [Duration; 4],
}

impl From<&Endpoint> for EndpointPlan {
    fn from(endpoint: &Endpoint) -> Self {
        let Timeouts { connect, first_token, inter_token, total } = endpoint.timeouts;
        EndpointPlan {
            base_url: endpoint.base_url.clone(),
            protocol: endpoint.protocol.name().to_owned(),
            model: endpoint.model.clone(),
            api_key: endpoint.api_key.as_ref().map(|key| key.reveal().to_owned()),
            ca_file: endpoint.ca_file.clone(),
            timeouts: [connect, first_token, inter_token, total],
        }
    }
}

impl EndpointPlan {
    /// An error names the protocol that there is not.
    pub(crate) fn endpoint(&self) -> Result<Endpoint, String> {
        let [connect, first_token, inter_token, total] = self.timeouts;
        Ok(Endpoint {
            base_url: self.base_url.clone(),
            protocol: self.protocol.parse()?,
            model: self.model.clone(),
            api_key: self.api_key.clone().map(Secret::new),
            ca_file: self.ca_file.clone(),
            timeouts: Timeouts { connect, first_token, inter_token, total },
        })
    }
}

/// Steps that a user takes one after the other, again in each iteration.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Flow {
    pub name: String,
    /// At least 1.
    pub users: u32,
    pub steps: Vec<Step>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Step {
    pub name: String,
    /// Values may hold `{variables}`, as paths and bodies may.
    pub headers: BTreeMap<String, String>,
    pub action: Action,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Action {
    /// A plain request.
    Page {
        method: Method,
        /// On the server.
        path: String,
        body: Option<PageBody>,
        /// The status that is right; `None`: any of 200 to 299.
        expect: Option<u16>,
        /// Variables to take from the answer, by JSON pointer.
        save: BTreeMap<String, String>,
    },
    /// A turn of a conversation.
    Ask { input: LengthDist, output: LengthDist, new_conversation: bool },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum Method {
    Get,
    Post,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PageBody {
    Json(Value),
    Text(String),
}

impl Action {
    /// What goose files it under.
    pub fn method(&self) -> &'static str {
        match self {
            Action::Page { method: Method::Get, .. } => "GET",
            Action::Page { method: Method::Post, .. } => "POST",
            Action::Ask { .. } => "ASK",
        }
    }

    pub fn is_ask(&self) -> bool {
        matches!(self, Action::Ask { .. })
    }
}

impl JourneyPlan {
    pub fn users(&self) -> u32 {
        self.flows.iter().map(|flow| flow.users).sum()
    }

    /// Asks when no step fails.
    pub fn asks(&self) -> u64 {
        let asks = |flow: &Flow| flow.steps.iter().filter(|step| step.action.is_ask()).count() as u64;
        let of = |flow: &Flow| u64::from(flow.users) * u64::from(self.iterations) * asks(flow);
        self.flows.iter().map(of).sum()
    }
}
