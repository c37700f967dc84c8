//! Text prompts made as long as they should be, by the server's own count.
//!
//! A few requests of known words show what the server counts: a template's overhead, and tokens a word. Where it has a
//! tokenizer to ask, each prompt then loses or gains words until the count is the wanted one; else the line through those
//! few requests says how many words to have. What the server counted in the run itself is in the records either way.

use std::collections::HashSet;
use std::time::Duration;

use llmlab_results::prompt_fit::{PromptFit, PromptFitMethod};
use llmlab_results::record::{CountSource, RequestRecord};
use tokio_util::sync::CancellationToken;

use crate::clock::Clock;
use crate::driver::{DriveError, DriveOptions, Silent, drive_with};
use crate::endpoint::Endpoint;
use crate::prompts::filler;
use crate::tokenizer::Tokenizer;
use crate::workload::{Mode, PlannedRequest, Prompt, Workload};

/// Words of the requests that are asked for their counts.
const PREFLIGHT_WORDS: [u32; 3] = [8, 40, 160];
/// Their numbers are far from those of the workload, which name requests in servers' logs.
const PREFLIGHT_INDEX: u64 = 1 << 40;
/// A server that takes longer over so little is measured as it is.
const PREFLIGHT_TIME: Duration = Duration::from_secs(60);
/// All prompts of a measured workload together may take this long.
const FIT_TIME: Duration = Duration::from_secs(120);
/// Counts of one prompt.
const TRIES: usize = 16;

/// The same requests with prompts of other lengths, and how these were found.
#[derive(Debug, Clone)]
pub struct Fitted {
    pub workload: Workload,
    pub facts: PromptFit,
}

/// Blocks until the prompts are fitted; `None` where there is no text, and for conversations, whose prompts hold answers too. Sends a few requests for one token each.
pub fn fit_prompts(
    endpoint: &Endpoint,
    workload: &Workload,
    cancel: &CancellationToken,
) -> Result<Option<Fitted>, DriveError> {
    let fitter = Fitter::ask(endpoint, workload, cancel)?;
    Ok(fitter.map(|fitter| fitter.fit(workload, FIT_TIME, cancel)))
}

/// How a server counts: good for all workloads of a kind.
pub struct Fitter {
    line: Option<Line>,
    counter: Option<Counter>,
}

impl Fitter {
    /// Asks the server, with a few requests for one token each. `None` where nothing of such a workload needs fitting.
    pub fn ask(
        endpoint: &Endpoint,
        workload: &Workload,
        cancel: &CancellationToken,
    ) -> Result<Option<Fitter>, DriveError> {
        let is_text = |request: &PlannedRequest| matches!(request.prompt, Prompt::Text(_));
        if workload.sessions.is_some() || !workload.requests.iter().any(is_text) {
            return Ok(None);
        }
        let longest = workload.requests.iter().map(|request| request.prompt_tokens).max().unwrap_or(1);
        let seen = preflight(endpoint, longest, cancel)?;
        let counter = Tokenizer::find(endpoint, &text(&preflight_words(4)))
            .and_then(|tokenizer| Counter::new(tokenizer, &seen));
        Ok(Some(Fitter { line: Line::through(&seen), counter }))
    }

    /// Asks the tokenizer, if there is one, for `time`; prompts left by then go by the line.
    pub fn fit(&self, workload: &Workload, time: Duration, cancel: &CancellationToken) -> Fitted {
        let clock = Clock::start();
        let (mut line, mut exact) = (self.line, Exact::default());
        let mut fitted = workload.clone();
        let mut missed = 0;
        for request in &mut fitted.requests {
            let Prompt::Text(words) = &request.prompt else { continue };
            let mut prompt = Words::new(words, request.index);
            let wanted = request.prompt_tokens;
            let in_time = self.counter.is_some() && !cancel.is_cancelled() && clock.now() < time;
            if !in_time {
                line = line.map(|line| exact.corrected(line));
            }
            if let Some(line) = line {
                prompt.set_len(line.words(wanted));
            }
            if let Some(counter) = &self.counter {
                let per_word = line.map_or(1.0, |line| line.per_word);
                let reached = in_time && prompt.reach(wanted, per_word, |text| counter.count(text));
                missed += u64::from(!reached);
                if reached {
                    exact.note(&prompt, wanted);
                }
            }
            request.prompt = Prompt::Text(prompt.text());
        }
        let method = match (&self.counter, self.line) {
            (Some(_), _) => PromptFitMethod::Tokenizer,
            (None, Some(_)) => PromptFitMethod::Usage,
            (None, None) => PromptFitMethod::Estimate,
        };
        let line = self.line.unwrap_or(Line { overhead: 0.0, per_word: 1.0 });
        let (overhead_tokens, tokens_per_word) = (line.overhead, line.per_word);
        Fitted { workload: fitted, facts: PromptFit { method, overhead_tokens, tokens_per_word, missed } }
    }
}

