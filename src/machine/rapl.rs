//! Energy of the processor packages and their memory, as the kernel's powercap interface counts it. Most systems let only
//! root read it; without it there is no figure.

use std::fs;
use std::path::{Path, PathBuf};

const POWERCAP: &str = "/sys/class/powercap";

#[derive(Debug)]
pub struct Rapl {
    zones: Vec<Zone>,
}

#[derive(Debug)]
struct Zone {
    energy: PathBuf,
    /// The counter goes back to zero after this.
    range_uj: u64,
    last_uj: u64,
    total_uj: u64,
}

impl Rapl {
    pub fn open() -> Rapl {
        Rapl::below(Path::new(POWERCAP))
    }

    fn below(folder: &Path) -> Rapl {
        let entries = fs::read_dir(folder).into_iter().flatten().flatten();
        Rapl { zones: entries.filter_map(|entry| Zone::open(&entry.path())).collect() }
    }

    /// Since `open`; `None` where nothing can be read.
    pub fn energy_uj(&mut self) -> Option<u64> {
        if self.zones.is_empty() {
            return None;
        }
        Some(self.zones.iter_mut().map(Zone::read).sum())
    }
}

impl Zone {
    /// Packages and memory. Cores and integrated graphics are part of their package, and `psys` of everything.
    fn open(folder: &Path) -> Option<Zone> {
        let name = fs::read_to_string(folder.join("name")).ok()?;
        if !(name.starts_with("package-") || name.trim() == "dram") {
            return None;
        }
        let energy = folder.join("energy_uj");
        let last_uj = number(&energy)?;
        let range_uj = number(&folder.join("max_energy_range_uj")).unwrap_or(u64::MAX);
        Some(Zone { energy, range_uj, last_uj, total_uj: 0 })
    }

    /// A reading that fails counts as no energy since the last one.
    fn read(&mut self) -> u64 {
        if let Some(now) = number(&self.energy) {
            let gone = match now.checked_sub(self.last_uj) {
                Some(gone) => gone,
                None => self.range_uj.saturating_sub(self.last_uj).saturating_add(now),
            };
            self.total_uj = self.total_uj.saturating_add(gone);
            self.last_uj = now;
        }
        self.total_uj
    }
}

fn number(path: &Path) -> Option<u64> {
    fs::read_to_string(path).ok()?.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn zone(root: &Path, folder: &str, name: &str, energy_uj: u64) {
        let folder = root.join(folder);
        fs::create_dir_all(&folder).unwrap();
        fs::write(folder.join("name"), format!("{name}\n")).unwrap();
        fs::write(folder.join("max_energy_range_uj"), "1000\n").unwrap();
        fs::write(folder.join("energy_uj"), format!("{energy_uj}\n")).unwrap();
    }

    #[test]
    fn packages_and_memory_add_up_across_a_wrap() {
        let root = tempfile::tempdir().unwrap();
        zone(root.path(), "intel-rapl:0", "package-0", 900);
        zone(root.path(), "intel-rapl:0:0", "core", 5);
        zone(root.path(), "intel-rapl:0:1", "dram", 10);
        zone(root.path(), "intel-rapl:1", "psys", 7);
        let mut rapl = Rapl::below(root.path());
        assert_eq!(rapl.energy_uj(), Some(0));
        zone(root.path(), "intel-rapl:0", "package-0", 50);
        zone(root.path(), "intel-rapl:0:0", "core", 500);
        zone(root.path(), "intel-rapl:0:1", "dram", 30);
        // 900 to 1000 and on to 50, and 20 of memory.
        assert_eq!(rapl.energy_uj(), Some(170));
        fs::remove_file(root.path().join("intel-rapl:0:1/energy_uj")).unwrap();
        assert_eq!(rapl.energy_uj(), Some(170));
    }

    #[test]
    fn a_machine_that_does_not_tell_has_no_figure() {
        let root = tempfile::tempdir().unwrap();
        assert_eq!(Rapl::below(&root.path().join("none")).energy_uj(), None);
        assert_eq!(Rapl::below(root.path()).energy_uj(), None);
    }
}
