//! `[[claim]]` tables.

use toml::Spanned;

use super::run_name;
use crate::error::{Finding, unknown_value};
use crate::scenario::ClaimTable;
use crate::spec::{CLAIM_METRICS, ClaimSpec, TargetSpec};

const MAX_CLAIMS: usize = 32;
const MAX_RATIO: f64 = 1000.0;

pub(super) fn resolve(
    tables: &[Spanned<ClaimTable>],
    targets: &[TargetSpec],
) -> Result<Vec<ClaimSpec>, Finding> {
    if let Some(extra) = tables.get(MAX_CLAIMS) {
        return Err(Finding::new(extra.span(), format!("more than {MAX_CLAIMS} claims")));
    }
    let mut claims: Vec<ClaimSpec> = Vec::new();
    for table in tables {
        let claim = claim(table.get_ref(), targets)?;
        if claims.iter().any(|known| known.name == claim.name) {
            let span = table.get_ref().name.span();
            return Err(Finding::new(span, format!("two claims are named \"{}\"", claim.name))
                .help("a claim's name joins its live and its simulated scenario; give each its own"));
        }
        claims.push(claim);
    }
    Ok(claims)
}

fn claim(table: &ClaimTable, targets: &[TargetSpec]) -> Result<ClaimSpec, Finding> {
    let ClaimTable { name, says, source, metric, ratio, target, against } = table;
    let metric_name = metric.get_ref().as_str();
    if !CLAIM_METRICS.contains(&metric_name) {
        return Err(unknown_value(metric.span(), "metric", metric_name, &CLAIM_METRICS));
    }
    let (least, most) = *ratio.get_ref();
    if !(least > 0.0 && least <= most && most <= MAX_RATIO) {
        return Err(Finding::new(ratio.span(), format!("ratio is [{least}, {most}]"))
            .label(format!("must be [least, most] with 0 < least <= most <= {MAX_RATIO}"))
            .help("how many times better `target` is said to be than `against`"));
    }
    let known = |written: &Spanned<String>| {
        let names: Vec<&str> = targets.iter().map(|target| target.name.as_str()).collect();
        if names.contains(&written.get_ref().as_str()) {
            return Ok(written.get_ref().clone());
        }
        Err(unknown_value(written.span(), "target", written.get_ref(), &names))
    };
    let (compared, baseline) = (known(target)?, known(against)?);
    if compared == baseline {
        return Err(Finding::new(against.span(), "a claim compares two different targets"));
    }
    for text in [says, source] {
        if text.get_ref().trim().is_empty() {
            return Err(
                Finding::new(text.span(), "is empty").label("says and source are what a reader checks")
            );
        }
    }
    Ok(ClaimSpec {
        name: run_name(name)?,
        says: says.get_ref().trim().to_owned(),
        source: source.get_ref().trim().to_owned(),
        metric: metric_name.to_owned(),
        ratio: (least, most),
        target: compared,
        against: baseline,
    })
}
