//! Which tokens of a text are computed together, and which of them count.

use llmlab_core::request::TokenId;

use super::PerplexityError;

/// Smallest window with something to score in its second half.
pub const MIN_CONTEXT: usize = 4;

/// A text cut into windows of `context` tokens that do not overlap; what is left at the end is not used.
///
/// Each window is computed by itself. Its first token is replaced by the one that starts every text of the tokenizer (BOS),
/// where there is one, because models have never seen a text without it. The second half is scored: tokens from position
/// context / 2 + 1 on, each predicted from all before it in the window, so that nothing is predicted from little context.
#[derive(Debug, Clone)]
pub struct Windows<'t> {
    tokens: &'t [TokenId],
    begin: Option<TokenId>,
    context: usize,
}

impl<'t> Windows<'t> {
    /// `tokens` start with `begin`, where there is one, as the tokenizer has put it there.
    pub fn new(
        tokens: &'t [TokenId],
        begin: Option<TokenId>,
        context: usize,
    ) -> Result<Self, PerplexityError> {
        if context < MIN_CONTEXT {
            return Err(PerplexityError::Context { context });
        }
        if tokens.len() < context {
            return Err(PerplexityError::TooShort { tokens: tokens.len(), context });
        }
        let used = tokens.len() / context * context;
        Ok(Windows { tokens: &tokens[..used], begin, context })
    }

    /// Leaves out all but the first `count`.
    #[must_use]
    pub fn take(mut self, count: usize) -> Self {
        self.tokens = &self.tokens[..self.tokens.len().min(count.max(1).saturating_mul(self.context))];
        self
    }

    /// At least 1.
    pub fn count(&self) -> usize {
        self.tokens.len() / self.context
    }

    pub fn context(&self) -> usize {
        self.context
    }

    /// The tokens of all windows as the text has them.
    pub fn text(&self) -> &'t [TokenId] {
        self.tokens
    }

    /// The position whose prediction is the first to count.
    pub fn first_scored(&self) -> usize {
        self.context / 2
    }

    /// Predictions that count in each window.
    pub fn scored(&self) -> usize {
        self.context - 1 - self.first_scored()
    }

    /// The tokens of one window as they are computed.
    pub fn window(&self, index: usize) -> Vec<TokenId> {
        let mut window = self.tokens[index * self.context..(index + 1) * self.context].to_vec();
        if let Some(begin) = self.begin {
            window[0] = begin;
        }
        window
    }

    /// Every token that is computed.
    pub(super) fn tokens(&self) -> impl Iterator<Item = TokenId> {
        self.begin.into_iter().chain(self.tokens.iter().copied())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn windows_start_with_the_begin_token_and_do_not_overlap() {
        let tokens: Vec<TokenId> = (100..127).collect();
        let windows = Windows::new(&tokens, Some(1), 8).unwrap();
        assert_eq!((windows.count(), windows.first_scored(), windows.scored()), (3, 4, 3));
        assert_eq!(windows.window(0), [1, 101, 102, 103, 104, 105, 106, 107]);
        assert_eq!(windows.window(2), [1, 117, 118, 119, 120, 121, 122, 123]);
        assert_eq!(windows.text(), &tokens[..24]);
        let plain = Windows::new(&tokens, None, 8).unwrap();
        assert_eq!(plain.window(1)[0], 108);
        assert_eq!(
            (plain.clone().take(2).count(), plain.clone().take(9).count(), plain.take(0).count()),
            (2, 3, 1)
        );
        // llama.cpp: first = n_ctx / 2, count += n_ctx - first - 1.
        let odd = Windows::new(&tokens, None, 9).unwrap();
        assert_eq!((odd.first_scored(), odd.scored()), (4, 4));
    }

    #[test]
    fn too_little_text_and_too_small_windows_are_refused() {
        let tokens = [0; 20];
        assert!(matches!(Windows::new(&tokens, None, 3), Err(PerplexityError::Context { context: 3 })));
        let short = Windows::new(&tokens, None, 21).unwrap_err();
        assert!(short.to_string().contains("20 tokens") && short.to_string().contains("21"), "{short}");
        assert!(Windows::new(&tokens, None, 20).is_ok());
    }
}
