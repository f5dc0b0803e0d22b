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

/// Bounds of a histogram, in the metric's unit.
#[derive(Clone, Copy, Debug)]
pub enum Buckets {
    /// `count` bounds from `first` on, each `factor` times the one before.
    Growing {
        /// The smallest bound.
        first: f64,
        /// From bound to bound.
        factor: f64,
        /// How many there are.
        count: u16,
    },
    /// `count` bounds from `first` on, each `step` above the one before.
    Even {
        /// The smallest bound.
        first: f64,
        /// From bound to bound.
        step: f64,
        /// How many there are.
        count: u16,
    },
    /// These, in order.
    Listed(&'static [f64]),
}

impl Buckets {
    /// The bounds in order, with the rounding of Prometheus' own library: each is made of the one before.
    pub fn bounds(self) -> Vec<f64> {
        let series = |first: f64, count: u16, next: &dyn Fn(f64) -> f64| {
            let mut bound = first;
            let mut bounds = Vec::with_capacity(usize::from(count));
            for _ in 0..count {
                bounds.push(bound);
                bound = next(bound);
            }
            bounds
        };
        match self {
            Self::Growing { first, factor, count } => series(first, count, &|bound| bound * factor),
            Self::Even { first, step, count } => series(first, count, &|bound| bound + step),
            Self::Listed(bounds) => bounds.to_vec(),
        }
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
        Self::histogram_of(name, help, Buckets::Growing { first, factor, count })
    }

    /// A histogram with these bounds.
    pub const fn histogram_of(name: &'static str, help: &'static str, buckets: Buckets) -> Self {
        Self { name, help, kind: MetricKind::Histogram(buckets), labelled: false }
    }

    /// The same with labels.
    pub const fn labelled(mut self) -> Self {
        self.labelled = true;
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bounds_are_made_as_by_prometheus_library() {
        assert_eq!(Buckets::Growing { first: 1.0, factor: 2.0, count: 3 }.bounds(), [1.0, 2.0, 4.0]);
        assert_eq!(Buckets::Even { first: 5.0, step: 10.0, count: 3 }.bounds(), [5.0, 15.0, 25.0]);
        assert_eq!(Buckets::Listed(&[0.5, 7.0]).bounds(), [0.5, 7.0]);
    }
}
