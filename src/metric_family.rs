//! Metric families of counters that are kept elsewhere, for Prometheus.

use prometheus::proto::{
    Bucket, Counter, Gauge, Histogram, LabelPair, Metric, MetricFamily, MetricType,
};

/// The samples of one metric.
#[derive(Debug, PartialEq)]
pub(crate) struct Family {
    name: &'static str,
    help: &'static str,
    samples: Samples,
}

#[derive(Debug, PartialEq)]
enum Samples {
    Counters(Vec<Sample<u64>>),
    Gauges(Vec<Sample<f64>>),
    Histograms(Vec<Sample<Distribution>>),
}

/// A value with its labels.
#[derive(Debug, PartialEq)]
pub(crate) struct Sample<T> {
    pub(crate) labels: Vec<Label>,
    pub(crate) value: T,
}

/// Name and value.
pub(crate) type Label = (&'static str, String);

/// The content of a histogram.
#[derive(Debug, PartialEq)]
pub(crate) struct Distribution {
    pub(crate) bounds: &'static [f64],
    /// A count for each bound, of the values between it and the one before, and a count of greater values.
    pub(crate) counts: Vec<u64>,
    pub(crate) sum: f64,
}

impl<T> Sample<T> {
    pub(crate) fn unlabeled(value: T) -> Self {
        Self {
            labels: Vec::new(),
            value,
        }
    }
}

impl Family {
    fn new(name: &'static str, help: &'static str, samples: Samples) -> Self {
        Self {
            name,
            help,
            samples,
        }
    }

    pub(crate) fn counters(
        name: &'static str,
        help: &'static str,
        samples: Vec<Sample<u64>>,
    ) -> Self {
        Self::new(name, help, Samples::Counters(samples))
    }

    pub(crate) fn gauges(
        name: &'static str,
        help: &'static str,
        samples: Vec<Sample<f64>>,
    ) -> Self {
        Self::new(name, help, Samples::Gauges(samples))
    }

    pub(crate) fn histograms(
        name: &'static str,
        help: &'static str,
        samples: Vec<Sample<Distribution>>,
    ) -> Self {
        Self::new(name, help, Samples::Histograms(samples))
    }

    /// Adds the counters of `other`. Those with the same labels are summed.
    fn merge(&mut self, other: Self) {
        let (Samples::Counters(counters), Samples::Counters(others)) =
            (&mut self.samples, other.samples)
        else {
            return;
        };
        for other in others {
            match counters.iter_mut().find(|it| it.labels == other.labels) {
                Some(counter) => counter.value += other.value,
                None => counters.push(other),
            }
        }
    }
}

/// Merges the counters of families with the same name.
pub(crate) fn merge(families: Vec<Family>) -> Vec<Family> {
    let mut merged: Vec<Family> = Vec::with_capacity(families.len());
    for family in families {
        match merged.iter_mut().find(|known| known.name == family.name) {
            None => merged.push(family),
            Some(known) => known.merge(family),
        }
    }
    merged
}

impl From<Family> for MetricFamily {
    fn from(family: Family) -> Self {
        let (kind, metrics) = match family.samples {
            Samples::Counters(samples) => (MetricType::COUNTER, convert(samples, set_counter)),
            Samples::Gauges(samples) => (MetricType::GAUGE, convert(samples, set_gauge)),
            Samples::Histograms(samples) => {
                (MetricType::HISTOGRAM, convert(samples, set_histogram))
            }
        };
        let mut converted = Self::default();
        converted.set_name(family.name.to_owned());
        converted.set_help(family.help.to_owned());
        converted.set_field_type(kind);
        converted.set_metric(metrics);
        converted
    }
}

fn convert<T>(samples: Vec<Sample<T>>, set: fn(&mut Metric, T)) -> Vec<Metric> {
    let metrics = samples.into_iter().map(|sample| {
        let labels = sample.labels.into_iter().map(|(name, value)| {
            let mut label = LabelPair::default();
            label.set_name(name.to_owned());
            label.set_value(value);
            label
        });
        let mut metric = Metric::from_label(labels.collect());
        set(&mut metric, sample.value);
        metric
    });
    metrics.collect()
}

fn set_counter(metric: &mut Metric, value: u64) {
    let mut counter = Counter::default();
    counter.set_value(value as f64);
    metric.set_counter(counter);
}

fn set_gauge(metric: &mut Metric, value: f64) {
    let mut gauge = Gauge::default();
    gauge.set_value(value);
    metric.set_gauge(gauge);
}

/// The total is the sum of the buckets, even if the counters change meanwhile.
fn set_histogram(metric: &mut Metric, distribution: Distribution) {
    let Distribution {
        bounds,
        counts,
        sum,
    } = distribution;
    let mut total = 0;
    let mut buckets = Vec::with_capacity(bounds.len());
    for (bound, count) in bounds.iter().zip(&counts) {
        total += count;
        let mut bucket = Bucket::default();
        bucket.set_upper_bound(*bound);
        bucket.set_cumulative_count(total);
        buckets.push(bucket);
    }
    total += counts[bounds.len()..].iter().sum::<u64>();
    let mut histogram = Histogram::default();
    histogram.set_bucket(buckets);
    histogram.set_sample_count(total);
    histogram.set_sample_sum(sum);
    metric.set_histogram(histogram);
}

#[cfg(test)]
mod tests {
    use prometheus::TextEncoder;

    use super::*;

    fn counters(name: &'static str, values: &[(&str, u64)]) -> Family {
        let samples = values.iter().map(|(limit, value)| Sample {
            labels: vec![("limit", (*limit).to_owned())],
            value: *value,
        });
        Family::counters(name, "A counter.", samples.collect())
    }

    #[test]
    fn counters_of_one_name_are_merged_by_label() {
        let merged = merge(vec![
            counters("a", &[("x", 1), ("y", 2)]),
            counters("b", &[("x", 4)]),
            counters("a", &[("y", 8), ("z", 16)]),
        ]);
        let expected = [
            counters("a", &[("x", 1), ("y", 10), ("z", 16)]),
            counters("b", &[("x", 4)]),
        ];
        assert_eq!(merged, expected);
    }

    #[test]
    fn histogram_counts_are_cumulative() {
        let distribution = Distribution {
            bounds: &[0.1, 1.0],
            counts: vec![1, 2, 4],
            sum: 9.0,
        };
        let samples = vec![Sample::unlabeled(distribution)];
        let family = Family::histograms("h", "A histogram.", samples);
        let text = TextEncoder::new()
            .encode_to_string(&[family.into()])
            .unwrap();
        let lines: Vec<_> = text.lines().filter(|line| !line.starts_with('#')).collect();
        let expected = [
            "h_bucket{le=\"0.1\"} 1",
            "h_bucket{le=\"1\"} 3",
            "h_bucket{le=\"+Inf\"} 7",
            "h_sum 9",
            "h_count 7",
        ];
        assert_eq!(lines, expected);
    }
}
