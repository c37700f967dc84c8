//! The one catalogue of a process: the built-in tables, and what a user's files put over them.

use std::sync::OnceLock;

use super::hardware::{self, Hardware};
use super::prices::{self, ApiPrice, Price};
use super::specs::{self, PublishedModel};

pub(super) struct Catalogue {
    pub hardware: Vec<Hardware>,
    pub prices: Vec<Price>,
    pub api_prices: Vec<ApiPrice>,
    pub models: Vec<PublishedModel>,
}

static CATALOGUE: OnceLock<Catalogue> = OnceLock::new();

pub(super) fn catalogue() -> &'static Catalogue {
    CATALOGUE.get_or_init(Catalogue::embedded)
}

impl Catalogue {
    pub fn embedded() -> Catalogue {
        let (prices, api_prices) = prices::embedded();
        Catalogue { hardware: hardware::embedded(), prices, api_prices, models: specs::embedded() }
    }
}
