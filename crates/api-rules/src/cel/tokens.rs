//! The words of an expression, for what the parser does not tell: where its parts stand, which are asked for in the order
//! of the text, and what it reads wrongly.

use std::borrow::Cow;

/// What a token is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    /// A name, or an operator or bracket.
    Plain,
    Number,
    Text,
}

#[derive(Debug)]
struct Token<'a> {
    text: &'a str,
    /// Bytes before it.
    start: usize,
    kind: Kind,
}

/// The tokens of an expression, and how many of them were passed.
#[derive(Debug)]
pub(crate) struct Tokens<'a> {
    tokens: Vec<Token<'a>>,
    next: usize,
}

const PAIRS: [&str; 7] = ["&&", "||", "==", "!=", "<=", ">=", ".?"];

impl<'a> Tokens<'a> {
    pub fn of(source: &'a str) -> Self {
        let (mut tokens, mut at) = (Vec::new(), 0);
        while let Some(first) = source[at..].chars().next() {
            let rest = &source[at..];
            let (length, kind) = match first {
                _ if first.is_whitespace() => (first.len_utf8(), None),
                '/' if rest.starts_with("//") => (rest.find('\n').unwrap_or(rest.len()), None),
                _ => match quoted(rest) {
                    Some(length) => (length, Some(Kind::Text)),
                    None if first.is_ascii_digit() => (number(rest), Some(Kind::Number)),
                    None if is_word(first) => {
                        (rest.find(|letter| !is_word(letter)).unwrap_or(rest.len()), Some(Kind::Plain))
                    }
                    None if PAIRS.iter().any(|pair| rest.starts_with(pair)) => (2, Some(Kind::Plain)),
                    None => (first.len_utf8(), Some(Kind::Plain)),
                },
            };
            tokens.extend(kind.map(|kind| Token { text: &rest[..length], start: at, kind }));
            at += length;
        }
        Self { tokens, next: 0 }
    }

    /// Passes the next token of that text, and gives the bytes before it; none when there is none.
    pub fn pass(&mut self, text: &str) -> Option<usize> {
        self.pass_if(|token| token.kind == Kind::Plain && token.text == text)
    }

    /// Passes the next `true` or `false`.
    pub fn pass_bool(&mut self) -> Option<usize> {
        self.pass_if(|token| matches!(token.text, "true" | "false"))
    }

    /// Whether the next token has that text.
    pub fn is_next(&self, text: &str) -> bool {
        self.tokens.get(self.next).is_some_and(|token| token.text == text)
    }

    /// Passes the next text in quotes.
    pub fn pass_text(&mut self) -> Option<usize> {
        self.pass_if(|token| token.kind == Kind::Text)
    }

    /// Passes the next number.
    pub fn pass_number(&mut self) -> Option<usize> {
        self.pass_if(|token| token.kind == Kind::Number)
    }

    fn pass_if(&mut self, is: impl Fn(&Token<'a>) -> bool) -> Option<usize> {
        let found = self.tokens[self.next..].iter().position(is)? + self.next;
        self.next = found + 1;
        Some(self.tokens[found].start)
    }
}

/// The expression with spaces for what cancels out: `!!a` is `a`, and so is `--a`. The parser reads one of the two.
pub(super) fn without_double_negation(source: &str) -> Cow<'_, str> {
    if !["!", "-"].iter().any(|sign| source.matches(sign).count() > 1) {
        return Cow::Borrowed(source);
    }
    let tokens = Tokens::of(source).tokens;
    let is_sign = |token: &Token<'_>| token.kind == Kind::Plain && matches!(token.text, "!" | "-");
    let (mut bytes, mut at) = (source.as_bytes().to_vec(), 0);
    while let Some(first) = tokens.get(at) {
        let run = tokens[at..].iter().take_while(|token| is_sign(token) && token.text == first.text).count();
        // The first of several dashes may stand between two parts.
        let skipped = usize::from(first.text == "-" && at > 0 && ends_part(&tokens[at - 1]));
        let signs = run.saturating_sub(skipped);
        for token in &tokens[at + skipped.min(run)..][..signs - signs % 2] {
            bytes[token.start] = b' ';
        }
        at += run.max(1);
    }
    String::from_utf8(bytes).map_or(Cow::Borrowed(source), Cow::Owned)
}

