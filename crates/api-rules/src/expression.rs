//! CEL expressions as clients send them: read only when they are small and flat enough, and refused in few words.
//!
//! The parser bounds how deep brackets nest, but not how long a chain (`1 + 1 + …`, `a.b.c…`) is, which it turns into
//! a tree that is as deep as the chain is long and is walked and dropped by recursion; and it says of each mistake
//! where it is with the whole line.

/// Characters of an expression (cel-go's `ExpressionSizeCodePointLimit`).
const MAX_CHARS: usize = 100_000;
/// How deep the tree of an expression may be (cel-go's default): what evaluates it has a worker's 2 MiB of stack.
const MAX_DEPTH: usize = 250;
/// Bytes of stack that the parser has; it takes far more than the evaluation.
const STACK: usize = 64 << 20;

/// Lets a parser read an expression that is small and flat enough, on a stack that bears it.
pub(crate) fn read<T: Send>(
    text: &str,
    parse: impl FnOnce() -> Result<T, String> + Send,
) -> Result<T, String> {
    let size = text.chars().count();
    if size > MAX_CHARS {
        return Err(format!("expression code point size exceeds limit: size: {size}, limit {MAX_CHARS}"));
    }
    if depth(text) > MAX_DEPTH {
        return Err(format!("expression recursion limit exceeded: {MAX_DEPTH}"));
    }
    std::thread::scope(|scope| {
        let parser = std::thread::Builder::new().stack_size(STACK).spawn_scoped(scope, parse);
        let parsed = parser.map_err(|error| format!("no thread to read it: {error}"))?.join();
        parsed.map_err(|_| "the expression cannot be read".to_owned())?
    })
}

/// What is between two brackets, up to where reading is.
#[derive(Default)]
struct Level {
    /// Operators since the last separator.
    operators: usize,
    /// Steps (`.a`, `[0]`, `(…)`) of the current operand.
    steps: usize,
    /// Most steps of an operand since the last separator.
    most_steps: usize,
    /// Depth of the deepest bracket since the last separator.
    inner: usize,
    /// Depth of the deepest part so far.
    deepest: usize,
}

impl Level {
    fn operator(&mut self) {
        self.operators += 1;
        self.most_steps = self.most_steps.max(self.steps);
        self.steps = 0;
    }

    /// What follows stands beside what came before, not above it: `,`, `?`, `:`, and `&&` and `||`, whose terms the
    /// parser balances.
    fn separate(&mut self) {
        self.operator();
        self.deepest = self.deepest.max(self.operators + self.most_steps + self.inner);
        *self = Self { deepest: self.deepest, ..Self::default() };
    }
}

/// How deep the tree of an expression becomes at most.
fn depth(text: &str) -> usize {
    let bytes = text.as_bytes();
    let (mut outer, mut level, mut at) = (Vec::new(), Level::default(), 0);
    while let Some(&byte) = bytes.get(at) {
        let next = bytes.get(at + 1).copied().unwrap_or(0);
        let mut width = 1;
        match byte {
            b'"' | b'\'' => width = quoted(&bytes[at..], at > 0 && matches!(bytes[at - 1], b'r' | b'R')),
            b'/' if next == b'/' => width = bytes[at..].iter().take_while(|byte| **byte != b'\n').count(),
            b'&' | b'|' | b',' | b'?' | b':' => level.separate(),
            b'=' | b'!' | b'<' | b'>' => {
                level.operator();
                width += usize::from(next == b'=');
            }
            b'+' | b'-' | b'*' | b'/' | b'%' => level.operator(),
            b'.' => level.steps += 1,
            b'(' | b'[' | b'{' => {
                level.steps += 1;
                outer.push(std::mem::take(&mut level));
            }
            b')' | b']' | b'}' => {
                level.separate();
                let inner = level.deepest;
                level = outer.pop().unwrap_or_default();
                level.inner = level.inner.max(inner);
            }
            b'0'..=b'9' => width = number(&bytes[at..]),
            _ if is_word(byte) => {
                width = bytes[at..].iter().take_while(|byte| is_word(**byte)).count();
                if &bytes[at..at + width] == b"in" {
                    level.operator();
                }
            }
            _ => {}
        }
        at += width;
    }
    outer.push(level);
    outer.into_iter().fold(0, |deepest, mut level| {
        level.separate();
        deepest + level.deepest
    })
}

fn is_word(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || byte == b'_'
}

