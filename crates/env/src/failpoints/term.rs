//! What happens at a point, in gofail's words (pure): `panic`, `sleep("1s")`, `sleep(100)` (milliseconds),
//! `return("text")`, `print`, `off`; before it `3*` (so many times) or `50%` (so often); one after the other with `->`.

use std::time::Duration;

use crate::Rng;

/// What happens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// Nothing.
    Off,
    /// The process ends at once, as if it had been killed.
    Panic,
    /// The code that passes waits.
    Sleep(Duration),
    /// The code that passes is given a text.
    Return(String),
    /// The point's name is printed.
    Print,
}

/// What happens, and when.
#[derive(Clone, Debug, PartialEq)]
struct Term {
    times: Option<u64>,
    percent: Option<f64>,
    action: Action,
}

/// Terms of which the first that still applies is done.
#[derive(Clone, Debug, PartialEq)]
pub struct Chain(Vec<Term>);

impl Chain {
    /// Reads a description.
    pub fn parse(text: &str) -> Result<Self, String> {
        let terms: Result<Vec<Term>, String> = text.split("->").map(|term| parse_term(term.trim())).collect();
        terms.map(Self)
    }

    /// What happens now.
    pub fn pass(&mut self, rng: &Rng) -> Action {
        let due = |term: &mut Term| {
            if let Some(percent) = term.percent
                && rng.below(10_000) as f64 >= percent * 100.0
            {
                return false;
            }
            match &mut term.times {
                Some(0) => false,
                Some(left) => {
                    *left -= 1;
                    true
                }
                None => true,
            }
        };
        self.0.iter_mut().find_map(|term| due(term).then(|| term.action.clone())).unwrap_or(Action::Off)
    }
}

fn parse_term(text: &str) -> Result<Term, String> {
    let mut term = Term { times: None, percent: None, action: Action::Off };
    let mut rest = text;
    loop {
        let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(rest.len());
        let (number, after) = rest.split_at(digits);
        match after.chars().next() {
            Some('*') => term.times = Some(number.parse().map_err(|_| bad(text))?),
            Some('%') => term.percent = Some(number.parse().map_err(|_| bad(text))?),
            _ if number.is_empty() => break,
            _ => return Err(bad(text)),
        }
        rest = &after[1..];
    }
    term.action = parse_action(rest).ok_or_else(|| bad(text))?;
    Ok(term)
}

fn bad(text: &str) -> String {
    format!("failpoint: could not parse {text:?}")
}

fn parse_action(text: &str) -> Option<Action> {
    let (name, value) = match text.split_once('(') {
        Some((name, value)) => (name, value.strip_suffix(')')?.trim_matches('"')),
        None => (text, ""),
    };
    match name {
        "off" => Some(Action::Off),
        "panic" => Some(Action::Panic),
        "sleep" => parse_duration(value).map(Action::Sleep),
        "return" => Some(Action::Return(value.to_owned())),
        "print" => Some(Action::Print),
        _ => None,
    }
}

/// A number of milliseconds, or a duration as Go writes it: `1m30s`, `1.5s`, `20ms`.
fn parse_duration(text: &str) -> Option<Duration> {
    if let Ok(millis) = text.parse() {
        return Some(Duration::from_millis(millis));
    }
    let (mut total, mut rest) = (Duration::ZERO, text);
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let (number, after) = rest.split_at(digits);
        let letters = after.find(|c: char| c.is_ascii_digit()).unwrap_or(after.len());
        let (unit, further) = after.split_at(letters);
        let unit = match unit {
            "ns" => 1e-9,
            "us" | "µs" => 1e-6,
            "ms" => 1e-3,
            "s" => 1.0,
            "m" => 60.0,
            "h" => 3600.0,
            _ => return None,
        };
        total += Duration::try_from_secs_f64(number.parse::<f64>().ok()? * unit).ok()?;
        rest = further;
    }
    (!text.is_empty()).then_some(total)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn passes(text: &str, times: usize) -> Vec<Action> {
        let (mut chain, rng) = (Chain::parse(text).expect("a term"), Rng::seeded(1));
        (0..times).map(|_| chain.pass(&rng)).collect()
    }

    #[test]
    fn gofails_terms_are_read() {
        let sleep = |millis| vec![Action::Sleep(Duration::from_millis(millis))];
        assert_eq!(passes("panic", 1), [Action::Panic]);
        assert_eq!(passes("sleep(100)", 1), sleep(100));
        assert_eq!(passes("sleep(\"1s\")", 1), sleep(1000));
        assert_eq!(passes("sleep(\"1m0.5s\")", 1), sleep(60_500));
        assert_eq!(passes("return(\"no space\")", 1), [Action::Return("no space".into())]);
        assert_eq!(passes("2*panic", 3), [Action::Panic, Action::Panic, Action::Off]);
        assert_eq!(passes("1*off->print", 3), [Action::Off, Action::Print, Action::Print]);
        let often = passes("30%panic", 1000).iter().filter(|&action| *action == Action::Panic).count();
        assert!((200..400).contains(&often), "{often}");
        for wrong in ["", "tickle", "3panic", "sleep(long)", "sleep(\"1\")x", "x*panic", "panic(", "panic->"]
        {
            assert!(Chain::parse(wrong).is_err(), "{wrong}");
        }
    }
}
