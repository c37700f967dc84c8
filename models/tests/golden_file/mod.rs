//! Tables of golden figures: in the repository, or in the folder that `LLMLAB_GOLDEN_DIR` names.

use std::path::PathBuf;

pub struct Table {
    header: csv::StringRecord,
    records: Vec<csv::StringRecord>,
}

pub struct Row<'a> {
    header: &'a csv::StringRecord,
    record: &'a csv::StringRecord,
}

impl Table {
    pub fn open(name: &str) -> Table {
        let folder = std::env::var_os("LLMLAB_GOLDEN_DIR").map_or_else(
            || PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden")),
            PathBuf::from,
        );
        let path = folder.join(name);
        let mut reader = csv::Reader::from_path(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
        let header = reader.headers().unwrap().clone();
        Table { header, records: reader.records().map(Result::unwrap).collect() }
    }

    pub fn rows(&self) -> impl Iterator<Item = Row<'_>> {
        self.records.iter().map(|record| Row { header: &self.header, record })
    }
}

impl<'a> Row<'a> {
    pub fn text(&self, name: &str) -> &'a str {
        let place = self.header.iter().position(|column| column == name);
        &self.record[place.unwrap_or_else(|| panic!("no column {name}"))]
    }

    /// A whole number; 0 where the field is empty.
    pub fn number(&self, name: &str) -> u64 {
        let found = self.text(name);
        if found.is_empty() { 0 } else { found.parse().unwrap_or_else(|_| panic!("{name} is {found:?}")) }
    }
}
