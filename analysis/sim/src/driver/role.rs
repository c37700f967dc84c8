//! Which part of a request a server does.

/// What a server does of each request.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Role {
    /// All of it.
    #[default]
    Whole,
    /// Its prompt, and one token that nobody gets; keys and values are fetched from here.
    Prefill,
    /// Its answer, with the keys and values of all but the last token of the prompt brought from elsewhere.
    Decode,
}
