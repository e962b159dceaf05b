//! What holds for every page: its links lead somewhere, and the first ones stay short.

use std::{
    collections::BTreeSet,
    fs,
    path::{Component, Path, PathBuf},
};

const MAX_README_LINES: usize = 120;
const MAX_README_ROWS: usize = 12;

struct Page {
    /// From the root of the repository.
    path: PathBuf,
    text: String,
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn pages() -> Vec<Page> {
    let mut paths = Vec::new();
    for directory in ["", "docs", "examples"] {
        let entries = fs::read_dir(root().join(directory)).unwrap();
        let found = entries.map(|entry| entry.unwrap().path());
        paths.extend(found.filter(|path| path.extension().is_some_and(|it| it == "md")));
    }
    assert!(paths.len() > 10, "{paths:?}");
    let page = |path: PathBuf| Page {
        text: fs::read_to_string(&path).unwrap(),
        path: path.strip_prefix(root()).unwrap().to_owned(),
    };
    paths.into_iter().map(page).collect()
}

/// The text without its blocks of code.
fn prose(text: &str) -> String {
    let parts = text.split("\n```").step_by(2);
    parts.collect::<Vec<_>>().join("\n")
}

/// The targets of the links of a page, but for those to other sites.
fn links(text: &str) -> Vec<String> {
    let prose = prose(text);
    let targets = prose
        .split("](")
        .skip(1)
        .map(|rest| rest.split(')').next().unwrap());
    let is_local = |target: &&str| !target.contains("://");
    targets.filter(is_local).map(str::to_owned).collect()
}

/// The anchors of a page's headings, as GitHub makes them.
fn anchors(text: &str) -> BTreeSet<String> {
    let prose = prose(text);
    let headings = prose.lines().filter(|line| line.starts_with('#'));
    let anchor = |heading: &str| {
        let title = heading.trim_start_matches('#').trim().to_lowercase();
        let kept = title
            .chars()
            .filter(|it| it.is_alphanumeric() || " -_".contains(*it));
        kept.map(|it| if it == ' ' { '-' } else { it }).collect()
    };
    headings.map(anchor).collect()
}

/// The path with `..` resolved by its text.
fn normalized(path: &Path) -> PathBuf {
    let mut parts = PathBuf::new();
    for component in path.components() {
        match component {
            Component::ParentDir => assert!(parts.pop(), "{} leads out", path.display()),
            other => parts.push(other),
        }
    }
    parts
}

/// Why a link of a page does not lead anywhere.
fn broken(page: &Page, link: &str) -> Option<String> {
    let (file, anchor) = link.split_once('#').unwrap_or((link, ""));
    let path = match file {
        "" => page.path.clone(),
        _ => normalized(&page.path.parent().unwrap().join(file)),
    };
    let text = match root().join(&path) {
        path if path.is_dir() => String::new(),
        path => match fs::read_to_string(path) {
            Ok(text) => text,
            Err(error) => return Some(format!("{}: {link}: {error}", page.path.display())),
        },
    };
    let is_known = anchor.is_empty() || anchors(&text).contains(anchor);
    (!is_known).then(|| format!("{}: no heading for {link}", page.path.display()))
}

#[test]
fn every_link_leads_somewhere() {
    let pages = pages();
    let links = pages.iter().flat_map(|page| {
        let links = links(&page.text).into_iter();
        links.map(move |link| (page, link))
    });
    let links: Vec<_> = links.collect();
    assert!(links.len() > 50, "{}", links.len());
    let broken: Vec<_> = links
        .iter()
        .filter_map(|(page, link)| broken(page, link))
        .collect();
    assert!(broken.is_empty(), "\n{}", broken.join("\n"));
}

#[test]
fn every_page_is_in_the_index() {
    let pages = pages();
    let index = Path::new("docs/README.md");
    let [index_page] = pages
        .iter()
        .filter(|page| page.path == index)
        .collect::<Vec<_>>()[..]
    else {
        panic!("there is no {}", index.display());
    };
    let linked: BTreeSet<_> = links(&index_page.text).into_iter().collect();
    let in_docs = pages
        .iter()
        .filter(|page| page.path.starts_with("docs") && page.path != index);
    let names = in_docs.map(|page| page.path.file_name().unwrap().to_str().unwrap());
    let missing: Vec<_> = names.filter(|name| !linked.contains(*name)).collect();
    assert!(missing.is_empty(), "{missing:?}");
}

#[test]
fn readme_is_short() {
    let text = fs::read_to_string(root().join("README.md")).unwrap();
    let lines = text.lines().count();
    assert!(lines <= MAX_README_LINES, "{lines} lines");
    let mut rows = 0;
    for line in text.lines() {
        rows = if line.starts_with('|') { rows + 1 } else { 0 };
        // Two more lines are the head of a table.
        assert!(rows <= MAX_README_ROWS + 2, "{line}");
    }
}

#[test]
fn broken_link_is_found() {
    let page = |text: &str| Page {
        path: "docs/page.md".into(),
        text: text.to_owned(),
    };
    let text = "# A title, with `code`\n[a](../README.md) [b](https://example.com)\n```\n[c](d)\n```\n[e](x.md)";
    let page = page(text);
    assert_eq!(links(text), ["../README.md", "x.md"]);
    assert_eq!(
        anchors(text),
        BTreeSet::from(["a-title-with-code".to_owned()])
    );
    assert_eq!(broken(&page, "../README.md"), None);
    assert!(broken(&page, "x.md").is_some());
    assert!(broken(&page, "../README.md#no-such-heading").is_some());
}
