//! The thread pool of the kernels: every worker runs the same closure, then all meet again.
//!
//! A forward pass makes several hundred dispatches per token, each a few microseconds long, so waking threads through the
//! kernel every time would cost more than the work. Workers therefore spin for a short while after a job and only then
//! sleep. The limit is short because the load generator may share the cores: a worker that spins for milliseconds would
//! steal the time of the very client that measures it.
//!
//! For the same reason nobody waits for a worker that has nothing to do: when all chunks of a [`ThreadPool::split`] are
//! taken, the job closes, and a worker whose core was busy elsewhere finds it closed and goes back to waiting.

use std::any::Any;
use std::cell::{Cell, UnsafeCell};
use std::io;
use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crate::KernelError;

/// How long a thread spins before it sleeps: longer than the gaps inside a forward pass, shorter than a scheduler tick.
pub const DEFAULT_SPIN: Duration = Duration::from_micros(30);

/// A fixed set of threads. The calling thread is worker 0.
pub struct ThreadPool {
    shared: Arc<Shared>,
    handles: Vec<JoinHandle<()>>,
    /// One dispatch at a time; held for the whole of [`ThreadPool::run`].
    dispatch: Mutex<()>,
    /// Next chunk of each worker in [`ThreadPool::split`].
    cursors: Box<[Padded<AtomicUsize>]>,
}

/// A value alone on its cache lines (two, because the prefetcher fetches lines in pairs).
#[repr(align(128))]
struct Padded<T>(T);

type Job = *const (dyn Fn(usize) + Sync);

struct Shared {
    /// The state of the current job, see [`gate`].
    gate: Padded<AtomicU64>,
    job: UnsafeCell<Option<Job>>,
    shutdown: AtomicBool,
    /// Set with the first panic of the current job, which `panic` then holds.
    panicked: AtomicBool,
    panic: Mutex<Option<Box<dyn Any + Send>>>,
    start: Bell,
    done: Bell,
    spin: Duration,
}

/// One word, so that joining a job and closing it cannot miss each other: the number of the dispatch in the upper half, then
/// a bit that says that nobody may join any more, how many workers have joined, and how many of them still run.
mod gate {
    pub const RUNNING: u64 = 1;
    pub const JOINED: u64 = 1 << 15;
    pub const CLOSED: u64 = 1 << 31;
    pub const DISPATCH: u64 = 1 << 32;
    /// Workers that the fields have room for.
    pub const MAX_WORKERS: usize = (1 << 15) - 1;

    pub fn running(gate: u64) -> u64 {
        gate % JOINED
    }

    pub fn joined(gate: u64) -> u64 {
        gate % CLOSED / JOINED
    }

    pub fn is_closed(gate: u64) -> bool {
        gate & CLOSED != 0
    }

    pub fn dispatch(gate: u64) -> u64 {
        gate / DISPATCH
    }
}

/// Who has to take part in a job.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Crew {
    /// Every worker, once.
    All,
    /// Whoever comes before the caller has finished its own part, after which nothing is left to start.
    WhoeverComes,
}

// SAFETY: `job` is written only by the dispatching thread while the gate is closed and no worker runs, and read only by
// workers that have joined, whose exchange of the gate acquires what the opening released.
unsafe impl Sync for Shared {}
// SAFETY: the raw job pointer is only dereferenced while the dispatching thread keeps the closure alive; see `run`.
unsafe impl Send for Shared {}

thread_local! {
    /// Set while this thread runs a job, to catch a nested dispatch, which would wait for itself forever.
    static IN_JOB: Cell<bool> = const { Cell::new(false) };
}

impl ThreadPool {
    /// A pool of `threads` workers (at least one, the caller) that spin for [`DEFAULT_SPIN`].
    ///
    /// Error: the system refused a thread. Those already started have then ended.
    pub fn try_new(threads: usize) -> Result<Self, KernelError> {
        ThreadPool::with_spin(threads, DEFAULT_SPIN)
    }

