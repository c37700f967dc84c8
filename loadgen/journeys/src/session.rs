//! What one user remembers: an HTTP client with its cookies, saved values, the conversation so far.

use std::collections::BTreeMap;

use goose::goose::GooseUser;
use llmlab_loadgen::{Address, Transcript};
use reqwest::{ClientBuilder, redirect};

use crate::plan::JourneyPlan;

/// Kept in the goose user between steps. Cookies last for the user's life, the rest for one iteration.
#[derive(Debug, Clone, Default)]
pub(crate) struct Session {
    pub started: bool,
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

/// Gives the user a client of its own. Same trust, timeouts and connections as the load generator's: HTTP/1.1, no
/// redirects, no compression, which would blur timestamps.
pub(crate) async fn equip(user: &mut GooseUser, plan: &JourneyPlan, address: &Address) -> Result<(), String> {
    let mut builder = ClientBuilder::new()
        .cookie_store(true)
        .redirect(redirect::Policy::none())
        .http1_only()
        .no_gzip()
        .no_proxy()
        .tcp_nodelay(true)
        .connect_timeout(plan.endpoint.timeouts[0])
        .resolve_to_addrs(&address.host, &address.addrs)
        .user_agent(concat!("llmlab/", env!("CARGO_PKG_VERSION")));
    if address.url.starts_with("https://") {
        let tls = llmlab_loadgen::tls_config(plan.endpoint.ca_file.as_deref()).map_err(|e| e.to_string())?;
        builder = builder.tls_backend_preconfigured(tls);
    }
    user.set_client_builder(builder).await.map_err(|error| error.to_string())
}
