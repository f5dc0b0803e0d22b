//! Whether a text is a regular expression as Go's `regexp` takes it (RE2's syntax), and if not, what Go says of it.
//!
//! It is only read here: what Go finds too large once it is compiled passes.

use regex::Regex;

/// Most often that something may be repeated, all repetitions around it together.
const MAX_REPEAT: u64 = 1000;
/// Number of repetitions that is too large to be counted.
const MAX_COUNT: u64 = 100_000_000;
/// Classes that may stand in brackets as `[:alpha:]`, and negated as `[:^alpha:]`.
const CLASSES: [&str; 14] = [
    "alnum", "alpha", "ascii", "blank", "cntrl", "digit", "graph", "lower", "print", "punct", "space",
    "upper", "word", "xdigit",
];

/// What Go says when it cannot read a regular expression.
pub(crate) fn problem(text: &str) -> Option<String> {
    let mut reader = Reader { whole: text, rest: text, level: Level::default(), outer: Vec::new() };
    let fault = reader.read().err()?;
    Some(format!("error parsing regexp: {}: `{}`", fault.0, fault.1))
}

/// Go's words, and the part of the text that they are about.
type Fault<'a> = (&'static str, &'a str);
type Found<'a, T> = Result<T, Fault<'a>>;

const BAD_RANGE: &str = "invalid character class range";
const BAD_ESCAPE: &str = "invalid escape sequence";
const BAD_GROUP: &str = "invalid or unsupported Perl syntax";
const BAD_COUNT: &str = "invalid repeat count";
const UNCLOSED: &str = "missing closing )";

/// What is between two parentheses, up to where reading is.
#[derive(Default)]
struct Level {
    /// How often the part before may be repeated already; none when there is no part.
    last: Option<u64>,
    /// The same of all parts.
    most: u64,
}

impl Level {
    fn part(&mut self, times: u64) {
        self.last = Some(times);
        self.most = self.most.max(times);
    }
}

struct Reader<'a> {
    whole: &'a str,
    rest: &'a str,
    level: Level,
    outer: Vec<Level>,
}