    /// As [`ThreadPool::try_new`] for tests, benches and probes with a handful of threads: panics where that fails.
    pub fn new(threads: usize) -> Self {
        ThreadPool::try_new(threads).unwrap_or_else(|error| panic!("{error}"))
    }

    /// As [`ThreadPool::try_new`] with another spin limit; zero means always sleep.
    pub fn with_spin(threads: usize, spin: Duration) -> Result<Self, KernelError> {
        ThreadPool::start(threads, spin, |worker, shared| {
            let work = move || shared.work(worker);
            std::thread::Builder::new().name(format!("kernel-{worker}")).spawn(work)
        })
    }

    /// `spawn` starts the thread of one worker.
    fn start(
        threads: usize,
        spin: Duration,
        mut spawn: impl FnMut(usize, Arc<Shared>) -> io::Result<JoinHandle<()>>,
    ) -> Result<Self, KernelError> {
        let threads = threads.clamp(1, gate::MAX_WORKERS);
        let shared = Arc::new(Shared {
            gate: Padded(AtomicU64::new(gate::CLOSED)),
            job: UnsafeCell::new(None),
            shutdown: AtomicBool::new(false),
            panicked: AtomicBool::new(false),
            panic: Mutex::new(None),
            start: Bell::default(),
            done: Bell::default(),
            spin,
        });
        // A pool from the start, so that leaving early drops it, which ends the threads it has.
        let mut pool =
            ThreadPool { shared, handles: Vec::new(), dispatch: Mutex::new(()), cursors: Box::default() };
        for worker in 1..threads {
            let handle = spawn(worker, Arc::clone(&pool.shared)).map_err(|error| {
                KernelError::ThreadRefused { thread: worker + 1, threads, reason: error.to_string() }
            })?;
            pool.handles.push(handle);
        }
        pool.cursors = (0..threads).map(|_| Padded(AtomicUsize::new(0))).collect();
        Ok(pool)
    }

    /// Number of workers, the caller included.
    pub fn threads(&self) -> usize {
        self.cursors.len()
    }

    /// Runs `f(worker)` once on every worker and returns when all have finished.
    ///
    /// A panic in any worker is raised again here, after all others have finished; the pool stays usable.
    /// Panics when called from inside a job of a pool.
    pub fn run(&self, f: &(dyn Fn(usize) + Sync)) {
        let guard = self.lock();
        self.run_locked(guard, Crew::All, f);
    }

    /// Runs `f(worker, range)` over ranges of at most `chunk` items that together cover `0..items` exactly once.
    ///
    /// Each worker starts with its own contiguous share, so it reads the same memory in every call, and takes chunks from
    /// the others when it has finished: a worker that lost its core to another process does not hold up the rest.
    /// A single chunk runs on the caller alone, without waking anyone.
    pub fn split(&self, items: usize, chunk: usize, f: &(dyn Fn(usize, Range<usize>) + Sync)) {
        let chunk = chunk.max(1);
        let chunks = items.div_ceil(chunk);
        let range = |c: usize| c * chunk..items.min((c + 1) * chunk);
        let workers = self.threads();
        if workers == 1 || chunks <= 1 {
            (0..chunks).for_each(|c| f(0, range(c)));
            return;
        }
        let share = |worker: usize| chunks * worker / workers;
        let guard = self.lock();
        for (worker, cursor) in self.cursors.iter().enumerate() {
            // Published to the workers by the opening of the gate.
            cursor.0.store(share(worker), Ordering::Relaxed);
        }
        self.run_locked(guard, Crew::WhoeverComes, &|worker| {
            for offset in 0..workers {
                let owner = (worker + offset) % workers;
                loop {
                    let c = self.cursors[owner].0.fetch_add(1, Ordering::Relaxed);
                    if c >= share(owner + 1) {
                        break;
                    }
                    f(worker, range(c));
                }
            }
        });
    }

