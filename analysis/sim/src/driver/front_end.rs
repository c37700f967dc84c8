//! The front end of a server: one thing after another, requests on their way in and tokens on their way out. Steps do not wait
//! for it; where it is slower than they are, tokens do.

use llmlab_core::request::At;

use crate::overhead::Overhead;

/// Times at which it is done with what it was given.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct FrontEnd {
    /// With all of it.
    free: At,
    /// With the last request.
    taken_in: At,
    /// When the last tokens came.
    last_tokens: At,
}

impl FrontEnd {
    /// When the scheduler gets a request that was sent at `sent`, in the order of sending.
    pub fn take_in(&mut self, sent: At, prompt_tokens: u32, overhead: &Overhead) -> At {
        let work = overhead.taking_in();
        // Tokens of the step that was running then were not there yet.
        let until = if sent >= self.last_tokens { self.free } else { self.taken_in };
        let start = sent.max(until);
        self.taken_in = start + work;
        self.free = if start >= self.free { self.taken_in } else { self.free + work };
        self.taken_in + overhead.before_queue(prompt_tokens)
    }

    /// When clients have the tokens of a step that ended at `end`.
    pub fn told(&self, end: At, tokens: usize, overhead: &Overhead) -> At {
        self.free.max(end) + overhead.giving_out(tokens) + overhead.delivery()
    }

    /// They were told.
    pub fn give_out(&mut self, end: At, tokens: usize, overhead: &Overhead) {
        self.free = self.free.max(end) + overhead.giving_out(tokens);
        self.last_tokens = end;
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    const MS: Duration = Duration::from_millis(1);
    const BUSY: Overhead = Overhead {
        request_s: 10e-3,
        serial_request_s: 4e-3,
        serial_token_s: 1e-3,
        delivery_s: 2e-3,
        ..Overhead::NONE
    };

    #[test]
    fn requests_and_tokens_pass_one_after_another() {
        let mut front = FrontEnd::default();
        // Two at once: the second waits for the first, and both wait 10 ms beside each other.
        assert_eq!(front.take_in(MS * 100, 7, &BUSY), MS * 114);
        assert_eq!(front.take_in(MS * 100, 7, &BUSY), MS * 118);
        // Three tokens that come meanwhile wait for both.
        assert_eq!(front.told(MS * 102, 3, &BUSY), MS * 113);
        front.give_out(MS * 102, 3, &BUSY);
        // Sent before they came: after the requests; later ones after the tokens, and after what was put between.
        assert_eq!(front.take_in(MS * 101, 7, &BUSY), MS * 122);
        assert_eq!(front.take_in(MS * 105, 7, &BUSY), MS * 129);
        // Long after, nothing waits.
        assert_eq!(front.told(MS * 500, 1, &BUSY), MS * 503);
    }

    #[test]
    fn without_such_work_nothing_waits() {
        let plain = Overhead { serial_request_s: 0.0, serial_token_s: 0.0, ..BUSY };
        let mut front = FrontEnd::default();
        assert_eq!(front.take_in(MS * 100, 7, &plain), MS * 110);
        front.give_out(MS * 300, 50, &plain);
        assert_eq!(front.take_in(MS * 100, 7, &plain), MS * 110);
        assert_eq!(front.told(MS * 200, 50, &plain), MS * 302);
    }
}
