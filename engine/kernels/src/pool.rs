//! The thread pool of the kernels: every worker runs the same closure, then all meet again.
//!
//! A forward pass makes several hundred dispatches per token, each a few microseconds long, so waking threads through the
//! kernel every time would cost more than the work. Workers therefore spin for a short while after a job and only then
//! sleep. The limit is short because the load generator may share the cores: a worker that spins for milliseconds would
//! steal the time of the very client that measures it.

use std::any::Any;
use std::cell::{Cell, UnsafeCell};
use std::io;
use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicUsize, Ordering};
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
    /// Counts dispatches; a worker starts when it differs from the last one it saw.
    epoch: Padded<AtomicU32>,
    /// Workers, besides the caller, that still run the current job.
    remaining: Padded<AtomicUsize>,
    job: UnsafeCell<Option<Job>>,
    shutdown: AtomicBool,
    /// The first panic of the current job.
    panic: Mutex<Option<Box<dyn Any + Send>>>,
    start: Bell,
    done: Bell,
    spin: Duration,
}

// SAFETY: `job` is written only by the dispatching thread while no worker runs (between `remaining == 0` and the release
// increment of `epoch`), and read by workers only after they acquire that increment.
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
        let threads = threads.max(1);
        let shared = Arc::new(Shared {
            epoch: Padded(AtomicU32::new(0)),
            remaining: Padded(AtomicUsize::new(0)),
            job: UnsafeCell::new(None),
            shutdown: AtomicBool::new(false),
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
        self.run_locked(guard, f);
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
            // Published to the workers by the release increment of the epoch.
            cursor.0.store(share(worker), Ordering::Relaxed);
        }
        self.run_locked(guard, &|worker| {
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

    fn run_locked(&self, guard: MutexGuard<'_, ()>, f: &(dyn Fn(usize) + Sync)) {
        let shared = &*self.shared;
        let others = self.handles.len();
        if others > 0 {
            // SAFETY: only the lifetime is erased. Workers use the pointer before they decrement `remaining`, and this
            // function does not return, or unwind, before `remaining` is zero.
            let job: Job =
                unsafe { std::mem::transmute::<&(dyn Fn(usize) + Sync), &'static (dyn Fn(usize) + Sync)>(f) };
            // SAFETY: no worker reads `job` now: `remaining` is zero and the epoch has not moved.
            unsafe { *shared.job.get() = Some(job) };
            shared.remaining.0.store(others, Ordering::Relaxed);
            shared.epoch.0.fetch_add(1, Ordering::SeqCst);
            shared.start.ring();
        }
        let mine = run_job(|| f(0));
        if others > 0 {
            shared.done.wait_until(shared.spin, || shared.remaining.0.load(Ordering::SeqCst) == 0);
        }
        let theirs = shared.panic.lock().unwrap_or_else(PoisonError::into_inner).take();
        drop(guard);
        if let Some(payload) = mine.err().or(theirs) {
            resume_unwind(payload);
        }
    }
}

impl Drop for ThreadPool {
    fn drop(&mut self) {
        self.shared.shutdown.store(true, Ordering::SeqCst);
        self.shared.epoch.0.fetch_add(1, Ordering::SeqCst);
        self.shared.start.ring();
        for handle in self.handles.drain(..) {
            // A worker catches the panics of its jobs, so joining cannot fail for a reason worth raising in a drop.
            let _ = handle.join();
        }
    }
}

impl Shared {
    fn work(&self, worker: usize) {
        let mut seen = 0;
        loop {
            self.start.wait_until(self.spin, || self.epoch.0.load(Ordering::SeqCst) != seen);
            seen = self.epoch.0.load(Ordering::SeqCst);
            if self.shutdown.load(Ordering::SeqCst) {
                return;
            }
            // SAFETY: the epoch moved, so the dispatching thread has written the job and waits for `remaining`.
            let job = unsafe { (*self.job.get()).expect("an epoch without a job") };
            // SAFETY: the closure outlives this call because the dispatching thread waits for the decrement below.
            let result = run_job(|| unsafe { (*job)(worker) });
            if let Err(payload) = result {
                self.panic.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(payload);
            }
            if self.remaining.0.fetch_sub(1, Ordering::SeqCst) == 1 {
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
    fn wait_until(&self, spin: Duration, ready: impl Fn() -> bool) {
        if ready() || spin_until(spin, &ready) {
            return;
        }
        let mut guard = self.lock.lock().unwrap_or_else(PoisonError::into_inner);
        // The order matters: announce first, test second. The other side changes the condition first and looks for
        // sleepers second, so at least one of the two sees the other.
        self.sleepers.fetch_add(1, Ordering::SeqCst);
        while !ready() {
            guard = self.condvar.wait(guard).unwrap_or_else(PoisonError::into_inner);
        }
        self.sleepers.fetch_sub(1, Ordering::SeqCst);
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
    let start = Instant::now();
    loop {
        for _ in 0..32 {
            if ready() {
                return true;
            }
            std::hint::spin_loop();
        }
        if start.elapsed() >= limit {
            return false;
        }
    }
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