impl<'a> Reader<'a> {
    fn read(&mut self) -> Found<'a, ()> {
        // The repetition that the part before ends with, and what follows it.
        let mut repetition: Option<&'a str> = None;
        while let Some(first) = self.rest.chars().next() {
            let before = self.rest;
            let mut repeats = false;
            match first {
                '(' if before[1..].starts_with('?') => self.group()?,
                '(' => {
                    self.open();
                    self.skip(1);
                }
                '|' => {
                    self.level.last = None;
                    self.skip(1);
                }
                ')' => {
                    let inner = self.close()?;
                    self.level.part(inner);
                    self.skip(1);
                }
                '[' => {
                    self.class()?;
                    self.level.part(1);
                }
                '*' | '+' | '?' => {
                    self.skip(1);
                    self.repeat(1, before, repetition)?;
                    repeats = true;
                }
                '{' => match count(before) {
                    Some((after, least, most)) => {
                        self.rest = after;
                        self.counted(least, most, before, repetition)?;
                        repeats = true;
                    }
                    None => self.literal(1),
                },
                '\\' => {
                    self.escaped()?;
                    self.level.part(1);
                }
                other => self.literal(other.len_utf8()),
            }
            repetition = repeats.then_some(before);
        }
        if self.outer.is_empty() { Ok(()) } else { Err((UNCLOSED, self.whole)) }
    }

    fn skip(&mut self, bytes: usize) {
        self.rest = &self.rest[bytes..];
    }

    fn literal(&mut self, bytes: usize) {
        self.skip(bytes);
        self.level.part(1);
    }

    fn open(&mut self) {
        self.outer.push(std::mem::take(&mut self.level));
    }

    fn close(&mut self) -> Found<'a, u64> {
        let outer = self.outer.pop().ok_or(("unexpected )", self.whole))?;
        Ok(std::mem::replace(&mut self.level, outer).most.max(1))
    }

    /// The part of `from` that has been read.
    fn read_of(&self, from: &'a str) -> &'a str {
        &from[..from.len() - self.rest.len()]
    }

    fn counted(
        &mut self,
        least: u64,
        most: Option<u64>,
        before: &'a str,
        last: Option<&'a str>,
    ) -> Found<'a, ()> {
        let top = most.unwrap_or(least);
        if least > MAX_REPEAT || top > MAX_REPEAT || least > top {
            return Err((BAD_COUNT, self.read_of(before)));
        }
        self.repeat(top.max(1), before, last)
    }

    fn repeat(&mut self, times: u64, before: &'a str, last: Option<&'a str>) -> Found<'a, ()> {
        self.rest = self.rest.strip_prefix('?').unwrap_or(self.rest);
        if let Some(last) = last {
            return Err(("invalid nested repetition operator", self.read_of(last)));
        }
        let Some(inner) = self.level.last else {
            return Err(("missing argument to repetition operator", self.read_of(before)));
        };
        let all = inner.saturating_mul(times);
        if times >= 2 && all > MAX_REPEAT {
            return Err((BAD_COUNT, self.read_of(before)));
        }
        self.level.part(all);
        Ok(())
    }

    /// `(?…`: a name, or flags with or without a group.
    fn group(&mut self) -> Found<'a, ()> {
        let whole = self.rest;
        let named =
            ["(?P<", "(?<"].into_iter().find(|start| whole.len() > start.len() && whole.starts_with(start));
        if let Some(start) = named {
            let end = whole.find('>').ok_or(("invalid named capture", whole))?;
            let name = whole.get(start.len()..end).unwrap_or_default();
            let is_word = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
            if name.is_empty() || !name.bytes().all(is_word) {
                return Err(("invalid named capture", &whole[..=end]));
            }
            self.open();
            self.skip(end + 1);
            return Ok(());
        }
        self.skip(2);
        let (mut negated, mut is_flagged) = (false, false);
        while let Some(letter) = self.rest.chars().next() {
            self.skip(letter.len_utf8());
            match letter {
                'i' | 'm' | 's' | 'U' => is_flagged = true,
                '-' if !negated => (negated, is_flagged) = (true, false),
                ':' | ')' if !negated || is_flagged => {
                    if letter == ':' {
                        self.open();
                    }
                    return Ok(());
                }
                _ => break,
            }
        }
        Err((BAD_GROUP, self.read_of(whole)))
    }

    fn escaped(&mut self) -> Found<'a, ()> {
        let whole = self.rest;
        match whole.as_bytes().get(1) {
            Some(b'A' | b'b' | b'B' | b'z') => self.skip(2),
            Some(b'C') => return Err((BAD_ESCAPE, &whole[..2])),
            Some(b'Q') => {
                let literal = &whole[2..];
                self.rest = literal.split_once("\\E").map_or("", |(_, rest)| rest);
            }
            _ => {
                if !self.set()? {
                    self.letter()?;
                }
            }
        }
        Ok(())
    }

    /// `\p…` and `\d`, which stand for several characters.
    fn set(&mut self) -> Found<'a, bool> {
        let whole = self.rest;
        match whole.as_bytes() {
            [b'\\', b'd' | b'D' | b's' | b'S' | b'w' | b'W', ..] => self.skip(2),
            [b'\\', b'p' | b'P', ..] => {
                let Some(first) = whole[2..].chars().next() else { return Ok(false) };
                let end = match first {
                    '{' => whole.find('}').ok_or((BAD_RANGE, whole))? + 1,
                    letter => 2 + letter.len_utf8(),
                };
                let name = whole[2..end].trim_start_matches('{').trim_end_matches('}');
                let name = name.strip_prefix('^').unwrap_or(name);
                if name != "Any" && Regex::new(&format!("\\p{{{name}}}")).is_err() {
                    return Err((BAD_RANGE, &whole[..end]));
                }
                self.skip(end);
            }
            _ => return Ok(false),
        }
        Ok(true)
    }

    /// The character that a backslash makes.
    fn letter(&mut self) -> Found<'a, char> {
        let whole = self.rest;
        self.skip(1);
        let Some(first) = self.next() else { return Err(("trailing backslash at end of expression", "")) };
        let found = match first {
            'a' => Some('\u{7}'),
            'f' => Some('\u{c}'),
            'n' => Some('\n'),
            'r' => Some('\r'),
            't' => Some('\t'),
            'v' => Some('\u{b}'),
            'x' => self.hexadecimal(),
            '0'..='7' if first == '0' || self.rest.starts_with(|next| ('0'..='7').contains(&next)) => {
                Some(self.octal(first))
            }
            other if other.is_ascii() && !other.is_ascii_alphanumeric() => Some(other),
            _ => None,
        };
        found.ok_or_else(|| (BAD_ESCAPE, self.read_of(whole)))
    }

    fn next(&mut self) -> Option<char> {
        let first = self.rest.chars().next()?;
        self.skip(first.len_utf8());
        Some(first)
    }

    fn octal(&mut self, first: char) -> char {
        let digits = self.rest.bytes().take(2).take_while(|byte| (b'0'..=b'7').contains(byte)).count();
        let text = format!("{first}{}", &self.rest[..digits]);
        self.skip(digits);
        u32::from_str_radix(&text, 8).ok().and_then(char::from_u32).unwrap_or('\0')
    }

    fn hexadecimal(&mut self) -> Option<char> {
        let first = self.next()?;
        if first != '{' {
            let second = self.next()?;
            return char::from_u32(first.to_digit(16)? * 16 + second.to_digit(16)?);
        }
        let mut value = None;
        loop {
            match self.next()? {
                // Go takes halves of pairs, which are no characters here.
                '}' => {
                    return value.map(|value| char::from_u32(value).unwrap_or(char::REPLACEMENT_CHARACTER));
                }
                digit => {
                    let digit = digit.to_digit(16)?;
                    value =
                        Some(value.unwrap_or(0) * 16 + digit).filter(|value| *value <= u32::from(char::MAX));
                    value?;
                }
            }
        }
    }

    /// `[…]`.
    fn class(&mut self) -> Found<'a, ()> {
        let whole = self.rest;
        self.skip(1);
        self.rest = self.rest.strip_prefix('^').unwrap_or(self.rest);
        let mut is_first = true;
        while is_first || !self.rest.starts_with(']') {
            is_first = false;
            if self.named()? || self.set()? {
                continue;
            }
            let range = self.rest;
            let low = self.class_letter(whole)?;
            let bytes = self.rest.as_bytes();
            if bytes.len() >= 2 && bytes[0] == b'-' && bytes[1] != b']' {
                self.skip(1);
                if self.class_letter(whole)? < low {
                    return Err((BAD_RANGE, self.read_of(range)));
                }
            }
        }
        self.skip(1);
        Ok(())
    }

    fn named(&mut self) -> Found<'a, bool> {
        let whole = self.rest;
        let Some(inner) = whole.strip_prefix("[:") else { return Ok(false) };
        let Some(end) = inner.find(":]") else { return Ok(false) };
        let name = &inner[..end];
        if !CLASSES.contains(&name.strip_prefix('^').unwrap_or(name)) {
            return Err((BAD_RANGE, &whole[..end + 4]));
        }
        self.skip(end + 4);
        Ok(true)
    }

    fn class_letter(&mut self, whole: &'a str) -> Found<'a, char> {
        match self.rest.chars().next() {
            None => Err(("missing closing ]", whole)),
            Some('\\') => self.letter(),
            Some(letter) => {
                self.skip(letter.len_utf8());
                Ok(letter)
            }
        }
    }
}