    fn lock(&self) -> MutexGuard<'_, ()> {
        assert!(!IN_JOB.get(), "a kernel job must not dispatch another job: it would wait for itself");
        self.dispatch.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn run_locked(&self, guard: MutexGuard<'_, ()>, crew: Crew, f: &(dyn Fn(usize) + Sync)) {
        let shared = &*self.shared;
        let others = self.handles.len() as u64;
        if others == 0 {
            let mine = run_job(|| f(0));
            drop(guard);
            return mine.unwrap_or_else(|payload| resume_unwind(payload));
        }
        // SAFETY: only the lifetime is erased. Workers use the pointer only while they are counted as running, and this
        // function does not return, or unwind, before the gate is closed and nobody runs.
        let job: Job =
            unsafe { std::mem::transmute::<&(dyn Fn(usize) + Sync), &'static (dyn Fn(usize) + Sync)>(f) };
        // SAFETY: no worker reads `job` now: the gate is closed and nobody runs.
        unsafe { *shared.job.get() = Some(job) };
        let dispatch = gate::dispatch(shared.gate.0.load(Ordering::Relaxed)).wrapping_add(1);
        shared.gate.0.store(dispatch.wrapping_mul(gate::DISPATCH), Ordering::SeqCst);
        shared.start.ring();
        let mine = run_job(|| f(0));
        let load = || shared.gate.0.load(Ordering::SeqCst);
        if crew == Crew::All {
            shared
                .done
                .wait_until(shared.spin, || gate::joined(load()) == others && gate::running(load()) == 0);
        }
        shared.gate.0.fetch_or(gate::CLOSED, Ordering::SeqCst);
        shared.done.wait_until(shared.spin, || gate::running(load()) == 0);
        let theirs = if shared.panicked.swap(false, Ordering::SeqCst) {
            shared.panic.lock().unwrap_or_else(PoisonError::into_inner).take()
        } else {
            None
        };
        drop(guard);
        if let Some(payload) = mine.err().or(theirs) {
            resume_unwind(payload);
        }
    }
}

impl Drop for ThreadPool {
    fn drop(&mut self) {
        self.shared.shutdown.store(true, Ordering::SeqCst);
        self.shared.start.ring();
        for handle in self.handles.drain(..) {
            // A worker catches the panics of its jobs, so joining cannot fail for a reason worth raising in a drop.
            let _ = handle.join();
        }
    }
}

impl Shared {
    /// True when there is a job to join other than dispatch `seen`.
    fn is_open(&self, seen: u64) -> bool {
        let gate = self.gate.0.load(Ordering::SeqCst);
        !gate::is_closed(gate) && gate::dispatch(gate) != seen
    }

    /// Takes part in the open job and returns its number, unless it has closed in the meantime.
    fn join(&self, seen: u64) -> Option<u64> {
        let joined = |gate| {
            let may = !gate::is_closed(gate) && gate::dispatch(gate) != seen;
            may.then_some(gate + gate::JOINED + gate::RUNNING)
        };
        let result = self.gate.0.fetch_update(Ordering::SeqCst, Ordering::SeqCst, joined);
        result.ok().map(gate::dispatch)
    }

