//! What metrics there are, as data: whoever records one lists it here, whoever renders them reads the lists. Values go
//! through the `metrics` facade.

/// A metric as it is shown.
#[derive(Clone, Copy, Debug)]
pub struct Metric {
    /// The name without suffixes.
    pub name: &'static str,
    /// One line for people.
    pub help: &'static str,
    /// What is counted.
    pub kind: MetricKind,
    /// Whether it has labels. One without is shown from the start, with nothing counted.
    pub labelled: bool,
}

/// What a metric counts.
#[derive(Clone, Copy, Debug)]
pub enum MetricKind {
    /// Only grows.
    Counter,
    /// Moves both ways.
    Gauge,
    /// How often values were how large.
    Histogram(Buckets),
}

/// Bounds of a histogram, each `factor` times the one before.
#[derive(Clone, Copy, Debug)]
pub struct Buckets {
    /// The smallest bound, in the metric's unit.
    pub first: f64,
    /// From bound to bound.
    pub factor: f64,
    /// How many there are.
    pub count: u16,
}

impl Buckets {
    /// The bounds in order.
    pub fn bounds(self) -> Vec<f64> {
        let mut next = self.first;
        let mut bounds = Vec::with_capacity(usize::from(self.count));
        for _ in 0..self.count {
            bounds.push(next);
            next *= self.factor;
        }
        bounds
    }
}

impl Metric {
    /// A counter.
    pub const fn counter(name: &'static str, help: &'static str) -> Self {
        Self { name, help, kind: MetricKind::Counter, labelled: false }
    }

    /// A gauge.
    pub const fn gauge(name: &'static str, help: &'static str) -> Self {
        Self { name, help, kind: MetricKind::Gauge, labelled: false }
    }

    /// A histogram.
    pub const fn histogram(
        name: &'static str,
        help: &'static str,
        (first, factor, count): (f64, f64, u16),
    ) -> Self {
        let kind = MetricKind::Histogram(Buckets { first, factor, count });
        Self { name, help, kind, labelled: false }
    }

    /// The same with labels.
    pub const fn labelled(mut self) -> Self {
        self.labelled = true;
        self
    }
}
