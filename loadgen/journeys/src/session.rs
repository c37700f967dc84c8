//! What one user has: an HTTP client with its cookies, saved values, the conversation so far.

use std::collections::BTreeMap;

use llmlab_loadgen::{Address, Transcript, chain};
use reqwest::{Client, ClientBuilder, redirect};

use crate::plan::JourneyPlan;

/// Kept in the goose user between steps, for one iteration.
#[derive(Debug, Clone, Default)]
pub(crate) struct Session {
    pub values: BTreeMap<String, String>,
    pub conversation: Transcript,
    /// A step of this iteration failed, so those behind it are left out.
    pub failed: bool,
}

impl Session {
    pub(crate) fn begin_iteration(&mut self, user: u32, iteration: u32) {
        self.values = BTreeMap::from([
            ("user".to_owned(), user.to_string()),
            ("iteration".to_owned(), iteration.to_string()),
        ]);
        self.conversation = Transcript::default();
        self.failed = false;
    }
}

/// A client for each user, made before the first step: building one takes longer than a timestamp may be late. Same trust,
/// timeouts and connections as the load generator's: HTTP/1.1, no redirects, no compression, which would blur timestamps.
pub(crate) fn clients(plan: &JourneyPlan, address: &Address) -> Result<Vec<Client>, String> {
    // Given also where the address is http, because the library's default would read the system's certificates.
    let tls = llmlab_loadgen::tls_config(plan.endpoint.ca_file.as_deref()).map_err(|error| chain(&error))?;
    let client = |_| {
        ClientBuilder::new()
            .cookie_store(true)
            .redirect(redirect::Policy::none())
            .http1_only()
            .no_gzip()
            .no_proxy()
            .tcp_nodelay(true)
            .connect_timeout(plan.endpoint.timeouts[0])
            .resolve_to_addrs(&address.host, &address.addrs)
            .user_agent(concat!("llmlab/", env!("CARGO_PKG_VERSION")))
            .tls_backend_preconfigured(tls.clone())
            .build()
            .map_err(|error| chain(&error))
    };
    (0..plan.users()).map(client).collect()
}
