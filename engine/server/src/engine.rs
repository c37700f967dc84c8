//! The HTTP side's view of the engine: submit a request, read its updates, drop it to cancel.

use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::mpsc::Sender;
use std::sync::{Arc, OnceLock};
use std::time::Instant;

use llmlab_core::request::{
    At, FinishReason, LoraId, Request, RequestId, SamplingParams, StopRules, TokenId,
};
use tokio::sync::mpsc;

use crate::error::ApiError;

/// Time since the engine started. One clock for arrival stamps, scheduling and the step log, so that their differences
/// mean something.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Clock {
    start: Instant,
    start_monotonic_ns: u64,
}

impl Clock {
    #[allow(
        clippy::disallowed_methods,
        reason = "the engine's clock starts here; everything below it is handed `At`"
    )]
    pub fn start() -> Self {
        let monotonic = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
        let start_monotonic_ns = monotonic.tv_sec as u64 * 1_000_000_000 + monotonic.tv_nsec as u64;
        Clock { start: Instant::now(), start_monotonic_ns }
    }

    pub fn now(self) -> At {
        self.start.elapsed()
    }

    /// The same moment on CLOCK_MONOTONIC, which other processes of this machine can compare with theirs.
    pub fn monotonic_ns(self, at: At) -> u64 {
        self.start_monotonic_ns + at.as_nanos() as u64
    }
}

/// What the engine thread tells the reader of one request, in order: `Accepted` or `Refused`, tokens, an end.
#[derive(Debug, Clone)]
pub(crate) enum Update {
    Accepted,
    /// The scheduler will not take it; the reason is the client's to fix.
    Refused(String),
    /// `finished` comes with the last token wherever there is one.
    Token {
        token: TokenId,
        finished: Option<FinishReason>,
    },
    /// Ended without a token in that step.
    Finished(FinishReason),
    /// The server's fault, or its shutdown.
    Failed(Box<ApiError>),
}

pub(crate) enum Command {
    Submit(Submission),
    /// The reader is gone (`Abort`) or has enough (`Stop`, a stop string was found).
    End {
        id: RequestId,
        reason: FinishReason,
    },
    /// Fail what is left and end the thread.
    Shutdown,
}

pub(crate) struct Submission {
    pub request: Request,
    pub arrived: At,
    pub slot: QueueSlot,
    pub updates: mpsc::Sender<Update>,
}

/// A place in the bounded queue, given back when dropped.
pub(crate) struct QueueSlot(Arc<AtomicUsize>);

impl QueueSlot {
    fn take(queued: &Arc<AtomicUsize>, limit: usize) -> Option<QueueSlot> {
        let taken =
            queued.fetch_update(Ordering::AcqRel, Ordering::Acquire, |n| (n < limit).then_some(n + 1));
        taken.ok().map(|_| QueueSlot(queued.clone()))
    }
}

impl Drop for QueueSlot {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::AcqRel);
    }
}

/// Shared by every handler; the engine thread holds the other end of `commands`.
pub(crate) struct Engine {
    commands: Sender<Command>,
    clock: Clock,
    next_id: AtomicU64,
    /// Submitted and not yet scheduled for the first time.
    queued: Arc<AtomicUsize>,
    max_queue: usize,
    max_unread_tokens: usize,
    draining: AtomicBool,
    /// Set once by the engine thread, before it fails its requests.
    failure: Arc<OnceLock<String>>,
}

impl Engine {
    pub fn new(
        commands: Sender<Command>,
        clock: Clock,
        failure: Arc<OnceLock<String>>,
        max_queue: usize,
        max_unread_tokens: usize,
    ) -> Self {
        Engine {
            commands,
            clock,
            next_id: AtomicU64::new(1),
            queued: Arc::new(AtomicUsize::new(0)),
            max_queue,
            max_unread_tokens,
            draining: AtomicBool::new(false),
            failure,
        }
    }

    pub fn arrival(&self) -> At {
        self.clock.now()
    }

    /// Why no new request can be taken, if so.
    pub fn unavailable(&self) -> Option<ApiError> {
        if let Some(reason) = self.failure.get() {
            return Some(ApiError::unavailable(format!("the engine stopped: {reason}")));
        }
        self.draining.load(Ordering::Acquire).then(ApiError::draining)
    }

    pub fn start_draining(&self) {
        self.draining.store(true, Ordering::Release);
    }

    /// A false answer means that the thread is gone already.
    pub fn shut_down(&self) -> bool {
        self.commands.send(Command::Shutdown).is_ok()
    }

    /// Queues a request and waits for the scheduler's answer, at most one step long.
    pub async fn submit(
        self: &Arc<Self>,
        arrived: At,
        prompt: Arc<[TokenId]>,
        sampling: impl FnOnce(u64) -> SamplingParams,
        stop: StopRules,
        priority: i32,
        lora: Option<LoraId>,
    ) -> Result<Updates, ApiError> {
        if let Some(error) = self.unavailable() {
            return Err(error);
        }
        let slot = QueueSlot::take(&self.queued, self.max_queue)
            .ok_or_else(|| ApiError::queue_full(self.max_queue))?;
        let id = RequestId(self.next_id.fetch_add(1, Ordering::Relaxed));
        // Room for the acceptance and the end beside the tokens.
        let (sender, receiver) = mpsc::channel(self.max_unread_tokens + 2);
        let request =
            Request { id, prompt, sampling: sampling(id.0), stop, priority, lora, skip_prefix_cache: false };
        let submission = Submission { request, arrived, slot, updates: sender };
        if self.commands.send(Command::Submit(submission)).is_err() {
            return Err(self.gone());
        }
        let mut updates = Updates { id, receiver, engine: self.clone(), open: true };
        match updates.next().await {
            Update::Accepted => Ok(updates),
            Update::Refused(reason) => Err(ApiError::bad_request(reason)),
            Update::Failed(error) => Err(*error),
            other => panic!("request {} began with {other:?}", id.0),
        }
    }

    /// What to say when the engine let go of a request without a word.
    fn gone(&self) -> ApiError {
        match self.failure.get() {
            Some(reason) => ApiError::internal(format!("the engine stopped: {reason}")),
            None if self.draining.load(Ordering::Acquire) => ApiError::draining(),
            None => ApiError::internal("the request was cancelled because its output was read too slowly"),
        }
    }
}

/// The reading end of one request. Dropping it before the end cancels the request and frees its blocks.
pub(crate) struct Updates {
    pub id: RequestId,
    receiver: mpsc::Receiver<Update>,
    engine: Arc<Engine>,
    open: bool,
}

impl Updates {
    pub async fn next(&mut self) -> Update {
        let update =
            self.receiver.recv().await.unwrap_or_else(|| Update::Failed(Box::new(self.engine.gone())));
        self.open = matches!(update, Update::Accepted | Update::Token { finished: None, .. });
        update
    }

    /// Enough was read: the rest is not needed, and that is a success.
    pub fn stop(&mut self) {
        self.end(FinishReason::Stop);
    }

    fn end(&mut self, reason: FinishReason) {
        if std::mem::take(&mut self.open) {
            // An engine that is gone has nothing left to free.
            let _ = self.engine.commands.send(Command::End { id: self.id, reason });
        }
    }
}

impl Drop for Updates {
    fn drop(&mut self) {
        self.end(FinishReason::Abort);
    }
}
