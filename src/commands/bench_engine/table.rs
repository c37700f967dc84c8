//! The same rows for people.

use super::row::{Row, Subject};
use crate::text::bytes;

pub const SINGLE_HEADER: &str = "  test                  tok/s  of bandwidth  of compute  read GB/s";
pub const BATCH_HEADER: &str = "     PP    TG   B   N_KV    T_PP s  S_PP t/s    T_TG s  S_TG t/s       T s     S t/s   PP:comp.  TG:band.  TG:comp.  read GB/s";

/// What follows is about this executor.
pub fn title(subject: &Subject) -> String {
    format!(
        "{} weights ({} in memory), {} KV ({} per token), compute peak {} {:.0} Gop/s",
        subject.weights,
        bytes(subject.weight_bytes),
        subject.kv,
        bytes(subject.kv_bytes_per_token),
        subject.peak,
        subject.peak_ops_per_s / 1e9
    )
}

/// pp and tg at batch 1.
pub fn single(row: &Row) -> String {
    format!(
        "  {:<6} {:>20}  {:>12}  {:>10}  {:>9}",
        row.test,
        format!("{:.2} ± {:.2}", row.speed, row.speed_stddev),
        percent(row.tg_bandwidth_share),
        percent(row.pp_compute_share.or(row.tg_compute_share)),
        bandwidth(row)
    )
}

pub fn batch(row: &Row) -> String {
    let number = |value: Option<f64>, digits: usize| {
        value.map_or_else(|| "-".to_string(), |value| format!("{value:.digits$}"))
    };
    format!(
        "  {:>5} {:>5} {:>3} {:>6}  {:>8}  {:>8}  {:>8}  {:>8}  {:>8}  {:>8}   {:>8}  {:>8}  {:>8}  {:>9}",
        row.sizes.pp,
        row.sizes.tg,
        row.sizes.pl,
        row.n_kv,
        number(row.t_pp, 3),
        number(row.speed_pp, 2),
        number(row.t_tg, 3),
        number(row.speed_tg, 2),
        number(Some(row.t), 3),
        number(Some(row.speed), 2),
        percent(row.pp_compute_share),
        percent(row.tg_bandwidth_share),
        percent(row.tg_compute_share),
        bandwidth(row)
    )
}

/// Said once, after the tables.
pub fn legend(rows: &[Row]) -> String {
    let mut text = String::from(
        "PP, pp: prompt tokens computed; TG, tg: tokens generated, one a step by each of B sequences. S columns are tokens per second\n\
         over all sequences, means over the repetitions.\n\
         band.: weights, keys and values moved per second over the read bandwidth measured every few steps on the same\n\
         threads; above 100 % they came from the cache. comp.: operations per second over the arithmetic peak. Few sequences are\n\
         bound by bandwidth, prompts and large batches by compute: the larger share says how near the limit the engine is.",
    );
    let low = rows.iter().map(|row| row.read_bandwidth_min_bytes_per_s).fold(f64::INFINITY, f64::min);
    let high = rows.iter().map(|row| row.read_bandwidth_max_bytes_per_s).fold(0.0, f64::max);
    if high > 1.25 * low {
        text.push_str(&format!(
            "\nThe read bandwidth of this machine moved between {:.1} and {:.1} GB/s meanwhile: compare the shares, not the tok/s.",
            low / 1e9,
            high / 1e9
        ));
    }
    text
}

/// Lowest and highest probe.
fn bandwidth(row: &Row) -> String {
    let (low, high) = (row.read_bandwidth_min_bytes_per_s / 1e9, row.read_bandwidth_max_bytes_per_s / 1e9);
    format!("{low:.0}-{high:.0}")
}

fn percent(share: Option<f64>) -> String {
    share.map_or_else(|| "-".into(), |share| format!("{:.0} %", 100.0 * share))
}

#[cfg(test)]
mod tests {
    use super::super::row::Sizes;
    use super::super::row::tests::{repetition, subject};
    use super::*;

    /// Where each heading ends, a value ends.
    #[test]
    fn numbers_stand_under_their_headings() {
        let ends = |line: &str| -> Vec<usize> {
            let chars: Vec<char> = line.chars().collect();
            // A cell ends where at least two spaces, or the line's end, follow; one space may be inside a cell.
            (1..=chars.len())
                .filter(|&at| chars[at - 1] != ' ' && chars.get(at).is_none_or(|c| *c == ' '))
                .collect()
        };
        let sizes = Sizes { pp: 128, tg: 128, pl: 32 };
        let row = Row::new(&subject(), "batch".into(), sizes, &[repetition(1000)]);
        let line = batch(&row);
        let cells = ends(&line);
        // " s" and " t/s" and " %" belong to the cell before them, so only the last end of each heading is compared.
        for heading in [
            "PP",
            "TG",
            "B",
            "N_KV",
            "T_PP s",
            "S_PP t/s",
            "T_TG s",
            "S_TG t/s",
            "PP:comp.",
            "TG:band.",
            "read GB/s",
        ] {
            let end = BATCH_HEADER.find(heading).unwrap() + heading.len();
            assert!(cells.contains(&end), "{heading} ends at {end}\n{BATCH_HEADER}\n{line}");
        }
        let line = single(&Row::new(
            &subject(),
            "tg128".into(),
            Sizes { pp: 0, tg: 128, pl: 1 },
            &[repetition(1000)],
        ));
        for heading in ["tok/s", "of bandwidth", "of compute", "read GB/s"] {
            let end = SINGLE_HEADER.find(heading).unwrap() + heading.len();
            assert!(ends(&line).contains(&end), "{heading} ends at {end}\n{SINGLE_HEADER}\n{line}");
        }
    }

    #[test]
    fn a_machine_that_changed_its_speed_is_said_to_have() {
        let steady =
            Row::new(&subject(), "tg128".into(), Sizes { pp: 0, tg: 128, pl: 1 }, &[repetition(1000)]);
        let changed = Row { read_bandwidth_min_bytes_per_s: 30e9, ..steady.clone() };
        assert!(legend(&[steady.clone(), changed]).contains("between 30.0 and 80.0 GB/s"));
        let steady = Row { read_bandwidth_min_bytes_per_s: 75e9, ..steady };
        assert!(!legend(&[steady]).contains("meanwhile"));
    }
}
