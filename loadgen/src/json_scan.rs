//! A walk over JSON that builds nothing, for events of which a few values matter. It takes less than JSON allows: what it
//! does not take (an escape in a string, a fraction, a depth of more than eight) is for a full parser to judge, so `None`
//! never means that the text is wrong. What it takes is JSON.

/// Deeper values are left to the parser.
const MAX_DEPTH: u32 = 8;

#[derive(Debug)]
pub(crate) struct Scanner<'a> {
    text: &'a [u8],
    at: usize,
}

impl<'a> Scanner<'a> {
    /// Over what should be UTF-8; that it is, is not looked at.
    pub(crate) fn new(text: &'a (impl AsRef<[u8]> + ?Sized)) -> Self {
        Scanner { text: text.as_ref(), at: 0 }
    }

    /// How many bytes were taken.
    pub(crate) fn at(&self) -> usize {
        self.at
    }

    /// Whether nothing but white space is left.
    pub(crate) fn is_over(&mut self) -> bool {
        self.peek().is_none()
    }

    /// The next byte that is not white space.
    pub(crate) fn peek(&mut self) -> Option<u8> {
        loop {
            match *self.text.get(self.at)? {
                b' ' | b'\n' | b'\r' | b'\t' => self.at += 1,
                byte => return Some(byte),
            }
        }
    }

    /// An object; `field` is called after each name and takes the value.
    pub(crate) fn object(&mut self, mut field: impl FnMut(&mut Self, &'a [u8]) -> Option<()>) -> Option<()> {
        self.expect(b'{')?;
        if self.eats(b'}') {
            return Some(());
        }
        loop {
            let name = self.string()?;
            self.expect(b':')?;
            field(self, name)?;
            if !self.eats(b',') {
                return self.expect(b'}');
            }
        }
    }

    /// An array; `element` takes each of its values.
    pub(crate) fn array(&mut self, mut element: impl FnMut(&mut Self) -> Option<()>) -> Option<()> {
        self.expect(b'[')?;
        if self.eats(b']') {
            return Some(());
        }
        loop {
            element(self)?;
            if !self.eats(b',') {
                return self.expect(b']');
            }
        }
    }

    /// A string that stands as it means.
    pub(crate) fn string(&mut self) -> Option<&'a [u8]> {
        self.expect(b'"')?;
        let rest = self.text.get(self.at..)?;
        let mut length = 0;
        while let Some(eight) = rest[length..].first_chunk() {
            match ends_string(u64::from_le_bytes(*eight)) {
                0 => length += 8,
                found => {
                    length += found.trailing_zeros() as usize / 8;
                    break;
                }
            }
        }
        loop {
            match *rest.get(length)? {
                b'"' => break,
                b'\\' | 0..0x20 => return None,
                _ => length += 1,
            }
        }
        self.at += length + 1;
        Some(&rest[..length])
    }

    /// True and past it when a `null` comes.
    pub(crate) fn eats_null(&mut self) -> bool {
        self.peek() == Some(b'n') && self.literal(b"null").is_some()
    }

    /// `null`, or what `value` takes.
    pub(crate) fn nullable<T>(&mut self, value: impl FnOnce(&mut Self) -> Option<T>) -> Option<Option<T>> {
        if self.eats_null() { Some(None) } else { value(self).map(Some) }
    }

    pub(crate) fn u32(&mut self) -> Option<u32> {
        /// All of 32 bits, and few enough for 64.
        const MOST_DIGITS: usize = 10;
        self.peek()?;
        let rest = self.text.get(self.at..)?;
        let (mut number, mut digits) = (0u64, 0);
        while let Some(digit) =
            rest.get(digits).map(|byte| byte.wrapping_sub(b'0')).filter(|digit| *digit < 10)
        {
            if digits == MOST_DIGITS {
                return None;
            }
            number = number * 10 + u64::from(digit);
            digits += 1;
        }
        let leading_zero = digits > 1 && rest[0] == b'0';
        if digits == 0 || leading_zero || goes_on_as_a_number(rest.get(digits)) {
            return None;
        }
        self.at += digits;
        u32::try_from(number).ok()
    }

    /// Any value.
    pub(crate) fn skip(&mut self) -> Option<()> {
        self.skip_within(MAX_DEPTH)
    }