    fn work(&self, worker: usize) {
        let mut seen = 0;
        loop {
            self.start.wait_until(self.spin, || self.shutdown.load(Ordering::SeqCst) || self.is_open(seen));
            if self.shutdown.load(Ordering::SeqCst) {
                return;
            }
            let Some(dispatch) = self.join(seen) else { continue };
            seen = dispatch;
            // SAFETY: this worker has joined, so the dispatching thread has written the job and waits for it to finish.
            let job = unsafe { (*self.job.get()).expect("an open gate without a job") };
            // SAFETY: the closure outlives this call because the dispatching thread waits for the subtraction below.
            let result = run_job(|| unsafe { (*job)(worker) });
            if let Err(payload) = result {
                self.panic.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(payload);
                self.panicked.store(true, Ordering::SeqCst);
            }
            let before = self.gate.0.fetch_sub(gate::RUNNING, Ordering::SeqCst);
            if gate::running(before) == 1 {
                self.done.ring();
            }
        }
    }
}

fn run_job(f: impl FnOnce()) -> Result<(), Box<dyn Any + Send>> {
    IN_JOB.set(true);
    // Unwind safety: a panicking job's outputs are never read, because the panic is raised again in the caller.
    let result = catch_unwind(AssertUnwindSafe(f));
    IN_JOB.set(false);
    result
}

/// Lets threads spin, then sleep, until a condition over sequentially consistent atomics holds.
#[derive(Default)]
struct Bell {
    sleepers: AtomicU32,
    lock: Mutex<()>,
    condvar: Condvar,
}

impl Bell {
    /// A thread that was woken for nothing, because what woke it was over before it ran, spins again before it sleeps: the
    /// next ring is probably near.
    fn wait_until(&self, spin: Duration, ready: impl Fn() -> bool) {
        while !ready() && !spin_until(spin, &ready) {
            let guard = self.lock.lock().unwrap_or_else(PoisonError::into_inner);
            // The order matters: announce first, test second. The other side changes the condition first and looks for
            // sleepers second, so at least one of the two sees the other.
            self.sleepers.fetch_add(1, Ordering::SeqCst);
            if !ready() {
                drop(self.condvar.wait(guard).unwrap_or_else(PoisonError::into_inner));
            }
            self.sleepers.fetch_sub(1, Ordering::SeqCst);
        }
    }

