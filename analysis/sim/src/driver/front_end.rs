//! The front end of a server: one thing after another, requests on their way in and tokens on their way out. Steps do not wait
//! for it; where it is slower than they are, tokens do.
//!
//! Requests wait for requests, in the order of sending. Tokens wait for tokens, and for the work on requests: that is put
//! before the step that admits them, so that it costs no time where there was some. What is not in it: a request that comes
//! while tokens wait goes before them.

use std::time::Duration;

use llmlab_core::request::At;

use crate::overhead::Overhead;

/// Times at which it is done with what it was given.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct FrontEnd {
    taken_in: At,
    given_out: At,
}

impl FrontEnd {
    /// When the scheduler gets a request that was sent at `sent`, in the order of sending.
    pub fn take_in(&mut self, sent: At, prompt_tokens: u32, overhead: &Overhead) -> At {
        self.taken_in = self.taken_in.max(sent) + overhead.taking_in();
        self.taken_in + overhead.before_queue(prompt_tokens)
    }

    /// A step that starts now admits so many that were not there before.
    pub fn admitted(&mut self, now: At, requests: u32, overhead: &Overhead) {
        let work: Duration = overhead.taking_in() * requests;
        self.given_out = self.given_out.max(now.saturating_sub(work)) + work;
    }

    /// When clients have the tokens of a step that ended at `end`.
    pub fn told(&self, end: At, tokens: usize, overhead: &Overhead) -> At {
        self.given_out.max(end) + overhead.giving_out(tokens) + overhead.delivery()
    }

    /// They were told.
    pub fn give_out(&mut self, end: At, tokens: usize, overhead: &Overhead) {
        self.given_out = self.given_out.max(end) + overhead.giving_out(tokens);
    }
}

#[cfg(test)]
mod tests {
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
    fn requests_wait_for_requests_and_tokens_for_both() {
        let mut front = FrontEnd::default();
        // Two at once: the second waits for the first, and both wait 10 ms beside each other.
        assert_eq!(front.take_in(MS * 100, 7, &BUSY), MS * 114);
        assert_eq!(front.take_in(MS * 100, 7, &BUSY), MS * 118);
        // That work was done before the step that admits them.
        front.admitted(MS * 118, 2, &BUSY);
        assert_eq!(front.told(MS * 120, 3, &BUSY), MS * 125);
        front.give_out(MS * 120, 3, &BUSY);
        // The next one starts while these tokens go out: half of its work is left to do.
        front.admitted(MS * 121, 1, &BUSY);
        assert_eq!(front.told(MS * 122, 1, &BUSY), MS * 130);
        // Long after, nothing waits.
        assert_eq!(front.told(MS * 500, 1, &BUSY), MS * 503);
    }

    /// A step every 10 ms that ends one request of 5 tokens and lets in the next takes the front end 9 ms; of 20 tokens, 24 ms.
    #[test]
    fn its_work_bounds_what_is_served() {
        for (tokens, each_ms) in [(5, 10), (20, 24)] {
            let mut front = FrontEnd::default();
            let mut last = At::ZERO;
            for step in 1..=1000 {
                front.admitted(MS * 10 * (step - 1), 1, &BUSY);
                last = front.told(MS * 10 * step, tokens, &BUSY);
                front.give_out(MS * 10 * step, tokens, &BUSY);
            }
            assert!(last.abs_diff(MS * each_ms * 1000) < MS * 20, "{last:?}");
        }
    }

    #[test]
    fn without_such_work_nothing_waits() {
        let plain = Overhead { serial_request_s: 0.0, serial_token_s: 0.0, ..BUSY };
        let mut front = FrontEnd::default();
        assert_eq!(front.take_in(MS * 100, 7, &plain), MS * 110);
        front.admitted(MS * 110, 40, &plain);
        front.give_out(MS * 300, 50, &plain);
        assert_eq!(front.take_in(MS * 200, 7, &plain), MS * 210);
        assert_eq!(front.told(MS * 310, 50, &plain), MS * 312);
    }
}