    fn skip_within(&mut self, depth: u32) -> Option<()> {
        let below = depth.checked_sub(1)?;
        match self.peek()? {
            b'"' => self.string().map(drop),
            b'{' => self.object(|scanner, _| scanner.skip_within(below)),
            b'[' => self.array(|scanner| scanner.skip_within(below)),
            b't' => self.literal(b"true"),
            b'f' => self.literal(b"false"),
            b'n' => self.literal(b"null"),
            _ => self.integer().map(drop),
        }
    }

    /// The text of an integer.
    fn integer(&mut self) -> Option<&'a [u8]> {
        self.peek()?;
        let rest = self.text.get(self.at..)?;
        let sign = usize::from(rest.first() == Some(&b'-'));
        let digits = rest[sign..].iter().take_while(|byte| byte.is_ascii_digit()).count();
        let leading_zero = digits > 1 && rest[sign] == b'0';
        if digits == 0 || leading_zero {
            return None;
        }
        let length = sign + digits;
        if goes_on_as_a_number(rest.get(length)) {
            return None;
        }
        self.at += length;
        Some(&rest[..length])
    }

    /// Exactly these bytes.
    pub(crate) fn literal(&mut self, word: &[u8]) -> Option<()> {
        if !self.text[self.at..].starts_with(word) {
            return None;
        }
        self.at += word.len();
        Some(())
    }

    fn eats(&mut self, byte: u8) -> bool {
        let found = self.peek() == Some(byte);
        self.at += usize::from(found);
        found
    }

    fn expect(&mut self, byte: u8) -> Option<()> {
        self.eats(byte).then_some(())
    }
}

/// A fraction or an exponent follows.
fn goes_on_as_a_number(next: Option<&u8>) -> bool {
    matches!(next, Some(b'.' | b'e' | b'E'))
}

/// Marks the bytes of a word that end a plain string: quotes, backslashes and control characters. The lowest mark is exact;
/// those above it may be false.
fn ends_string(word: u64) -> u64 {
    const ONES: u64 = u64::MAX / 255;
    const HIGH: u64 = ONES << 7;
    let zero_bytes = |word: u64| word.wrapping_sub(ONES) & !word;
    let below_space = word.wrapping_sub(ONES * 0x20) & !word;
    let quote = zero_bytes(word ^ (ONES * u64::from(b'"')));
    let backslash = zero_bytes(word ^ (ONES * u64::from(b'\\')));
    (below_space | quote | backslash) & HIGH
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::Value;

    use super::*;

    fn takes(text: &str) -> bool {
        let mut scanner = Scanner::new(text);
        scanner.skip().is_some() && scanner.is_over()
    }

    #[test]
    fn what_it_takes_and_what_it_leaves() {
        for text in
            ["{}", " [ ] ", r#"{"a":[1,-2,"é",null,true,false],"b":{"c":""}}"#, "0", r#""123456789012""#]
        {
            assert!(takes(text), "{text}");
        }
        for text in [
            "",
            "{",
            "{,}",
            "[1,]",
            "01",
            "-",
            "1.5",
            "1e3",
            "tru",
            "nulll",
            r#"{"a"}"#,
            r#"{"a":1,}"#,
            r#""a\n""#,
            "\"a\u{1}\"",
            "\"12345678\t\"",
            "\"open",
            "{} {}",
            "[[[[[[[[[1]]]]]]]]]",
        ] {
            assert!(!takes(text), "{text}");
        }
    }

    #[test]
    fn numbers_end_at_32_bits() {
        let number = |text| Scanner::new(text).u32();
        assert_eq!(number(" 4294967295,"), Some(u32::MAX));
        assert_eq!(number("0"), Some(0));
        for text in ["4294967296", "99999999999999999999999", "-1", "1.0", "x", ""] {
            assert_eq!(number(text), None, "{text}");
        }
    }

    proptest! {
        #[test]
        fn what_it_takes_is_json(text in r#"[\[\]{}",:0-9a-z \\\n.+-]{0,24}"#) {
            prop_assert!(!takes(&text) || serde_json::from_str::<Value>(&text).is_ok(), "{text}");
        }

        #[test]
        fn strings_are_read_as_they_are(text in any::<String>(), before in 0..9usize) {
            let quoted = format!("{}\"{text}\"", " ".repeat(before));
            let plain = !text.bytes().any(|byte| matches!(byte, b'"' | b'\\' | 0..0x20));
            let read = Scanner::new(&quoted).string();
            if plain {
                prop_assert_eq!(read, Some(text.as_bytes()));
            } else {
                prop_assert_ne!(read, Some(text.as_bytes()));
            }
        }
    }
}
