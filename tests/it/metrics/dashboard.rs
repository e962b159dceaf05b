//! Every metric and label in `deploy/` and in the documentation exists.

use std::{collections::BTreeSet, fs, path::Path};

use muxs::files::Settings;
use serde_json::Value;

use crate::support::{TestServer, hello, scrape::Scrape, with_timeout};

/// The labels that Prometheus adds, and the metric `up` that it generates.
const ADDED: [&str; 2] = ["job", "instance"];
const UP: &str = "up";

/// Keywords of PromQL at the position of a metric.
const WORDS: [&str; 4] = ["by", "on", "and", "or"];

fn deployed(name: &str) -> String {
    let deploy = Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy");
    fs::read_to_string(deploy.join(name)).unwrap()
}

/// Collects all strings with this key from a JSON value.
fn strings<'a>(value: &'a Value, key: &str, found: &mut Vec<&'a str>) {
    match value {
        Value::Object(fields) => {
            for (name, field) in fields {
                match field {
                    Value::String(text) if name == key => found.push(text),
                    _ => strings(field, key, found),
                }
            }
        }
        Value::Array(items) => items.iter().for_each(|item| strings(item, key, found)),
        _ => {}
    }
}

/// The metrics of an expression, and its labels: of selectors, with their metric, and of groupings.
#[derive(Debug, Default)]
struct Names {
    metrics: BTreeSet<String>,
    selected: Vec<(String, String)>,
    grouped: BTreeSet<String>,
}

impl Names {
    fn parse(expression: &str) -> Self {
        let mut names = Self::default();
        let mut metric = String::new();
        let mut word = String::new();
        // The open brackets: a selector, a list of labels, or another.
        let mut open = vec![' '];
        let mut groups = false;
        let mut chars = expression.chars().chain([' ']).peekable();
        while let Some(char) = chars.next() {
            if char.is_ascii_alphanumeric() || "_:.$".contains(char) {
                word.push(char);
                continue;
            }
            let name = std::mem::take(&mut word);
            let is_name = name.starts_with(|char: char| char.is_ascii_alphabetic() || char == '_');
            match open.last() {
                Some('{') if is_name => names.selected.push((metric.clone(), name)),
                Some('l') if is_name => drop(names.grouped.insert(name)),
                Some('[' | '"') => {}
                _ if !is_name => {}
                _ if WORDS.contains(&name.as_str()) => groups = name == "by" || name == "on",
                // The name of a function.
                _ if char == '(' || chars.peek() == Some(&'(') && char == ' ' => {}
                _ if name == "sum" || name == "max" || name == "count" => {}
                _ => {
                    names.metrics.insert(name.clone());
                    metric = name;
                }
            }
            match char {
                '"' => while chars.next().is_some_and(|char| char != '"') {},
                '[' => while chars.next().is_some_and(|char| char != ']') {},
                '{' => open.push('{'),
                '(' if groups => {
                    open.push('l');
                    groups = false;
                }
                '(' => open.push('('),
                '}' | ')' => drop(open.pop()),
                _ => {}
            }
        }
        names
    }

    fn assert_are_in(&self, metrics: &Scrape, expression: &str) {
        let labels = |metric: &str| match metrics.labels.get(metric) {
            Some(labels) => labels.clone(),
            None if metric == UP => BTreeSet::new(),
            None => panic!("there is no {metric}: {expression}"),
        };
        assert!(!self.metrics.is_empty(), "no metric in {expression}");
        let mut all: BTreeSet<String> = ADDED.map(str::to_owned).into();
        for metric in &self.metrics {
            all.extend(labels(metric));
        }
        for (metric, label) in &self.selected {
            let has = labels(metric).contains(label) || ADDED.contains(&label.as_str());
            assert!(has, "{metric} has no {label}: {expression}");
        }
        let missing: Vec<_> = self.grouped.difference(&all).collect();
        assert!(missing.is_empty(), "no {missing:?}: {expression}");
    }
}

#[tokio::test]
async fn dashboard_and_alerts_use_exported_metrics() {
    let server = TestServer::with_admin(Settings::default(), |_| {});
    let mut greeter = server.greeter().await;
    with_timeout(greeter.say_hello(hello("you"))).await.unwrap();
    let metrics = server.metrics().await;

    let dashboard: Value = serde_json::from_str(&deployed("grafana-dashboard.json")).unwrap();
    let mut expressions = Vec::new();
    strings(&dashboard["panels"], "expr", &mut expressions);
    assert!(expressions.len() > 20);
    let alerts = deployed("alerts.yml");
    let alerts = alerts
        .lines()
        .filter_map(|line| line.trim().strip_prefix("expr: "));
    let alerts: Vec<_> = alerts.collect();
    assert!(alerts.len() > 5);
    let mut shown = BTreeSet::new();
    for expression in expressions.iter().chain(&alerts) {
        let names = Names::parse(expression);
        names.assert_are_in(&metrics, expression);
        shown.extend(names.metrics);
    }
    // Every metric is used.
    for metric in metrics.labels.keys() {
        let part_of_one = metric.ends_with("_sum") || metric.ends_with("_count");
        assert!(
            part_of_one || shown.contains(metric),
            "{metric} is not shown"
        );
    }
}

/// docs/metrics.md lists all metrics, labels and limits.
#[tokio::test]
async fn every_metric_is_documented() {
    let server = TestServer::with_admin(Settings::default(), |_| {});
    let metrics = server.metrics().await;
    let docs = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/metrics.md");
    let docs = fs::read_to_string(docs).unwrap();
    for (metric, labels) in &metrics.labels {
        let parts = ["_bucket", "_sum", "_count"];
        let name = parts.iter().find_map(|part| metric.strip_suffix(part));
        let row = format!("| `{}` |", name.unwrap_or(metric));
        let row = docs.lines().find(|line| line.starts_with(&row));
        let row = row.unwrap_or_else(|| panic!("{metric} has no row"));
        for label in labels.iter().filter(|label| *label != "le") {
            assert!(row.contains(&format!("`{label}`")), "{label} of {metric}");
        }
    }
    for series in metrics.all("muxs_refused_total").keys() {
        let limit = series.split('"').nth(1).unwrap();
        assert!(docs.contains(&format!("| `{limit}` |")), "{limit}");
    }
}

#[test]
fn promql_parser_finds_metric_names() {
    let names = Names::parse(
        "sum by (a, le) (rate(m_total{b=~\"x|y\",c!=\"by\"}[5m])) / time() > n == 0.5",
    );
    let metrics: Vec<_> = names.metrics.iter().map(String::as_str).collect();
    assert_eq!(metrics, ["m_total", "n"]);
    let grouped: Vec<_> = names.grouped.iter().map(String::as_str).collect();
    assert_eq!(grouped, ["a", "le"]);
    let selected = [("m_total", "b"), ("m_total", "c")];
    assert_eq!(
        names.selected,
        selected.map(|(m, l)| (m.to_owned(), l.to_owned()))
    );
}