/// `{2}`, `{2,}` and `{2,3}`: what follows, the least and the most; none for a brace that is a character.
fn count(text: &str) -> Option<(&str, u64, Option<u64>)> {
    let (least, rest) = number(text.strip_prefix('{')?)?;
    let Some(rest) = rest.strip_prefix(',') else {
        return Some((rest.strip_prefix('}')?, least, Some(least)));
    };
    if let Some(rest) = rest.strip_prefix('}') {
        return Some((rest, least, None));
    }
    let (most, rest) = number(rest)?;
    Some((rest.strip_prefix('}')?, least, Some(most)))
}

fn number(text: &str) -> Option<(u64, &str)> {
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (digits, rest) = text.split_at(digits);
    let is_number = !digits.is_empty() && (digits.len() == 1 || !digits.starts_with('0'));
    is_number.then(|| (digits.parse().unwrap_or(MAX_COUNT), rest))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_go_reads_is_no_problem() {
        for good in [
            "",
            "^[a-z0-9]([-a-z0-9]*[a-z0-9])?$",
            r"^\d{1,3}(\.\d{1,3}){3}$",
            "a{",
            "a{,5}",
            "{x}",
            "a{01}",
            "(?i)abc",
            "(?P<n>a)",
            "(?<n>a)",
            "(?i-s:a)",
            "a|",
            "|",
            "()",
            "()*",
            r"\Qa(b\E",
            r"\Q(",
            r"[\w-.]",
            "[]a]",
            "[^]a]",
            "[a-]",
            "[-a]",
            "[[:alpha:]]",
            "[[:^alpha:]]",
            "[[:alpha]",
            r"\pL",
            r"\p{Greek}",
            r"\p{^Greek}",
            r"\x41",
            r"\x{10FFFF}",
            r"\012",
            r"\-",
            "a+?",
            "(a{10}){100}",
            "^*",
            "(?i)",
            r"[\d-x]",
            r"\z",
            "ä*",
            "a{0}",
            "(a{2}){0}",
        ] {
            assert_eq!(problem(good), None, "{}", good);
        }
    }

    #[test]
    fn what_go_does_not_read_is_said_in_its_words() {
        for (text, words) in [
            ("(", "missing closing ): `(`"),
            ("(?=x)", "invalid or unsupported Perl syntax: `(?=`"),
            ("(?i", "invalid or unsupported Perl syntax: `(?i`"),
            ("(?i-)", "invalid or unsupported Perl syntax: `(?i-)`"),
            ("[z-a]", "invalid character class range: `z-a`"),
            ("a{2000}", "invalid repeat count: `{2000}`"),
            ("x{3,2}", "invalid repeat count: `{3,2}`"),
            ("(a{11}){100}", "invalid repeat count: `{100}`"),
            ("*a", "missing argument to repetition operator: `*`"),
            ("a|*", "missing argument to repetition operator: `*`"),
            ("(?i)+", "missing argument to repetition operator: `+`"),
            ("a**", "invalid nested repetition operator: `**`"),
            ("a{2}{3}", "invalid nested repetition operator: `{2}{3}`"),
            (r"\8", r"invalid escape sequence: `\8`"),
            (r"\C", r"invalid escape sequence: `\C`"),
            (r"\xg1", r"invalid escape sequence: `\xg1`"),
            ("[[:foo:]]", "invalid character class range: `[:foo:]`"),
            (r"\pX", r"invalid character class range: `\pX`"),
            ("a)", "unexpected ): `a)`"),
            ("[", "missing closing ]: `[`"),
            ("[a", "missing closing ]: `[a`"),
            ("a\\", "trailing backslash at end of expression: ``"),
            ("(?P<n", "invalid named capture: `(?P<n`"),
            ("(?P<n-m>a)", "invalid named capture: `(?P<n-m>`"),
        ] {
            assert_eq!(problem(text), Some(format!("error parsing regexp: {words}")), "{}", text);
        }
    }
}
