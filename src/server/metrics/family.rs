//! How metrics are put together: names and labels around a number.

use prometheus::proto::{Counter, Gauge, Histogram, LabelPair, Metric, MetricFamily, MetricType};

/// What is said of one series.
pub(super) enum Kind {
    Counter(u64),
    Gauge(f64),
    Histogram(Histogram),
}

pub(super) fn label(name: &str, value: &str) -> LabelPair {
    let mut label = LabelPair::default();
    label.set_name(name.to_owned());
    label.set_value(value.to_owned());
    label
}

pub(super) fn counter(labels: Vec<LabelPair>, value: u64) -> Metric {
    with(labels, Kind::Counter(value))
}

pub(super) fn with(labels: Vec<LabelPair>, value: Kind) -> Metric {
    let mut metric = Metric::from_label(labels);
    match value {
        Kind::Counter(value) => {
            let mut counter = Counter::default();
            counter.set_value(value as f64);
            metric.set_counter(counter);
        }
        Kind::Gauge(value) => {
            let mut gauge = Gauge::default();
            gauge.set_value(value);
            metric.set_gauge(gauge);
        }
        Kind::Histogram(histogram) => metric.set_histogram(histogram),
    }
    metric
}

pub(super) fn one_counter(name: &str, help: &str, value: u64) -> MetricFamily {
    let metrics = vec![counter(Vec::new(), value)];
    family(name, help, MetricType::COUNTER, metrics)
}

pub(super) fn one_gauge(name: &str, help: &str, value: f64) -> MetricFamily {
    let metrics = vec![with(Vec::new(), Kind::Gauge(value))];
    family(name, help, MetricType::GAUGE, metrics)
}

pub(super) fn family(
    name: &str,
    help: &str,
    kind: MetricType,
    metrics: Vec<Metric>,
) -> MetricFamily {
    let mut family = MetricFamily::default();
    family.set_name(name.to_owned());
    family.set_help(help.to_owned());
    family.set_field_type(kind);
    family.set_metric(metrics);
    family
}
