//! Batches of models without flash attention: TGI keeps no blocks for them but pads every batch to a rectangle, and what
//! a batch takes is the tokens of that rectangle, as the shard reports it.

/// `max_tokens` of the batch on the shard: in one part, or in two between the prefill of a join and the decode that
/// concatenates them.
#[derive(Debug, Default)]
pub(super) struct PaddedBatch {
    parts: Vec<Part>,
}

#[derive(Debug)]
struct Part {
    members: usize,
    max_tokens: usize,
}

/// What the shard knows of one request.
#[derive(Debug, Clone, Copy)]
pub(super) struct Member {
    pub gone: bool,
    pub tokens: usize,
    /// Tokens it may still generate.
    pub remaining: usize,
}

impl PaddedBatch {
    pub fn max_tokens(&self) -> usize {
        self.parts.iter().map(|part| part.max_tokens).sum()
    }

    /// New requests were prefilled together: every row counts with the output of all of them.
    pub fn prefill(&mut self, members: usize, longest_prompt: usize, new_tokens: usize) {
        self.parts.push(Part { members, max_tokens: members * (longest_prompt + new_tokens) });
    }

    /// The router takes those out that are gone. Only then is a part measured anew.
    pub fn filter(&mut self, members: &[Member]) {
        let mut rest = members;
        for part in &mut self.parts {
            let (own, others) = rest.split_at(part.members);
            rest = others;
            let kept = || own.iter().filter(|member| !member.gone);
            if kept().count() < part.members {
                let longest = kept().map(|member| member.tokens).max().unwrap_or(0);
                part.members = kept().count();
                part.max_tokens = part.members * longest + kept().map(|m| m.remaining).sum::<usize>();
            }
        }
        self.parts.retain(|part| part.members > 0);
    }

    /// A decode makes one rectangle of all parts. `tokens` are the lengths before it.
    pub fn concatenate(&mut self, tokens: &[usize]) {
        let longest = |tokens: &[usize]| tokens.iter().copied().max().unwrap_or(0);
        let (mut rest, mut max_tokens) = (tokens, 0);
        for part in &self.parts {
            let (own, others) = rest.split_at(part.members);
            rest = others;
            max_tokens += part.max_tokens + (longest(tokens) - longest(own)) * part.members;
        }
        self.parts = vec![Part { members: tokens.len(), max_tokens }];
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_batch_is_measured_when_it_is_formed_joined_and_filtered() {
        let mut batch = PaddedBatch::default();
        batch.prefill(2, 10, 12);
        assert_eq!(batch.max_tokens(), 2 * (10 + 12));
        // One of 20 tokens joins; it has 3 to go. The old rows, 11 long by now, are padded to its 21.
        batch.prefill(1, 20, 4);
        assert_eq!(batch.max_tokens(), 44 + 24);
        batch.concatenate(&[11, 8, 21]);
        assert_eq!(batch.max_tokens(), 44 + (21 - 11) * 2 + 24);
        // Decoding changes nothing, a departure does.
        let member = |gone, tokens, remaining| Member { gone, tokens, remaining };
        let before = batch.max_tokens();
        batch.filter(&[member(false, 12, 5), member(false, 9, 5), member(false, 22, 2)]);
        assert_eq!(batch.max_tokens(), before);
        batch.filter(&[member(false, 12, 5), member(false, 9, 4), member(true, 22, 2)]);
        assert_eq!(batch.max_tokens(), 2 * 12 + 9);
    }
}
