//! The answer to a scrape.

use std::collections::HashSet;

use futures::future::join_all;
use prometheus::{
    TextEncoder,
    proto::{MetricFamily, MetricType},
};

use super::{collector::Collector, families};
use crate::metric_family::merge;

/// Returns all metrics in Prometheus's text format.
pub(super) async fn scrape(collector: &Collector) -> Result<String, prometheus::Error> {
    let mut own = families::calls(collector);
    own.extend(families::server(collector));
    own.extend(collector.inline.iter().flat_map(|collect| collect()));
    let own = merge(own).into_iter().map(MetricFamily::from);
    let blocking = join_all(collector.blocking.iter().map(|it| it.collect())).await;
    let mut names = HashSet::new();
    let families: Vec<_> = own
        .chain(blocking.into_iter().flatten())
        .filter(can_be_encoded)
        // A second family of a name would make the whole answer invalid.
        .filter(|family| names.insert(family.name().to_owned()))
        .collect();
    TextEncoder::new().encode_to_string(&families)
}

/// Whether the encoder accepts a family. It fails without name or samples, and panics at untyped ones.
fn can_be_encoded(family: &MetricFamily) -> bool {
    let is_typed = family.get_field_type() != MetricType::UNTYPED;
    is_typed && !family.name().is_empty() && !family.get_metric().is_empty()
}
