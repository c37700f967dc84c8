//! One answer on its way: each event at its time, its time noted, and the faults that strike inside a stream.

use std::io;
use std::sync::atomic::Ordering;
use std::time::Duration;

use llmlab_loadgen::At;
use tokio::io::AsyncWriteExt;

use crate::answering::{Answering, Asked};
use crate::connection::Shared;
use crate::fault::Fault;
use crate::http::{STREAM_END, answer, chunk};
use crate::log::Entry;
use crate::stream::Stream;
use crate::timing::Timetable;

/// Above what any client should keep of one event.
pub(crate) const HUGE_EVENT_BYTES: usize = 17 << 20;
/// Events that are due together are written together, up to here.
const MOST_TOGETHER_BYTES: usize = 64 << 10;
const DRIP: Duration = Duration::from_secs(1);

pub(crate) struct Sending<'a> {
    pub stream: &'a mut Stream,
    pub shared: &'a Shared,
    pub entry: Entry,
    pub timetable: Timetable<'a>,
    pub fault: Option<Fault>,
    /// Bytes of events whose time has come, and of the one whose time is waited for.
    pub due: Vec<u8>,
    /// When the clock was read last. What was due then needs no other look.
    pub looked: At,
}

impl Sending<'_> {
    /// Everything when the last token is due. True when the connection may be used again.
    pub(crate) async fn whole(mut self, asked: &Asked, response: &dyn Answering) -> io::Result<bool> {
        let events = asked.tokens.div_ceil(self.tokens_per_event());
        let due = (0..events).map(|_| self.timetable.next_event()).last().unwrap_or_default();
        let bytes = answer(200, "application/json", "", &response.whole());
        self.due = bytes;
        self.event(due, asked.tokens).await;
        self.flush().await?;
        self.entry.served.done_ns = self.entry.served.sent_ns.last().copied();
        Ok(true)
    }

    /// Head and opening at once, then the events: what is due together is written together. True when the connection may be used again.
    pub(crate) async fn stream(mut self, asked: &Asked, response: &dyn Answering) -> io::Result<bool> {
        let mut head = response.head();
        head.extend(response.opening());
        let each = self.tokens_per_event();
        let events = asked.tokens.div_ceil(each);
        let mut due = self.timetable.next_event();
        self.due = head;
        if !self.has_come(due) {
            self.flush().await?;
        }
        for event in 0..events {
            let so_far = (event + 1).saturating_mul(each).min(asked.tokens);
            let tokens = so_far - event * each;
            if event == events / 2
                && let Some(fault) = self.fault
            {
                self.flush().await?;
                if self.strike(fault, due, response, (tokens, so_far)).await? {
                    return Ok(false);
                }
            }
            // Made before its time, so that only the write is left.
            response.event(tokens, so_far, &mut self.due);
            self.event(due, tokens).await;
            due = self.timetable.next_event();
            let together = self.due.len() < MOST_TOGETHER_BYTES && self.has_come(due);
            if event + 1 < events && !together {
                self.flush().await?;
            }
        }
        // The last event goes with what ends the stream.
        response.closing(&mut self.due);
        let complete = self.fault != Some(Fault::NoDone);
        self.due.extend_from_slice(STREAM_END);
        let written = self.flush().await;
        let served = &mut self.entry.served;
        served.done_ns = if complete { served.sent_ns.last().copied() } else { None };
        written?;
        Ok(true)
    }

    /// Waits for the time of the event that was made last. It is written with those that follow at once.
    async fn event(&mut self, due: At, tokens: u32) {
        if !self.has_come(due) {
            self.shared.alarms.until(due).await;
        }
        self.shared.counts.tokens.fetch_add(u64::from(tokens), Ordering::Relaxed);
        self.entry.served.due_ns.push(self.shared.monotonic_ns(due));
    }

    fn has_come(&mut self, due: At) -> bool {
        if due > self.looked {
            self.looked = self.shared.clock.now();
        }
        due <= self.looked
    }

    /// Writes the events that are due, and notes when.
    async fn flush(&mut self) -> io::Result<()> {
        let served = &mut self.entry.served;
        let now = self.shared.monotonic_ns(self.shared.clock.now());
        served.sent_ns.resize(served.due_ns.len(), now);
        let written = self.stream.write_all(&self.due).await;
        self.due.clear();
        written?;
        // TLS may hold back what the socket did not take.
        self.stream.flush().await
    }

    /// What happens in the middle of the stream in place of an event of `(tokens, so_far)`, or before it. True when that is the
    /// end.
    async fn strike(
        &mut self,
        fault: Fault,
        due: At,
        response: &dyn Answering,
        (tokens, so_far): (u32, u32),
    ) -> io::Result<bool> {
        let mut bytes = Vec::new();
        response.event(tokens, so_far, &mut bytes);
        self.shared.alarms.until(due).await;
        match fault {
            Fault::CutMidEvent => self.stream.write_all(&bytes[..bytes.len() / 2]).await?,
            Fault::SlowDrip => {
                // Until the client has had enough.
                for (byte, second) in bytes.iter().cycle().zip(1..) {
                    self.stream.write_all(&[*byte]).await?;
                    self.shared.alarms.until(due + DRIP * second).await;
                }
            }
            Fault::HugeEvent => {
                let mut piece = Vec::new();
                chunk(&mut piece, &[b'x'; 64 << 10]);
                let mut start = Vec::new();
                chunk(&mut start, b"data: ");
                self.stream.write_all(&start).await?;
                for _ in 0..HUGE_EVENT_BYTES.div_ceil(64 << 10) {
                    self.stream.write_all(&piece).await?;
                }
            }
            Fault::MalformedJson => {
                self.stream.write_all(&response.frame(r#"{"choices":[{"index":0,"#)).await?;
                return Ok(false);
            }
            _ => return Ok(false),
        }
        Ok(true)
    }

    fn tokens_per_event(&self) -> u32 {
        self.shared.config.timing.tokens_per_event.max(1)
    }
}
