//! Prints what a parallel region costs: the time from dispatch to return of a job that does nothing, which a forward pass pays
//! a few hundred times per token.
//!
//! `cargo bench -p llmlab-kernels --bench regions -- [--threads N]`

use std::hint::black_box;
use std::time::Instant;

use llmlab_kernels::ThreadPool;

const REGIONS: u32 = 200;
const ROUNDS: usize = 500;

#[allow(clippy::disallowed_methods, reason = "a benchmark measures time")]
fn main() {
    let arguments: Vec<String> = std::env::args().collect();
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let threads = arguments.iter().position(|a| a == "--threads").and_then(|i| arguments.get(i + 1));
    let threads = threads.map_or(cores, |n| n.parse().expect("--threads takes a number"));
    let pool = ThreadPool::new(threads);
    let round = |name: &str, region: &dyn Fn()| {
        let mut times: Vec<f64> = (0..ROUNDS)
            .map(|_| {
                let start = Instant::now();
                (0..REGIONS).for_each(|_| region());
                start.elapsed().as_secs_f64() * 1e9 / f64::from(REGIONS)
            })
            .collect();
        times.sort_by(f64::total_cmp);
        let [best, median, bad] = [0, ROUNDS / 2, ROUNDS * 9 / 10].map(|i| times[i]);
        println!("{name:<28} best {best:>8.0} ns   median {median:>8.0} ns   9 of 10 {bad:>8.0} ns");
    };
    println!("{threads} threads, means over {REGIONS} regions");
    round("every worker, no work", &|| {
        pool.run(&|worker| {
            black_box(worker);
        })
    });
    round("a chunk per worker, no work", &|| {
        pool.split(threads, 1, &|worker, _| {
            black_box(worker);
        });
    });
}
