//! Figures for people: medians, what they are to the best peer's, and the table in the documentation.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use anyhow::{Context as _, Result};

use crate::load::Outcome;
use crate::member::Program;

/// What a table is about.
pub struct Subject {
    /// The marks on the page are `<!-- name: begin -->` and `<!-- name: end -->`.
    pub name: &'static str,
    /// All lines, in their order.
    pub lines: &'static [Line],
}

/// A line of the table.
pub struct Line {
    /// The row that it belongs to, and which of its figures it is.
    key: &'static str,
    text: &'static str,
    unit: &'static str,
    /// Whether a smaller figure is the better one; `None` for one that says something about the measurement only.
    less: Option<bool>,
    /// With one member and with three.
    goal: [&'static str; 2],
}

/// A line: what it shows, its text and unit, whether less is better, the goals with one member and with three.
pub const fn line(
    key: &'static str,
    text: &'static str,
    unit: &'static str,
    less: Option<bool>,
    goal: [&'static str; 2],
) -> Line {
    Line { key, text, unit, less, goal }
}

/// Less is better.
pub const LESS: Option<bool> = Some(true);
/// More is better.
pub const MORE: Option<bool> = Some(false);

/// A cluster's kind: where its data lies, and how many members it has.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Setting {
    /// Members.
    pub size: usize,
    /// "disk" or "memory".
    pub place: &'static str,
}

impl Setting {
    fn title(&self) -> String {
        let members = if self.size == 1 { "One member" } else { "Three members on one machine" };
        let place = if self.place == "disk" { "on disk" } else { "in memory (tmpfs)" };
        format!("{members}, {place}")
    }
}

/// All figures of all runs.
pub struct Report {
    subject: &'static Subject,
    figures: BTreeMap<(Setting, String, String), Vec<f64>>,
}

/// Where one run puts its figures.
pub struct Notes<'a> {
    report: &'a mut Report,
    setting: Setting,
    program: String,
}

impl Notes<'_> {
    /// Notes a figure.
    pub fn note(&mut self, key: &str, value: f64) {
        let place = (self.setting.clone(), key.to_owned(), self.program.clone());
        self.report.figures.entry(place).or_default().push(value);
    }

    /// Notes what a load showed.
    pub fn outcome(&mut self, row: &str, outcome: &Outcome) {
        for (figure, value) in [
            ("rate", outcome.rate),
            ("p50", outcome.p50),
            ("p99", outcome.p99),
            ("cpu", outcome.cpu),
            ("generator", outcome.generator),
        ] {
            self.note(&format!("{row} {figure}"), value);
        }
    }
}

/// The median; 0 of nothing.
pub fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(0.0)
}

impl Report {
    /// Without a figure yet.
    pub fn new(subject: &'static Subject) -> Self {
        Self { subject, figures: BTreeMap::new() }
    }

