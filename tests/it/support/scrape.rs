//! A strict parser of the text exposition format of Prometheus.

use std::collections::{BTreeMap, BTreeSet};

/// The series of one answer of `/metrics`.
#[derive(Clone, Debug, Default)]
pub(crate) struct Scrape {
    /// By name and labels, as `name{a="b",c="d"}`, the labels sorted by name.
    series: BTreeMap<String, f64>,
    /// The label names of each metric.
    pub(crate) labels: BTreeMap<String, BTreeSet<String>>,
}

/// The metric family of the lines that follow.
struct Family {
    name: String,
    kind: String,
}

impl Scrape {
    /// Parses an exposition, and panics if it is malformed.
    #[track_caller]
    pub(crate) fn parse(text: &str) -> Self {
        assert!(text.ends_with('\n'), "the last line ends");
        let mut scrape = Self::default();
        let mut families = BTreeSet::new();
        let mut lines = text.lines().peekable();
        while let Some(line) = lines.next() {
            let help = line
                .strip_prefix("# HELP ")
                .expect("a family begins with HELP");
            let (name, help) = help.split_once(' ').expect("a name and a help");
            assert!(is_name(name), "{name}");
            assert!(help.ends_with('.') && !help.contains('\\'), "{help}");
            let kind = lines.next().and_then(|line| {
                let kind = line.strip_prefix("# TYPE ")?.strip_prefix(name)?;
                kind.strip_prefix(' ')
            });
            let family = Family {
                name: name.to_owned(),
                kind: kind.expect("TYPE follows HELP").to_owned(),
            };
            assert!(families.insert(family.name.clone()), "{name} comes twice");
            while let Some(line) = lines.next_if(|line| !line.starts_with('#')) {
                scrape.sample(&family, line);
            }
        }
        scrape.check_histograms();
        scrape
    }

    /// Returns the value of a series, and panics if it is missing.
    #[track_caller]
    pub(crate) fn value(&self, series: &str) -> f64 {
        match self.series.get(series) {
            Some(value) => *value,
            None => panic!("no {series} in {:#?}", self.series),
        }
    }

    /// Returns all series that begin with a prefix, and their values.
    pub(crate) fn all(&self, prefix: &str) -> BTreeMap<&str, f64> {
        let all = self.series.iter();
        let all = all.filter(|(series, _)| series.starts_with(prefix));
        all.map(|(series, value)| (series.as_str(), *value))
            .collect()
    }

    /// Returns the sum of these values.
    pub(crate) fn sum(&self, prefix: &str) -> f64 {
        self.all(prefix).values().sum()
    }

    fn sample(&mut self, family: &Family, line: &str) {
        let (series, value) = line.rsplit_once(' ').expect("a series and a value");
        let (name, labels) = match series.split_once('{') {
            Some((name, labels)) => (name, parse_labels(labels)),
            None => (series, BTreeMap::new()),
        };
        let suffix = name.strip_prefix(&family.name).expect("of this family");
        let suffixes: &[&str] = match family.kind.as_str() {
            "counter" => {
                assert!(name.ends_with("_total"), "{name} is a counter");
                &[""]
            }
            "gauge" => {
                assert!(!name.ends_with("_total"), "{name} is a gauge");
                &[""]
            }
            "histogram" => &["_bucket", "_sum", "_count"],
            kind => panic!("{kind} is no type"),
        };
        assert!(suffixes.contains(&suffix), "{line}");
        let value: f64 = value.parse().expect("a number");
        assert!(value >= 0.0 && value.is_finite(), "{line}");
        let known = self.labels.entry(name.to_owned());
        let names = labels.keys().cloned().collect();
        let known = known.or_insert_with(|| BTreeSet::clone(&names));
        assert_eq!(*known, names, "{name} has the same labels everywhere");
        let before = self.series.insert(format_series(name, &labels), value);
        assert_eq!(before, None, "{line} comes twice");
    }

    /// Asserts that the buckets of histograms are cumulative and that the last has all observations.
    fn check_histograms(&self) {
        let mut histograms: BTreeMap<String, Vec<(f64, f64)>> = BTreeMap::new();
        for (series, count) in &self.series {
            let Some((name, labels)) = series.split_once("_bucket{") else {
                continue;
            };
            let mut labels = parse_labels(labels);
            let bound = labels.remove("le").expect("a bucket has a bound");
            let bound = match bound.as_str() {
                "+Inf" => f64::INFINITY,
                bound => bound.parse().unwrap(),
            };
            let count_of_all = format_series(&format!("{name}_count"), &labels);
            let buckets = histograms.entry(count_of_all).or_default();
            buckets.push((bound, *count));
        }
        for (series, mut buckets) in histograms {
            buckets.sort_by(|a, b| a.0.total_cmp(&b.0));
            assert!(
                buckets.is_sorted_by(|a, b| a.0 < b.0 && a.1 <= b.1),
                "{series}"
            );
            assert_eq!(buckets.last(), Some(&(f64::INFINITY, self.value(&series))));
            let sum = series.replacen("_count{", "_sum{", 1);
            assert!(self.value(&series) > 0.0 || self.value(&sum) == 0.0);
        }
    }
}

fn format_series(name: &str, labels: &BTreeMap<String, String>) -> String {
    let labels = labels.iter();
    let labels: Vec<_> = labels
        .map(|(name, value)| format!("{name}={value:?}"))
        .collect();
    match labels.is_empty() {
        true => name.to_owned(),
        false => format!("{name}{{{}}}", labels.join(",")),
    }
}

/// Parses the text between the braces of a series.
fn parse_labels(text: &str) -> BTreeMap<String, String> {
    let mut labels = BTreeMap::new();
    let mut rest = text;
    loop {
        let (name, value) = rest.split_once("=\"").expect("a label has a value");
        assert!(is_name(name) && !name.contains(':'), "{name}");
        let mut chars = value.chars();
        let mut unescaped = String::new();
        loop {
            match chars.next().expect("a value ends") {
                '"' => break,
                '\\' => unescaped.push(match chars.next() {
                    Some('n') => '\n',
                    Some(escaped @ ('\\' | '"')) => escaped,
                    other => panic!("{other:?} is not escaped so"),
                }),
                char => unescaped.push(char),
            }
        }
        let before = labels.insert(name.to_owned(), unescaped);
        assert_eq!(before, None, "{name} comes twice");
        rest = chars.as_str();
        match rest.strip_prefix(',') {
            Some(next) => rest = next,
            None => break,
        }
    }
    assert_eq!(rest, "}");
    labels
}

fn is_name(text: &str) -> bool {
    let is_part = |char: char| char.is_ascii_alphanumeric() || "_:".contains(char);
    !text.is_empty()
        && text.chars().all(is_part)
        && !text.starts_with(|char: char| char.is_ascii_digit())
}