/// Whether an operand ends with a token.
fn ends_part(token: &Token<'_>) -> bool {
    token.kind != Kind::Plain
        || matches!(token.text, ")" | "]" | "}")
        || token.text != "in" && token.text.starts_with(is_word)
}

fn is_word(letter: char) -> bool {
    letter.is_alphanumeric() || letter == '_' || letter == '@'
}

/// Bytes of a number; its point belongs to it only before a digit.
fn number(text: &str) -> usize {
    let bytes = text.as_bytes();
    let mut at = 0;
    while let Some(byte) = bytes.get(at) {
        let is_sign =
            matches!(byte, b'+' | b'-') && matches!(bytes[at - 1], b'e' | b'E') && !text.starts_with("0x");
        let is_point = *byte == b'.' && bytes.get(at + 1).is_some_and(u8::is_ascii_digit);
        if !byte.is_ascii_alphanumeric() && !is_sign && !is_point {
            break;
        }
        at += 1;
    }
    at
}

/// Bytes of a text in quotes, with what stands before the quotes; none when the text is something else.
fn quoted(text: &str) -> Option<usize> {
    let prefix = text.bytes().take(2).take_while(|byte| b"rRbB".contains(byte)).count();
    let rest = &text[prefix..];
    let quote = ["\"\"\"", "'''", "\"", "'"].into_iter().find(|quote| rest.starts_with(quote))?;
    let is_raw = text[..prefix].contains(['r', 'R']);
    let mut at = quote.len();
    while at < rest.len() {
        if rest[at..].starts_with(quote) {
            return Some(prefix + at + quote.len());
        }
        let escaped = !is_raw && rest[at..].starts_with('\\');
        let letters = if escaped { 2 } else { 1 };
        at += rest[at..].chars().take(letters).map(char::len_utf8).sum::<usize>();
    }
    Some(text.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(source: &str) -> Vec<&str> {
        Tokens::of(source).tokens.iter().map(|token| token.text).collect()
    }

    #[test]
    fn expressions_fall_into_tokens() {
        assert_eq!(
            texts("self.?a[0] >= 1.5e-3 && 'x.y\\'' != r\"\\\" // end"),
            ["self", ".?", "a", "[", "0", "]", ">=", "1.5e-3", "&&", "'x.y\\''", "!=", "r\"\\\""]
        );
        assert_eq!(texts("'''a'b''' + b'ä'"), ["'''a'b'''", "+", "b'ä'"]);
        assert_eq!(texts("1.size() < 2u"), ["1", ".", "size", "(", ")", "<", "2u"]);
    }

    #[test]
    fn double_negations_are_blank() {
        for (source, wanted) in [
            ("!!a", "  a"),
            ("!!!a && ! !b", "  !a &&    b"),
            ("!a != !b", "!a != !b"),
            ("a--b", "a--b"),
            ("a - --b", "a -   b"),
            ("--a == (--1)", "  a == (  1)"),
            ("'!!' + r'--'", "'!!' + r'--'"),
            ("x in --y", "x in   y"),
        ] {
            assert_eq!(without_double_negation(source), wanted);
        }
    }

    #[test]
    fn tokens_are_passed_in_order() {
        let mut tokens = Tokens::of("a == 'a' || a");
        assert_eq!(tokens.pass("a"), Some(0));
        assert_eq!(tokens.pass("a"), Some(12));
        assert_eq!(tokens.pass("a"), None);
        assert_eq!(Tokens::of("a == 'a'").pass_text(), Some(5));
    }
}
