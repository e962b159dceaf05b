//! Builds Prometheus metric families from numbers that are kept elsewhere.

use prometheus::proto::{
    Bucket, Counter, Gauge, Histogram, LabelPair, Metric, MetricFamily, MetricType,
};

/// A value with its labels.
pub(crate) struct Sample<T> {
    pub(crate) labels: Vec<LabelPair>,
    pub(crate) value: T,
}

impl<T> Sample<T> {
    pub(crate) fn unlabeled(value: T) -> Self {
        Self {
            labels: Vec::new(),
            value,
        }
    }
}

pub(crate) fn label(name: &str, value: &str) -> LabelPair {
    let mut label = LabelPair::default();
    label.set_name(name.to_owned());
    label.set_value(value.to_owned());
    label
}

pub(crate) fn counter_family(name: &str, help: &str, samples: Vec<Sample<u64>>) -> MetricFamily {
    family(name, help, MetricType::COUNTER, samples, |metric, value| {
        let mut counter = Counter::default();
        counter.set_value(value as f64);
        metric.set_counter(counter);
    })
}

pub(crate) fn gauge_family(name: &str, help: &str, samples: Vec<Sample<f64>>) -> MetricFamily {
    family(name, help, MetricType::GAUGE, samples, |metric, value| {
        let mut gauge = Gauge::default();
        gauge.set_value(value);
        metric.set_gauge(gauge);
    })
}

pub(crate) fn histogram_family(
    name: &str,
    help: &str,
    samples: Vec<Sample<Histogram>>,
) -> MetricFamily {
    family(
        name,
        help,
        MetricType::HISTOGRAM,
        samples,
        Metric::set_histogram,
    )
}

/// Returns a histogram with these upper bounds. `counts` has a count for each bucket, and one for greater
/// values. The total is their sum, even if the counters change meanwhile.
pub(crate) fn histogram(bounds: &[f64], counts: &[u64], sum: f64) -> Histogram {
    let mut total = 0;
    let mut buckets = Vec::with_capacity(bounds.len());
    for (bound, count) in bounds.iter().zip(counts) {
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
    histogram
}

/// Merges families of the same name. Counters with the same labels are added.
pub(crate) fn merge(families: Vec<MetricFamily>) -> Vec<MetricFamily> {
    let mut merged: Vec<MetricFamily> = Vec::with_capacity(families.len());
    for mut family in families {
        match merged
            .iter_mut()
            .find(|known| known.name() == family.name())
        {
            None => merged.push(family),
            Some(known) => {
                for metric in family.take_metric() {
                    merge_metric(known, metric);
                }
            }
        }
    }
    merged
}

fn merge_metric(family: &mut MetricFamily, metric: Metric) {
    let is_counter = family.get_field_type() == MetricType::COUNTER;
    let known = family.mut_metric().iter_mut();
    let same = known
        .filter(|_| is_counter)
        .find(|known| known.get_label() == metric.get_label());
    match same {
        Some(known) => {
            let mut sum = Counter::default();
            sum.set_value(known.get_counter().get_value() + metric.get_counter().get_value());
            known.set_counter(sum);
        }
        None => family.mut_metric().push(metric),
    }
}

fn family<T>(
    name: &str,
    help: &str,
    kind: MetricType,
    samples: Vec<Sample<T>>,
    set: impl Fn(&mut Metric, T),
) -> MetricFamily {
    let metrics = samples.into_iter().map(|sample| {
        let mut metric = Metric::from_label(sample.labels);
        set(&mut metric, sample.value);
        metric
    });
    let mut family = MetricFamily::default();
    family.set_name(name.to_owned());
    family.set_help(help.to_owned());
    family.set_field_type(kind);
    family.set_metric(metrics.collect());
    family
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counters(name: &str, values: &[(&str, u64)]) -> MetricFamily {
        let samples = values.iter().map(|(limit, value)| Sample {
            labels: vec![label("limit", limit)],
            value: *value,
        });
        counter_family(name, "A counter.", samples.collect())
    }

    #[test]
    fn families_of_one_name_are_merged_by_label() {
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
        let histogram = histogram(&[0.1, 1.0], &[1, 2, 4], 9.0);
        let counts = histogram.get_bucket().iter().map(Bucket::cumulative_count);
        assert_eq!(counts.collect::<Vec<_>>(), [1, 3]);
        assert_eq!(histogram.get_sample_count(), 7);
    }
}
