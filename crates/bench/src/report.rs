//! Figures for people: medians, what they are to the best peer's, and the table in the documentation.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use anyhow::{Context as _, Result};

use crate::load::Outcome;
use crate::member::Program;

const BEGIN: &str = "<!-- bench-etcd: begin -->";
const END: &str = "<!-- bench-etcd: end -->";

/// A line of the table.
struct Line {
    /// The row that it belongs to, and which of its figures it is.
    key: &'static str,
    text: &'static str,
    unit: &'static str,
    /// Whether a smaller figure is the better one; `None` for one that says something about the measurement only.
    less: Option<bool>,
    /// With one member and with three.
    goal: [&'static str; 2],
}

const fn line(
    key: &'static str,
    text: &'static str,
    unit: &'static str,
    less: Option<bool>,
    goal: [&'static str; 2],
) -> Line {
    Line { key, text, unit, less, goal }
}

const LESS: Option<bool> = Some(true);
const MORE: Option<bool> = Some(false);

/// All lines, in their order.
static LINES: &[Line] = &[
    line("put-1 rate", "put, 1 client", "1/s", MORE, ["", ""]),
    line("put-1 p50", "put, 1 client: p50", "ms", LESS, ["≤ 0.35", ""]),
    line("put-1 p99", "put, 1 client: p99", "ms", LESS, ["≤ 1.5", ""]),
    line("put-1 cpu", "put, 1 client: CPU", "µs", LESS, ["≤ 120", ""]),
    line("put-100 rate", "put, 100 clients", "1/s", MORE, ["≥ 2.5 ×", "≥ 2.5 ×"]),
    line("put-100 p99", "put, 100 clients: p99", "ms", LESS, ["", ""]),
    line("put-100 cpu", "put, 100 clients: CPU", "µs", LESS, ["≤ 25", "≤ 70"]),
    line("put-100 generator", "put, 100 clients: generator", "cores", None, ["", ""]),
    line("txn-100 rate", "Kubernetes txn, 100 clients", "1/s", MORE, ["≥ 2.5 ×", ""]),
    line("txn-100 cpu", "Kubernetes txn, 100 clients: CPU", "µs", LESS, ["≤ 30", ""]),
    line("get-1 rate", "linearizable get, 1 client", "1/s", MORE, ["", ""]),
    line("get-1 p50", "linearizable get, 1 client: p50", "ms", LESS, ["", ""]),
    line("get-1 cpu", "linearizable get, 1 client: CPU", "µs", LESS, ["", ""]),
    line("get-100 rate", "linearizable get, 100 clients", "1/s", MORE, ["≥ 2 ×", ""]),
    line("get-100 p99", "linearizable get, 100 clients: p99", "ms", LESS, ["", ""]),
    line("get-100 cpu", "linearizable get, 100 clients: CPU", "µs", LESS, ["≤ 15", ""]),
    line("get-100 generator", "linearizable get, 100 clients: generator", "cores", None, ["", ""]),
    line("sget-100 rate", "serializable get, 100 clients", "1/s", MORE, ["≥ 2 ×", ""]),
    line("sget-100 cpu", "serializable get, 100 clients: CPU", "µs", LESS, ["≤ 15", ""]),
    line("range-10k p50", "range of 10,000 × 1 KiB", "ms", LESS, ["≤ 8", ""]),
    line("range-10k cpu", "range of 10,000 × 1 KiB: CPU", "ms", LESS, ["", ""]),
    line(
        "watch-flat rate",
        "1,000 watchers of one prefix, flat out: events",
        "1/s",
        MORE,
        ["≥ 4 ×", "≥ 4 ×"],
    ),
    line("watch-flat cpu", "1,000 watchers, flat out: CPU per event", "µs", LESS, ["≤ ¼", "≤ ¼"]),
    line("watch-flat p99", "1,000 watchers, flat out: delivery p99", "ms", LESS, ["", ""]),
    line("watch-flat generator", "1,000 watchers, flat out: generator", "cores", None, ["", ""]),
    line("watch-paced p50", "1,000 watchers, 100 writes/s: delivery p50", "ms", LESS, ["≤ 1.5", ""]),
    line("watch-paced p99", "1,000 watchers, 100 writes/s: delivery p99", "ms", LESS, ["≤ 4", ""]),
    line("watch-paced cpu", "1,000 watchers, 100 writes/s: CPU per event", "µs", LESS, ["", ""]),
    line("watch-own rate", "1,000 watchers of a key each, flat out: events", "1/s", MORE, ["", ""]),
    line("watch-own p50", "watchers of a key each: delivery p50", "ms", LESS, ["", ""]),
    line("watch-own cpu", "watchers of a key each: CPU per event", "µs", LESS, ["", ""]),
    line("watch-memory each", "memory of a watcher (10,000 on 10 streams)", "KiB", LESS, ["", ""]),
    line("lease-grant rate", "lease grant, 100 clients", "1/s", MORE, ["≥ 3 ×", ""]),
    line("lease-grant cpu", "lease grant: CPU", "µs", LESS, ["", ""]),
    line("keep-alive rate", "keep-alive, 100 streams", "1/s", MORE, ["≥ 2 ×", ""]),
    line("keep-alive cpu", "keep-alive: CPU", "µs", LESS, ["", ""]),
    line("keep-alive generator", "keep-alive: generator", "cores", None, ["", ""]),
    line(
        "lease-revoke worst",
        "revoke of a lease with 10,000 keys: stall of writes",
        "ms",
        LESS,
        ["≤ 10", ""],
    ),
    line("fill rate", "fill of 1 M × 256 B", "keys/s", MORE, ["≥ 3 ×", ""]),
    line("fill cpu", "fill: CPU per key", "µs", LESS, ["", ""]),
    line("fill memory", "memory after the fill", "MiB", LESS, ["≤ 400", ""]),
    line("fill peak", "peak of memory in the fill", "MiB", LESS, ["≤ 400", ""]),
    line("fill disk", "on disk after the fill, without the log", "MiB", LESS, ["≤ 200", ""]),
    line("fill log", "the log after the fill", "MiB", LESS, ["", ""]),
    line("page p50", "a page of 500 of 1 M", "ms", LESS, ["≤ 1", ""]),
    line("count p50", "count of 1 M", "ms", LESS, ["≤ 1", ""]),
    line("full-range unary", "range of all 1 M, one answer", "s", LESS, ["≤ 1.2", ""]),
    line("full-range unary-memory", "range of all, one answer: memory beyond", "MiB", LESS, ["≤ 350", ""]),
    line("full-range stream", "range of all 1 M, a stream", "s", LESS, ["≤ 1.2", ""]),
    line("full-range stream-memory", "range of all, a stream: memory beyond", "MiB", LESS, ["≤ 16", ""]),
    line("snapshot time", "snapshot of 1 M beside writes", "s", LESS, ["≤ 2", ""]),
    line("snapshot worst", "snapshot: stall of writes", "ms", LESS, ["≤ 10", ""]),
    line("restart time", "kill -9 with 1 M to the first linearizable read", "s", LESS, ["≤ 0.5", ""]),
    line("restart memory", "memory after that restart", "MiB", LESS, ["≤ 400", ""]),
    line("restart peak", "peak of memory in that restart", "MiB", LESS, ["≤ 400", ""]),
    line("compaction time", "compaction of 1 M revisions: answered after", "s", LESS, ["", ""]),
    line("compaction worst", "compaction: stall of writes", "ms", LESS, ["≤ 10", ""]),
    line("defragment time", "defragment after it", "s", LESS, ["", ""]),
    line("defragment worst", "defragment: stall of writes", "ms", LESS, ["≤ 10", ""]),
    line("compaction disk", "on disk after compaction and defragment, log included", "MiB", LESS, ["", ""]),
    line("kill-leader p50", "kill -9 of the leader to the next write", "ms", LESS, ["", "≤ 200"]),
    line("kill-leader max", "kill -9 of the leader: longest", "ms", LESS, ["", "≤ 400"]),
    line("freeze-leader p50", "SIGSTOP of the leader to the next write", "ms", LESS, ["", "≤ 300"]),
    line("freeze-leader max", "SIGSTOP of the leader: longest", "ms", LESS, ["", ""]),
    line("large fill", "fill of a large store, 16 KiB values", "MiB/s", MORE, ["", ""]),
    line("large rate-1", "put, 100 clients, 1 GiB stored", "1/s", MORE, ["", ""]),
    line("large rate-all", "put, 100 clients, all stored", "1/s", MORE, ["", ""]),
    line("large kept", "put rate of the large store, of that at 1 GiB", "%", MORE, ["≥ 70", ""]),
    line("large memory", "memory of the large store", "MiB", LESS, ["", ""]),
    line("large peak", "peak of memory of the large store", "MiB", LESS, ["", ""]),
    line("large disk", "the large store on disk, log included", "MiB", LESS, ["", ""]),
];

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
#[derive(Default)]
pub struct Report(BTreeMap<(Setting, String, String), Vec<f64>>);

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
        self.report.0.entry(place).or_default().push(value);
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
    /// Where a run of a program puts its figures.
    pub fn notes(&mut self, setting: &Setting, program: &Program) -> Notes<'_> {
        Notes { report: self, setting: setting.clone(), program: program.name.clone() }
    }