/// Prompts of exact length so far. They say more of tokens a word than the few requests of the line.
#[derive(Debug, Default)]
struct Exact {
    prompts: u64,
    words: u64,
    tokens: u64,
}

impl Exact {
    fn note(&mut self, prompt: &Words, tokens: u32) {
        self.prompts += 1;
        self.words += prompt.kept as u64;
        self.tokens += u64::from(tokens);
    }

    fn corrected(&self, line: Line) -> Line {
        let of_words = self.tokens as f64 - line.overhead * self.prompts as f64;
        let per_word = of_words / self.words as f64;
        if Line::is_plausible(per_word) { Line { per_word, ..line } } else { line }
    }
}

/// What the server counted: words sent, their text, tokens.
struct Counted {
    words: u32,
    text: String,
    tokens: u32,
}

fn preflight(
    endpoint: &Endpoint,
    longest: u32,
    cancel: &CancellationToken,
) -> Result<Vec<Counted>, DriveError> {
    let sizes = PREFLIGHT_WORDS.map(|words| words.min(longest.max(1)));
    let request = |(words, index): (u32, u64)| PlannedRequest {
        index: PREFLIGHT_INDEX + index,
        at: Duration::ZERO,
        prompt: Prompt::Text(text(&preflight_words(words))),
        prompt_tokens: words,
        max_tokens: 1,
        adapter: None,
        turn: None,
        hang_up: None,
    };
    let requests: Vec<PlannedRequest> = sizes.into_iter().zip(0..).map(request).collect();
    let mode = Mode::Closed { users: 1, think_time: Duration::ZERO };
    let workload = Workload { requests, mode, sessions: None, prefix_hit_rate: None };
    let options =
        DriveOptions { drain: Duration::ZERO, time_limit: Some(PREFLIGHT_TIME), ..DriveOptions::default() };
    let mut records: Vec<RequestRecord> = Vec::new();
    drive_with(endpoint, &workload, options, &mut records, &Silent, cancel)?;
    let told = |record: &RequestRecord| {
        record.outcome.is_success()
            && matches!(record.prompt_tokens_source, CountSource::Usage | CountSource::ServerDetail)
    };
    let counted = records.iter().filter(|record| told(record)).map(|record| Counted {
        words: record.prompt_tokens_requested,
        text: text(&preflight_words(record.prompt_tokens_requested)),
        tokens: record.prompt_tokens,
    });
    Ok(counted.collect())
}

/// Not how any prompt of a workload begins, so that a prefix cache has nothing of it.
fn preflight_words(words: u32) -> Vec<&'static str> {
    (0..u64::from(words)).map(|place| filler(3, place)).collect()
}

fn text(words: &[&str]) -> String {
    words.join(" ")
}

/// tokens = overhead + per_word * words
#[derive(Debug, Clone, Copy, PartialEq)]
struct Line {
    overhead: f64,
    per_word: f64,
}

impl Line {
    /// Least squares; `None` through fewer than two lengths, or where more words are not more tokens.
    fn through(seen: &[Counted]) -> Option<Line> {
        let n = seen.len() as f64;
        let mean = |f: &dyn Fn(&Counted) -> f64| seen.iter().map(f).sum::<f64>() / n;
        let (x, y) = (mean(&|c| f64::from(c.words)), mean(&|c| f64::from(c.tokens)));
        let spread: f64 = seen.iter().map(|c| (f64::from(c.words) - x).powi(2)).sum();
        let both: f64 = seen.iter().map(|c| (f64::from(c.words) - x) * (f64::from(c.tokens) - y)).sum();
        let per_word = both / spread;
        Line::is_plausible(per_word).then_some(Line { overhead: y - per_word * x, per_word })
    }

    /// False of what comes of nothing counted, too.
    fn is_plausible(per_word: f64) -> bool {
        (0.1..=100.0).contains(&per_word)
    }

    fn words(&self, tokens: u32) -> usize {
        ((f64::from(tokens) - self.overhead) / self.per_word).round().max(1.0) as usize
    }
}

/// A tokenizer and what a request adds to its count.
struct Counter {
    tokenizer: Tokenizer,
    added: i64,
}

impl Counter {
    /// `None` where tokenizer and request do not count alike: then something else lies between them. Also where there are no
    /// counts of requests to see it by.
    fn new(tokenizer: Tokenizer, seen: &[Counted]) -> Option<Counter> {
        let mut added = Vec::with_capacity(seen.len());
        for counted in seen {
            added.push(i64::from(counted.tokens) - i64::from(tokenizer.count(&counted.text)?));
        }
        added.sort_unstable();
        let spread = added.last()? - added.first()?;
        (spread <= 1).then(|| Counter { tokenizer, added: added[added.len() / 2] })
    }

    fn count(&self, text: &str) -> Option<u32> {
        let tokens = i64::from(self.tokenizer.count(text)?) + self.added;
        u32::try_from(tokens).ok()
    }
}

