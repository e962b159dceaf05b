//! The answer to a scrape.

use prometheus::TextEncoder;

use super::{collector::Collector, families};
use crate::metric_family::merge;

/// Returns all metrics in Prometheus's text format.
pub(super) async fn scrape(collector: &Collector) -> Result<String, prometheus::Error> {
    let mut families = families::calls(collector);
    families.extend(families::server(collector));
    for other in &collector.others {
        families.extend(other.collect().await);
    }
    let mut families = merge(families);
    // A family without a metric cannot be encoded.
    families.retain(|family| !family.get_metric().is_empty());
    TextEncoder::new().encode_to_string(&families)
}