    /// Wakes sleepers. Call after the change that makes their condition true.
    fn ring(&self) {
        if self.sleepers.load(Ordering::SeqCst) > 0 {
            // A sleeper between its test and its wait holds the lock, so passing through the lock cannot miss it.
            drop(self.lock.lock().unwrap_or_else(PoisonError::into_inner));
            self.condvar.notify_all();
        }
    }
}

#[allow(clippy::disallowed_methods, reason = "bounds how long a thread may spin; no result depends on it")]
fn spin_until(limit: Duration, ready: &impl Fn() -> bool) -> bool {
    if limit.is_zero() {
        return false;
    }
    let spin = || {
        (0..32).any(|_| {
            std::hint::spin_loop();
            ready()
        })
    };
    // Most waits end here, before the clock is read once.
    if spin() {
        return true;
    }
    let start = Instant::now();
    while start.elapsed() < limit {
        if spin() {
            return true;
        }
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_worker_runs_every_job_once() {
        for spin in [Duration::ZERO, DEFAULT_SPIN] {
            for threads in [1, 2, 5] {
                let pool = ThreadPool::with_spin(threads, spin).unwrap();
                let counts: Vec<AtomicUsize> = (0..threads).map(|_| AtomicUsize::new(0)).collect();
                for round in 1..=10_000 {
                    pool.run(&|worker| {
                        counts[worker].fetch_add(1, Ordering::Relaxed);
                    });
                    if round % 1000 == 0 {
                        assert!(
                            counts.iter().all(|c| c.load(Ordering::Relaxed) == round),
                            "threads {threads}"
                        );
                    }
                    // Idle gaps of both kinds: shorter and longer than the spin limit.
                    if round % 997 == 0 {
                        std::thread::sleep(DEFAULT_SPIN * 4);
                    }
                }
            }
        }
    }

    #[test]
    fn split_covers_every_item_exactly_once() {
        for threads in [1, 2, 3] {
            let pool = ThreadPool::new(threads);
            for items in [0, 1, 7, 64, 1000] {
                for chunk in [1, 3, 64, 5000] {
                    let hits: Vec<AtomicUsize> = (0..items).map(|_| AtomicUsize::new(0)).collect();
                    pool.split(items, chunk, &|_, range| {
                        assert!(range.len() <= chunk);
                        range.for_each(|i| {
                            hits[i].fetch_add(1, Ordering::Relaxed);
                        });
                    });
                    assert!(hits.iter().all(|h| h.load(Ordering::Relaxed) == 1), "{threads} {items} {chunk}");
                }
            }
        }
    }

    /// A worker that is held up elsewhere must not hold up a job whose chunks others have taken.
    #[test]
    fn split_waits_for_nobody_who_has_nothing_to_do() {
        let pool =
            ThreadPool::start(3, Duration::ZERO, |_, _| std::thread::Builder::new().spawn(|| ())).unwrap();
        let done = AtomicUsize::new(0);
        for round in 1..=100 {
            pool.split(64, 4, &|worker, range| {
                assert_eq!(worker, 0, "the other workers never came");
                done.fetch_add(range.len(), Ordering::Relaxed);
            });
            assert_eq!(done.load(Ordering::Relaxed), 64 * round);
        }
    }

    /// Jobs so short that workers come late, in between, or in time: every chunk is done once, by whoever came.
    #[test]
    fn late_workers_never_run_a_closed_job() {
        for spin in [Duration::ZERO, DEFAULT_SPIN] {
            let pool = ThreadPool::with_spin(4, spin).unwrap();
            for round in 0..20_000usize {
                // On the stack of this round: a worker that ran late would read freed memory or count too much.
                let counts: [AtomicUsize; 8] = Default::default();
                pool.split(8, 1, &|_, range| {
                    counts[range.start].fetch_add(round, Ordering::Relaxed);
                });
                assert!(counts.iter().all(|count| count.load(Ordering::Relaxed) == round));
            }
        }
    }

    #[test]
    fn a_panic_in_any_worker_reaches_the_caller_and_leaves_the_pool_usable() {
        let pool = ThreadPool::new(3);
        for bad in 0..3 {
            for _ in 0..20 {
                let result = catch_unwind(AssertUnwindSafe(|| {
                    pool.run(&|worker| assert!(worker != bad, "worker {worker} fails"));
                }));
                let payload = result.unwrap_err();
                assert_eq!(payload.downcast_ref::<String>().unwrap(), &format!("worker {bad} fails"));
            }
        }
        let sum = AtomicUsize::new(0);
        pool.run(&|worker| {
            sum.fetch_add(worker, Ordering::Relaxed);
        });
        assert_eq!(sum.into_inner(), 3);
    }

    #[test]
    fn a_nested_dispatch_is_refused_instead_of_hanging() {
        let pool = ThreadPool::new(2);
        let result = catch_unwind(AssertUnwindSafe(|| pool.run(&|_| pool.run(&|_| {}))));
        assert!(result.unwrap_err().downcast_ref::<&str>().unwrap().contains("must not dispatch"));
    }

    #[test]
    fn a_refused_thread_is_an_error_and_ends_those_already_started() {
        for spin in [Duration::ZERO, DEFAULT_SPIN] {
            let ended = Arc::new(AtomicUsize::new(0));
            let result = ThreadPool::start(4, spin, |worker, shared| {
                if worker == 3 {
                    return Err(io::Error::from(io::ErrorKind::WouldBlock));
                }
                let ended = Arc::clone(&ended);
                std::thread::Builder::new().spawn(move || {
                    shared.work(worker);
                    ended.fetch_add(1, Ordering::SeqCst);
                })
            });
            let error = result.err().unwrap();
            assert!(matches!(error, KernelError::ThreadRefused { thread: 4, threads: 4, .. }), "{error}");
            assert_eq!(ended.load(Ordering::SeqCst), 2);
        }
    }

    #[test]
    fn two_callers_share_one_pool() {
        let pool = ThreadPool::new(2);
        let total = AtomicUsize::new(0);
        std::thread::scope(|scope| {
            for _ in 0..2 {
                scope.spawn(|| {
                    for _ in 0..2000 {
                        pool.run(&|_| {
                            total.fetch_add(1, Ordering::Relaxed);
                        });
                    }
                });
            }
        });
        assert_eq!(total.into_inner(), 2 * 2000 * 2);
    }
}
