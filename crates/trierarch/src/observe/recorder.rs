//! Records metrics and renders them as Prometheus text. A handle is an atomic: whoever keeps one pays nothing else.

use std::collections::{BTreeMap, HashMap};
use std::fmt::Write as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use env::{Metric, MetricKind};
use metrics::{Counter, Gauge, GaugeFn, Histogram, HistogramFn, Key, KeyName, Metadata, SharedString, Unit};
use parking_lot::RwLock;

/// Bounds of histograms that nobody described: durations, from 100 µs to a minute.
const DEFAULT_BOUNDS: [f64; 18] = [
    0.0001, 0.0002, 0.0004, 0.0008, 0.0016, 0.0032, 0.0064, 0.0128, 0.0256, 0.0512, 0.1024, 0.2048, 0.4096,
    0.8192, 1.6384, 5.0, 15.0, 60.0,
];

/// The process' metrics.
#[derive(Clone, Default)]
pub struct Recorder(Arc<Inner>);

#[derive(Default)]
struct Inner {
    described: HashMap<&'static str, Metric>,
    cells: RwLock<HashMap<Key, Cell>>,
}

#[derive(Clone)]
enum Cell {
    Counter(Arc<AtomicU64>),
    Gauge(Arc<AtomicU64>),
    Histogram(Arc<Distribution>),
}

/// How often values were how large.
struct Distribution {
    bounds: Arc<[f64]>,
    /// One more than there are bounds.
    counts: Box<[AtomicU64]>,
    sum: AtomicU64,
}

impl Distribution {
    fn new(bounds: Arc<[f64]>) -> Self {
        let counts = (0..=bounds.len()).map(|_| AtomicU64::new(0)).collect();
        Self { bounds, counts, sum: AtomicU64::new(0) }
    }
}

impl HistogramFn for Distribution {
    fn record(&self, value: f64) {
        let place = self.bounds.partition_point(|bound| *bound < value);
        self.counts[place].fetch_add(1, Ordering::Relaxed);
        GaugeFn::increment(&self.sum, value);
    }
}

impl Recorder {
    /// A recorder that knows these metrics; those without labels are shown from now on.
    pub fn new(tables: &[&[Metric]]) -> Self {
        let described: HashMap<_, _> =
            tables.iter().copied().flatten().map(|metric| (metric.name, *metric)).collect();
        let unlabelled: Vec<_> = described.values().filter(|metric| !metric.labelled).copied().collect();
        let recorder = Self(Arc::new(Inner { described, cells: RwLock::default() }));
        for metric in unlabelled {
            recorder.cell(&Key::from_name(metric.name), |recorder| recorder.fresh(metric.name, metric.kind));
        }
        recorder
    }

    fn fresh(&self, name: &str, kind: MetricKind) -> Cell {
        match kind {
            MetricKind::Counter => Cell::Counter(Arc::default()),
            MetricKind::Gauge => Cell::Gauge(Arc::default()),
            MetricKind::Histogram(_) => Cell::Histogram(Arc::new(Distribution::new(self.bounds(name)))),
        }
    }

    fn bounds(&self, name: &str) -> Arc<[f64]> {
        match self.0.described.get(name).map(|metric| metric.kind) {
            Some(MetricKind::Histogram(buckets)) => buckets.bounds().into(),
            _ => DEFAULT_BOUNDS.into(),
        }
    }

    fn cell(&self, key: &Key, make: impl FnOnce(&Self) -> Cell) -> Cell {
        if let Some(cell) = self.0.cells.read().get(key) {
            return cell.clone();
        }
        let fresh = make(self);
        self.0.cells.write().entry(key.clone()).or_insert(fresh).clone()
    }

    /// Everything as Prometheus text, by name and labels.
    pub fn render(&self) -> String {
        let mut families: BTreeMap<&str, BTreeMap<String, &Cell>> = BTreeMap::new();
        let cells = self.0.cells.read();
        for (key, cell) in cells.iter() {
            families.entry(key.name()).or_default().insert(labels(key), cell);
        }
        let mut out = String::new();
        for (name, series) in families {
            if let Some(metric) = self.0.described.get(name) {
                line(&mut out, format_args!("# HELP {name} {}", metric.help));
            }
            let kind = match series.values().next() {
                Some(Cell::Counter(_)) => "counter",
                Some(Cell::Gauge(_)) => "gauge",
                _ => "histogram",
            };
            line(&mut out, format_args!("# TYPE {name} {kind}"));
            series.into_iter().for_each(|(labels, cell)| write_series(&mut out, name, &labels, cell));
        }
        out
    }
}

impl metrics::Recorder for Recorder {
    // What a metric is for is in the tables.
    fn describe_counter(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}
    fn describe_gauge(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}
    fn describe_histogram(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}

    fn register_counter(&self, key: &Key, _: &Metadata<'_>) -> Counter {
        match self.cell(key, |_| Cell::Counter(Arc::default())) {
            Cell::Counter(cell) => Counter::from_arc(cell),
            _ => Counter::noop(),
        }
    }

    fn register_gauge(&self, key: &Key, _: &Metadata<'_>) -> Gauge {
        match self.cell(key, |_| Cell::Gauge(Arc::default())) {
            Cell::Gauge(cell) => Gauge::from_arc(cell),
            _ => Gauge::noop(),
        }
    }