    fn figure(&self, setting: &Setting, key: &str, program: &Program) -> Option<f64> {
        let values = self.0.get(&(setting.clone(), key.to_owned(), program.name.clone()))?;
        Some(median(values.clone()))
    }

    fn tables(&self, programs: &[Program]) -> Tables {
        let mut settings: Vec<&Setting> = self.0.keys().map(|(setting, _, _)| setting).collect();
        settings.dedup();
        let mut tables = Tables::default();
        for setting in settings {
            let names: Vec<&str> = programs.iter().map(|program| program.name.as_str()).collect();
            let head = format!("| work | unit | {} | better by | goal |", names.join(" | "));
            let mut table = Table { head, rows: BTreeMap::new() };
            for (place, line) in LINES.iter().enumerate() {
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
        let (before, rest) = page.split_once(BEGIN).context("the page has no mark where the table begins")?;
        let (old, after) = rest.split_once(END).context("the page has no mark where the table ends")?;
        let mut tables = Tables::parse(old);
        tables.merge(self.tables(programs));
        Ok(format!("{before}{BEGIN}\n\n{preface}\n\n{}\n{END}{after}", tables.show()))
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
    fn parse(text: &str) -> Self {
        let mut tables = Self::default();
        for part in text.split("### ").skip(1) {
            let mut lines = part.lines();
            let title = lines.next().unwrap_or_default().to_owned();
            let mut lines = lines.filter(|line| line.starts_with('|') && !line.starts_with("|-"));
            let head = lines.next().unwrap_or_default().to_owned();
            let place = |row: &str| {
                let mut cells = row.split(" | ").map(|cell| cell.trim_start_matches("| "));
                let (text, unit) = (cells.next()?, cells.next()?);
                LINES.iter().position(|line| line.text == text && line.unit == unit)
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

    fn programs() -> Vec<Program> {
        ["etcd-1", "trierarch"].map(|name| Program { name: name.to_owned(), path: "x".into() }).to_vec()
    }

    fn report(figures: &[(&str, &str, f64)]) -> Report {
        let mut report = Report::default();
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
            ("put-1 rate", "etcd-1", 10.0),
            ("put-1 rate", "trierarch", 20.0),
            ("put-1 cpu", "etcd-1", 300.0),
            ("put-1 cpu", "trierarch", 100.0),
        ]);
        let text = report.show(&programs());
        assert!(text.contains("| put, 1 client | 1/s | 10.0 | 20.0 | 2.00 |  |"), "{text}");
        assert!(text.contains("| put, 1 client: CPU | µs | 300 | 100 | 3.00 | ≤ 120 |"), "{text}");
    }

    #[test]
    fn what_was_not_run_again_stays_in_the_page() {
        let page = format!("before\n{BEGIN}\n{END}\nafter");
        let first = report(&[("put-1 rate", "trierarch", 1.0), ("count p50", "trierarch", 7.0)]);
        let page = first.write(&page, &programs(), "Machine.").expect("marks");
        let second = report(&[("put-1 rate", "trierarch", 2.0)]);
        let page = second.write(&page, &programs(), "Machine.").expect("marks");
        assert!(page.contains("| put, 1 client | 1/s | – | 2.00 |") && page.contains("| 7.00 |"), "{page}");
        assert!(
            !page.contains("| 1.00 |") && page.starts_with("before") && page.ends_with("after"),
            "{page}"
        );
    }

    #[test]
    fn every_line_can_be_told_from_the_others() {
        for (place, line) in LINES.iter().enumerate() {
            let alike = LINES.iter().filter(|other| other.text == line.text && other.unit == line.unit);
            assert_eq!(alike.count(), 1, "{place}: {}", line.text);
        }
    }
}
