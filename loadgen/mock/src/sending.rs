//! One answer on its way: each event at its time, its time noted, and the faults that strike inside a stream.

use std::io;
use std::sync::atomic::Ordering;
use std::time::Duration;

use llmlab_loadgen::At;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;

use crate::connection::Shared;
use crate::fault::Fault;
use crate::http::{STREAM_END, STREAM_HEAD, answer, chunk};
use crate::log::Entry;
use crate::openai::{Answer, Asked, data};
use crate::timing::Timetable;

/// Above what any client should keep of one event.
pub(crate) const HUGE_EVENT_BYTES: usize = 17 << 20;
const DRIP: Duration = Duration::from_secs(1);

pub(crate) struct Sending<'a> {
    pub stream: &'a mut TcpStream,
    pub shared: &'a Shared,
    pub entry: Entry,
    pub timetable: Timetable<'a>,
    pub fault: Option<Fault>,
}

impl Sending<'_> {
    /// Everything when the last token is due. True when the connection may be used again.
    pub(crate) async fn whole(mut self, asked: &Asked, response: &Answer<'_>) -> io::Result<bool> {
        let events = asked.tokens.div_ceil(self.tokens_per_event());
        let due = (0..events).map(|_| self.timetable.next_event()).last().unwrap_or_default();
        let bytes = answer(200, "application/json", "", &response.whole());
        self.event(due, asked.tokens, &bytes).await?;
        self.entry.served.done_ns = self.entry.served.sent_ns.last().copied();
        Ok(true)
    }

    /// Head and role at once, then the events. True when the connection may be used again.
    pub(crate) async fn stream(mut self, asked: &Asked, response: &Answer<'_>) -> io::Result<bool> {
        let mut head = STREAM_HEAD.to_vec();
        head.extend(response.role().unwrap_or_default());
        self.stream.write_all(&head).await?;
        let events = asked.tokens.div_ceil(self.tokens_per_event());
        let mut so_far = 0;
        for event in 0..events {
            let tokens = self.tokens_per_event().min(asked.tokens - so_far);
            so_far += tokens;
            // Made before its time, so that only the write is left.
            let bytes = response.tokens(tokens, so_far);
            let due = self.timetable.next_event();
            if event == events / 2
                && let Some(fault) = self.fault
                && self.strike(fault, due, &bytes).await?
            {
                return Ok(false);
            }
            self.event(due, tokens, &bytes).await?;
        }
        let mut end = response.usage().unwrap_or_default();
        let complete = self.fault != Some(Fault::NoDone);
        if complete {
            end.extend(data("[DONE]"));
        }
        end.extend_from_slice(STREAM_END);
        let now = self.shared.clock.now();
        self.entry.served.done_ns = complete.then(|| self.shared.monotonic_ns(now));
        self.stream.write_all(&end).await?;
        Ok(true)
    }

    async fn event(&mut self, due: At, tokens: u32, bytes: &[u8]) -> io::Result<()> {
        self.shared.alarms.until(due).await;
        self.shared.counts.tokens.fetch_add(u64::from(tokens), Ordering::Relaxed);
        let served = &mut self.entry.served;
        served.due_ns.push(self.shared.monotonic_ns(due));
        served.sent_ns.push(self.shared.monotonic_ns(self.shared.clock.now()));
        self.stream.write_all(bytes).await
    }

    /// What happens in the middle of the stream in place of the event `bytes`, or before it. True when that is the end.
    async fn strike(&mut self, fault: Fault, due: At, bytes: &[u8]) -> io::Result<bool> {
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
                self.stream.write_all(&data(r#"{"choices":[{"index":0,"#)).await?;
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