    fn register_histogram(&self, key: &Key, _: &Metadata<'_>) -> Histogram {
        let fresh = |this: &Self| Cell::Histogram(Arc::new(Distribution::new(this.bounds(key.name()))));
        match self.cell(key, fresh) {
            Cell::Histogram(cell) => Histogram::from_arc(cell),
            _ => Histogram::noop(),
        }
    }
}

fn line(out: &mut String, text: std::fmt::Arguments<'_>) {
    // Writing to a string cannot fail.
    let _ = writeln!(out, "{text}");
}

/// `name="value",…` in the order of the names, as Prometheus' own libraries write them.
fn labels(key: &Key) -> String {
    let mut pairs: Vec<_> = key.labels().map(|label| (label.key(), label.value())).collect();
    pairs.sort_unstable();
    let escaped = |text: &str| text.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n");
    let pairs = pairs.into_iter().map(|(name, value)| format!("{name}=\"{}\"", escaped(value)));
    pairs.collect::<Vec<_>>().join(",")
}

fn write_series(out: &mut String, name: &str, labels: &str, cell: &Cell) {
    let braces = if labels.is_empty() { String::new() } else { format!("{{{labels}}}") };
    match cell {
        Cell::Counter(cell) => {
            line(out, format_args!("{name}{braces} {}", number(cell.load(Ordering::Relaxed) as f64)));
        }
        Cell::Gauge(cell) => {
            line(
                out,
                format_args!("{name}{braces} {}", number(f64::from_bits(cell.load(Ordering::Relaxed)))),
            );
        }
        Cell::Histogram(cell) => {
            let comma = if labels.is_empty() { "" } else { "," };
            let bounds = cell.bounds.iter().map(|bound| number(*bound)).chain(["+Inf".to_owned()]);
            let mut total = 0;
            for (bound, count) in bounds.zip(&cell.counts) {
                total += count.load(Ordering::Relaxed);
                line(
                    out,
                    format_args!("{name}_bucket{{{labels}{comma}le=\"{bound}\"}} {}", number(total as f64)),
                );
            }
            let sum = f64::from_bits(cell.sum.load(Ordering::Relaxed));
            line(out, format_args!("{name}_sum{braces} {}", number(sum)));
            line(out, format_args!("{name}_count{braces} {}", number(total as f64)));
        }
    }
}

/// A number as Go prints it (`%g`): dashboards may match the text of a bound.
pub fn number(value: f64) -> String {
    if value.is_nan() {
        return "NaN".to_owned();
    }
    if value.is_infinite() {
        return if value > 0.0 { "+Inf" } else { "-Inf" }.to_owned();
    }
    let scientific = format!("{value:e}");
    let (digits, exponent) = scientific.split_once('e').unwrap_or((&scientific, "0"));
    let exponent: i32 = exponent.parse().unwrap_or(0);
    if value == 0.0 || (-4..6).contains(&exponent) {
        return value.to_string();
    }
    let sign = if exponent < 0 { '-' } else { '+' };
    format!("{digits}e{sign}{:02}", exponent.abs())
}

#[cfg(test)]
mod tests {
    use super::*;

    const TABLE: &[Metric] = &[
        Metric::counter("puts_total", "Puts."),
        Metric::histogram("took_seconds", "Time.", (0.001, 2.0, 3)),
        Metric::counter("calls_total", "Calls.").labelled(),
    ];

    #[test]
    fn what_is_recorded_is_rendered() {
        let recorder = Recorder::new(&[TABLE]);
        assert!(
            recorder.render().contains("# HELP puts_total Puts.\n# TYPE puts_total counter\nputs_total 0\n")
        );
        assert!(!recorder.render().contains("calls_total"), "nothing is known of its labels yet");
        metrics::with_local_recorder(&recorder, || {
            metrics::counter!("puts_total").increment(3);
            metrics::counter!("calls_total", "to" => "b\"", "by" => "a").increment(1);
            metrics::gauge!("size").set(2_500_000.0);
            metrics::gauge!("puts_total").set(1.0);
            let took = metrics::histogram!("took_seconds");
            [0.001, 0.0011, 9.0].into_iter().for_each(|seconds| took.record(seconds));
        });
        let text = recorder.render();
        for expected in [
            "puts_total 3\n",
            "calls_total{by=\"a\",to=\"b\\\"\"} 1\n",
            "# TYPE size gauge\nsize 2.5e+06\n",
            "took_seconds_bucket{le=\"0.001\"} 1\ntook_seconds_bucket{le=\"0.002\"} 2\n",
            "took_seconds_bucket{le=\"+Inf\"} 3\ntook_seconds_sum 9.0021\ntook_seconds_count 3\n",
        ] {
            assert!(text.contains(expected), "{expected} in {text}");
        }
    }

    #[test]
    fn numbers_are_written_as_go_writes_them() {
        let cases = [
            (0.0, "0"),
            (1.0, "1"),
            (0.0001, "0.0001"),
            (0.00005, "5e-05"),
            (8.192, "8.192"),
            (999_999.0, "999999"),
            (1_000_000.0, "1e+06"),
            (8_388_608.0, "8.388608e+06"),
            (f64::INFINITY, "+Inf"),
        ];
        for (value, text) in cases {
            assert_eq!(number(value), text);
        }
    }
}
