//! What a layer sees that does not see everything.

/// Part of the context. Positions are counted from 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Window {
    /// The last so many tokens, its own included.
    Sliding(u32),
    /// Of its chunk of so many tokens those up to its own: the chunks are the same for all tokens (Llama 4).
    Chunk(u32),
}

impl Window {
    /// Tokens that a position sees at most.
    pub fn tokens(self) -> u32 {
        match self {
            Window::Sliding(tokens) | Window::Chunk(tokens) => tokens,
        }
    }

    /// The first position that `position` sees.
    pub fn first_seen(self, position: u64) -> u64 {
        match self {
            Window::Sliding(tokens) => (position + 1).saturating_sub(u64::from(tokens)),
            Window::Chunk(tokens) => position - position % u64::from(tokens.max(1)),
        }
    }

    /// Positions that the first `positions` see, added up.
    pub fn pairs_up_to(self, positions: u64) -> u64 {
        let tokens = u64::from(self.tokens());
        let growing = |positions: u64| positions * (positions + 1) / 2;
        match self {
            Window::Sliding(_) => {
                let inside = positions.min(tokens);
                growing(inside) + (positions - inside) * tokens
            }
            Window::Chunk(_) => {
                let tokens = tokens.max(1);
                positions / tokens * growing(tokens) + growing(positions % tokens)
            }
        }
    }

    /// Of `keys` positions that `sequences` of about one length have in all, those that their next tokens see. In chunks a token
    /// far from the beginning sees half of one on average.
    pub fn seen_of(self, keys: u64, sequences: u64) -> u64 {
        let most = u64::from(self.tokens()).saturating_mul(sequences);
        match self {
            Window::Chunk(_) if keys > most => (most + sequences) / 2,
            _ => keys.min(most),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_seen_by_counting() {
        for window in [Window::Sliding(1), Window::Sliding(5), Window::Chunk(1), Window::Chunk(5)] {
            let mut pairs = 0;
            for position in 0..23 {
                assert_eq!(window.pairs_up_to(position), pairs, "{window:?} {position}");
                let sees = |other: u64| match window {
                    Window::Sliding(tokens) => other + u64::from(tokens) > position,
                    Window::Chunk(tokens) => other / u64::from(tokens) == position / u64::from(tokens),
                };
                let seen: Vec<u64> = (0..=position).filter(|other| sees(*other)).collect();
                assert_eq!(window.first_seen(position), seen[0], "{window:?} {position}");
                assert!(seen.len() <= window.tokens() as usize);
                pairs += seen.len() as u64;
            }
        }
        // Ten sequences of Llama 4 after 100,000 tokens: half a chunk each.
        assert_eq!(Window::Chunk(8192).seen_of(1_000_000, 10), 40_965);
        assert_eq!(Window::Chunk(8192).seen_of(50_000, 10), 50_000);
        assert_eq!(Window::Sliding(8192).seen_of(1_000_000, 10), 81_920);
    }
}
