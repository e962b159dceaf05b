//! Tests of the parser of the text exposition format.

use crate::support::scrape::Scrape;

#[test]
fn labels_are_unescaped() {
    let text = "# HELP a B.\n# TYPE a gauge\na{b=\"\\\"\\\\\\n,}\",c=\"\"} 1\n";
    let scrape = Scrape::parse(text);
    assert_eq!(scrape.value("a{b=\"\\\"\\\\\\n,}\",c=\"\"}"), 1.0);
}

#[test]
fn malformed_exposition_is_rejected() {
    for broken in [
        "a 1\n",
        "# HELP a B.\na 1\n",
        "# HELP a B.\n# TYPE a gauge\na 1",
        "# HELP a B.\n# TYPE a gauge\nb 1\n",
        "# HELP a B.\n# TYPE a gauge\na 1\na 2\n",
        "# HELP a B.\n# TYPE a counter\na 1\n",
        "# HELP a B.\n# TYPE a gauge\na{b=\"c} 1\n",
        "# HELP a B.\n# TYPE a histogram\na_bucket{le=\"1\"} 2\na_bucket{le=\"+Inf\"} 1\na_sum 1\na_count 1\n",
        "# HELP a B.\n# TYPE a histogram\na_bucket{le=\"+Inf\"} 1\na_sum 1\na_count 2\n",
    ] {
        let parsed = std::panic::catch_unwind(|| Scrape::parse(broken));
        assert!(parsed.is_err(), "{broken}");
    }
}