    /// Where a run of a program puts its figures.
    pub fn notes(&mut self, setting: &Setting, program: &Program) -> Notes<'_> {
        Notes { report: self, setting: setting.clone(), program: program.name.clone() }
    }

    fn figure(&self, setting: &Setting, key: &str, program: &Program) -> Option<f64> {
        let values = self.figures.get(&(setting.clone(), key.to_owned(), program.name.clone()))?;
        Some(median(values.clone()))
    }

    fn tables(&self, programs: &[Program]) -> Tables {
        let mut settings: Vec<&Setting> = self.figures.keys().map(|(setting, _, _)| setting).collect();
        settings.dedup();
        let mut tables = Tables::default();
        for setting in settings {
            let names: Vec<&str> = programs.iter().map(|program| program.name.as_str()).collect();
            let head = format!("| work | unit | {} | better by | goal |", names.join(" | "));
            let mut table = Table { head, rows: BTreeMap::new() };
            for (place, line) in self.subject.lines.iter().enumerate() {
                table.rows.extend(self.row(setting, line, programs).map(|row| (place, row)));
            }
            tables.0.insert(setting.title(), table);
        }
        tables
    }

    fn row(&self, setting: &Setting, line: &Line, programs: &[Program]) -> Option<String> {
        let figures: Vec<_> =
            programs.iter().map(|program| self.figure(setting, line.key, program)).collect();
        figures.iter().any(Option::is_some).then_some(())?;
        let mut row = format!("| {} | {} |", line.text, line.unit);
        for figure in &figures {
            write!(row, " {} |", figure.map_or_else(|| "–".to_owned(), show))
                .expect("invariant: a String grows");
        }
        let (ours, peers): (Vec<_>, Vec<_>) =
            programs.iter().zip(&figures).partition(|(program, _)| program.is_ours());
        let ours = ours.first().and_then(|(_, figure)| **figure);
        let peers = peers.iter().filter_map(|(_, figure)| **figure);
        let ratio = match line.less {
            None => None,
            Some(true) => peers.reduce(f64::min).zip(ours).map(|(peer, ours)| peer / ours.max(1e-9)),
            Some(false) => peers.reduce(f64::max).zip(ours).map(|(peer, ours)| ours / peer.max(1e-9)),
        };
        let ratio = ratio.map(|ratio| if ratio > 999.0 { "> 999".to_owned() } else { show(ratio) });
        let goal = line.goal[usize::from(setting.size > 1)];
        write!(row, " {} | {goal} |", ratio.unwrap_or_default()).expect("invariant: a String grows");
        Some(row)
    }

    /// As Markdown.
    pub fn show(&self, programs: &[Program]) -> String {
        self.tables(programs).show()
    }

    /// Writes the figures into a page between its marks; rows that were not run stay as they are.
    pub fn write(&self, page: &str, programs: &[Program], preface: &str) -> Result<String> {
        let mark = |what: &str| format!("<!-- {}: {what} -->", self.subject.name);
        let (begin, end) = (mark("begin"), mark("end"));
        let (before, rest) = page.split_once(&begin).with_context(|| format!("the page has no {begin}"))?;
        let (old, after) = rest.split_once(&end).with_context(|| format!("the page has no {end}"))?;
        let mut tables = Tables::parse(old, self.subject.lines);
        tables.merge(self.tables(programs));
        Ok(format!("{before}{begin}\n\n{preface}\n\n{}\n{end}{after}", tables.show()))
    }
}

/// Three digits that count.
fn show(value: f64) -> String {
    match value.abs() {
        size if size >= 10_000.0 => format!("{:.0}", (value / 100.0).round() * 100.0),
        size if size >= 100.0 => format!("{value:.0}"),
        size if size >= 10.0 => format!("{value:.1}"),
        size if size >= 0.1 => format!("{value:.2}"),
        _ => format!("{value:.3}"),
    }
}

/// Tables by their titles.
#[derive(Default)]
struct Tables(BTreeMap<String, Table>);

struct Table {
    head: String,
    /// By the places of their lines.
    rows: BTreeMap<usize, String>,
}

impl Tables {
    fn parse(text: &str, known: &[Line]) -> Self {
        let mut tables = Self::default();
        for part in text.split("### ").skip(1) {
            let mut lines = part.lines();
            let title = lines.next().unwrap_or_default().to_owned();
            let mut lines = lines.filter(|line| line.starts_with('|') && !line.starts_with("|-"));
            let head = lines.next().unwrap_or_default().to_owned();
            let place = |row: &str| {
                let mut cells = row.split(" | ").map(|cell| cell.trim_start_matches("| "));
                let (text, unit) = (cells.next()?, cells.next()?);
                known.iter().position(|line| line.text == text && line.unit == unit)
            };
            let rows = lines.filter_map(|row| Some((place(row)?, row.to_owned()))).collect();
            tables.0.insert(title, Table { head, rows });
        }
        tables
    }