/// A prompt as words, with more to be had. Its beginning, which it may share with others, stays as it is.
struct Words {
    words: Vec<String>,
    kept: usize,
    index: u64,
    /// Which words it is lengthened with.
    other: u64,
}

impl Words {
    fn new(text: &str, index: u64) -> Words {
        let words: Vec<String> = text.split(' ').map(str::to_owned).collect();
        Words { kept: words.len(), words, index, other: 0 }
    }

    fn text(&self) -> String {
        self.words[..self.kept].join(" ")
    }

    fn set_len(&mut self, words: usize) {
        let words = words.max(1);
        while self.words.len() < words {
            let place = self.words.len() as u64;
            self.words.push(filler(self.index.wrapping_add(self.other), place).to_owned());
        }
        self.kept = words;
    }

    /// Adds and drops words until `count` says `wanted`; the nearest there was, and false, where that does not come.
    fn reach(&mut self, wanted: u32, per_word: f64, count: impl Fn(&str) -> Option<u32>) -> bool {
        let mut seen: HashSet<(usize, String)> = HashSet::new();
        let mut nearest: Option<(i64, String)> = None;
        for _ in 0..TRIES {
            let text = self.text();
            let Some(tokens) = count(&text) else { break };
            let short = i64::from(wanted) - i64::from(tokens);
            if nearest.as_ref().is_none_or(|(least, _)| short.abs() < *least) {
                nearest = Some((short.abs(), text));
            }
            if short == 0 {
                break;
            }
            let last = self.words[self.kept - 1].clone();
            if !seen.insert((self.kept, last)) || (short < 0 && self.kept == 1) {
                // One word less is too short and one more too long: another last word may have another length.
                self.other += 1;
                let place = self.kept as u64 - 1;
                self.words.truncate(self.kept - 1);
                self.words.push(filler(self.index.wrapping_add(self.other), place).to_owned());
                continue;
            }
            let step = (short as f64 / per_word).round() as i64;
            let step = if step == 0 { short.signum() } else { step };
            self.set_len((self.kept as i64 + step).max(1) as usize);
        }
        let Some((off, text)) = nearest else { return false };
        self.words = text.split(' ').map(str::to_owned).collect();
        self.kept = self.words.len();
        off == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seen(pairs: &[(u32, u32)]) -> Vec<Counted> {
        pairs.iter().map(|&(words, tokens)| Counted { words, text: String::new(), tokens }).collect()
    }

    #[test]
    fn a_line_needs_two_lengths_that_grow() {
        let line = Line::through(&seen(&[(8, 19), (40, 67), (160, 247)])).unwrap();
        assert!((line.overhead - 7.0).abs() < 1e-9 && (line.per_word - 1.5).abs() < 1e-9, "{line:?}");
        assert_eq!((line.words(67), line.words(1)), (40, 1));
        for none in [&[][..], &[(8, 9)], &[(8, 9), (8, 9)], &[(8, 90), (80, 9)]] {
            assert_eq!(Line::through(&seen(none)), None);
        }
    }

    #[test]
    fn exact_prompts_correct_the_line_for_the_rest() {
        let line = Line { overhead: 7.0, per_word: 1.5 };
        let mut exact = Exact::default();
        assert_eq!(exact.corrected(line), line);
        for words in [10, 30] {
            let mut prompt = Words::new("time", 0);
            prompt.set_len(words);
            exact.note(&prompt, 7 + 2 * words as u32);
        }
        assert_eq!(exact.corrected(line), Line { overhead: 7.0, per_word: 2.0 });
    }

    /// Three tokens of template; long words are two.
    fn count(text: &str) -> Option<u32> {
        Some(3 + text.split(' ').map(|word| if word.len() > 5 { 2 } else { 1 }).sum::<u32>())
    }

    #[test]
    fn words_come_and_go_until_the_count_is_right() {
        for index in 0..50 {
            for wanted in [4, 5, 17, 64, 333] {
                let mut prompt = Words::new("government family people", index);
                let kept = prompt.reach(wanted, 1.3, count);
                // The first word alone has five tokens with the template's.
                assert!(kept, "{wanted} of {index}: {}", prompt.text());
                assert_eq!(count(&prompt.text()), Some(wanted));
            }
        }
    }

    #[test]
    fn what_cannot_be_reached_comes_near_and_says_so() {
        let mut prompt = Words::new("time time time", 0);
        assert!(!prompt.reach(2, 1.0, count));
        assert_eq!(count(&prompt.text()), Some(4));
        let mut even = Words::new("time", 0);
        assert!(!even.reach(7, 2.0, |text| Some(2 * text.split(' ').count() as u32)));
        assert!([6, 8].contains(&(2 * even.text().split(' ').count())));
        assert!(!Words::new("time", 0).reach(7, 1.0, |_| None));
    }
}