/// Bytes of a number: its point belongs to it only before a digit.
fn number(bytes: &[u8]) -> usize {
    let digits = |from: usize| bytes[from..].iter().take_while(|byte| byte.is_ascii_digit()).count();
    let whole = digits(0);
    match bytes.get(whole) == Some(&b'.') && bytes.get(whole + 1).is_some_and(u8::is_ascii_digit) {
        true => whole + 1 + digits(whole + 1),
        false => whole,
    }
}

/// Bytes of a text in quotes; everything, if it has no end.
fn quoted(bytes: &[u8], raw: bool) -> usize {
    let triple = bytes.len() > 2 && bytes[1] == bytes[0] && bytes[2] == bytes[0];
    let end: &[u8] = if triple { &bytes[..3] } else { &bytes[..1] };
    let mut at = end.len();
    while at < bytes.len() {
        if bytes[at..].starts_with(end) {
            return at + end.len();
        }
        at += if bytes[at] == b'\\' && !raw { 2 } else { 1 };
    }
    bytes.len()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cel::{MAX_ERRORS, parse};
    use kube_cel::cel::Context;

    fn refused(text: &str) -> String {
        match parse(text) {
            Ok(_) => String::new(),
            Err(text) => text,
        }
    }

    #[test]
    fn chains_are_counted_through_brackets_but_not_through_logic() {
        for (text, wanted) in [
            ("true", 1),
            ("a + b + c", 3),
            ("a.b.c + d.e", 4),
            ("a && b || c", 1),
            ("a in b", 2),
            ("'+++' + \"a.b\\\"+\" // + + +", 2),
            ("r'\\' + 1.5 + 1e5", 3),
            ("(a + (b + c))", 7),
            ("f(a, b, c)", 3),
            ("a ? b : c ? d : e", 1),
            ("a[0][0]", 4),
            ("((", 5),
            (")))", 4),
        ] {
            assert_eq!(depth(text), wanted, "{text}");
        }
    }

    #[test]
    fn a_long_chain_is_refused_and_a_usual_one_is_not() {
        let many = 40_000;
        for text in [
            format!("1{} > 0", "+1".repeat(many)),
            format!("a{}", ".b".repeat(many)),
            format!("a{}", "[0]".repeat(30_000)),
            format!("a{}", ".f()".repeat(20_000)),
            format!("1{}", " in a".repeat(19_000)),
            format!("{}a", "-".repeat(many)),
            format!("{}1{}", "1+(".repeat(20_000), ")".repeat(20_000)),
            format!("{}1{}", "(1+1+1+".repeat(90), ")".repeat(240)),
            format!("{}true{}", "(".repeat(many), ")".repeat(many)),
        ] {
            assert_eq!(refused(&text), "expression recursion limit exceeded: 250", "{}", &text[..20]);
        }
        for text in [
            format!("1{} > 0", "+1".repeat(240)),
            format!("true{}", " && self.a.b > 1".repeat(2_000)),
            format!("[{}1].size() > 0", "1.5, ".repeat(5_000)),
            format!("self.a{}", ".b".repeat(240)),
            format!("a{}", "[0]".repeat(45)),
            format!("a{}", ".f()".repeat(45)),
            format!("{}true{}", "(".repeat(45), ")".repeat(45)),
            "self.?items.orValue([])[?0].hasValue() || [?self.?a].size() > 0".to_owned(),
            "self.items.all(i, i.name.matches('^[a-z]{1,3}$') && (i.size in [1, 2] ? true : i.max >= 3))"
                .to_owned(),
        ] {
            assert_eq!(refused(&text), "", "{}", &text[..20]);
        }
        let deep = parse(&format!("1{} == 241", "+1".repeat(240))).expect("small enough");
        assert_eq!(Context::default().resolve(&deep), Ok(true.into()));
    }

    #[test]
    fn mistakes_are_told_in_few_words() {
        let text = refused("self.size >");
        assert!(text.starts_with("ERROR: <input>:1:"), "{text}");
        for text in ["@".repeat(MAX_CHARS), "] ".repeat(MAX_CHARS / 2), "a b ".repeat(MAX_CHARS / 4)] {
            let said = refused(&text);
            assert!(!said.is_empty() && said.len() <= MAX_ERRORS * 256, "{}", said.len());
        }
        assert_eq!(
            refused(&"a".repeat(MAX_CHARS + 1)),
            "expression code point size exceeds limit: size: 100001, limit 100000"
        );
    }
}