    fn merge(&mut self, new: Self) {
        for (title, table) in new.0 {
            match self.0.get_mut(&title).filter(|old| old.head == table.head) {
                Some(old) => old.rows.extend(table.rows),
                None => drop(self.0.insert(title, table)),
            }
        }
    }

    fn show(&self) -> String {
        let mut text = String::new();
        for (title, table) in &self.0 {
            let columns = table.head.matches(" | ").count() + 1;
            let rule: String =
                (0..columns).map(|n| if (2..columns - 1).contains(&n) { "---:|" } else { "---|" }).collect();
            writeln!(text, "### {title}\n\n{}\n|{rule}", table.head).expect("invariant: a String grows");
            for row in table.rows.values() {
                writeln!(text, "{row}").expect("invariant: a String grows");
            }
            text.push('\n');
        }
        text.trim_end().to_owned() + "\n"
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    static LINES: &[Line] = &[
        line("put rate", "put", "1/s", MORE, ["", ""]),
        line("put cpu", "put: CPU", "µs", LESS, ["≤ 120", ""]),
        line("count p50", "count", "ms", LESS, ["", ""]),
    ];
    static SUBJECT: Subject = Subject { name: "bench-x", lines: LINES };

    fn programs() -> Vec<Program> {
        ["etcd-1", "trierarch"].map(|name| Program { name: name.to_owned(), path: "x".into() }).to_vec()
    }

    fn report(figures: &[(&str, &str, f64)]) -> Report {
        let mut report = Report::new(&SUBJECT);
        for (key, program, value) in figures {
            let program = Program { name: (*program).to_owned(), path: "x".into() };
            report.notes(&Setting { size: 1, place: "disk" }, &program).note(key, *value);
        }
        report
    }

    #[test]
    fn the_median_is_the_middle_one() {
        assert_eq!(median(vec![9.0, 1.0, 5.0]), 5.0);
        assert_eq!(median(Vec::new()), 0.0);
    }

    #[test]
    fn a_ratio_above_one_is_better_whichever_way_the_figure_goes() {
        let report = report(&[
            ("put rate", "etcd-1", 10.0),
            ("put rate", "trierarch", 20.0),
            ("put cpu", "etcd-1", 300.0),
            ("put cpu", "trierarch", 100.0),
        ]);
        let text = report.show(&programs());
        assert!(text.contains("| put | 1/s | 10.0 | 20.0 | 2.00 |  |"), "{text}");
        assert!(text.contains("| put: CPU | µs | 300 | 100 | 3.00 | ≤ 120 |"), "{text}");
    }

    #[test]
    fn what_was_not_run_again_stays_in_the_page() {
        let page = "before\n<!-- bench-x: begin -->\n<!-- bench-x: end -->\nafter";
        let first = report(&[("put rate", "trierarch", 1.0), ("count p50", "trierarch", 7.0)]);
        let page = first.write(page, &programs(), "Machine.").expect("marks");
        let second = report(&[("put rate", "trierarch", 2.0)]);
        let page = second.write(&page, &programs(), "Machine.").expect("marks");
        assert!(page.contains("| put | 1/s | – | 2.00 |") && page.contains("| 7.00 |"), "{page}");
        assert!(
            !page.contains("| 1.00 |") && page.starts_with("before") && page.ends_with("after"),
            "{page}"
        );
    }

    #[test]
    fn every_line_can_be_told_from_the_others() {
        for subject in [&crate::rows::lines::ETCD, &crate::api::lines::API] {
            for line in subject.lines {
                let alike = |other: &&Line| other.text == line.text && other.unit == line.unit;
                assert_eq!(subject.lines.iter().filter(alike).count(), 1, "{}", line.text);
                let same = |other: &&Line| other.key == line.key;
                assert_eq!(subject.lines.iter().filter(same).count(), 1, "{}", line.key);
            }
        }
    }
}
