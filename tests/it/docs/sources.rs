//! The code in the pages is that of the sources.
//!
//! A block of Rust or protobuf has its origin in the line before it: `<!-- from PATH, fn NAME, message NAME -->`. It
//! shows those items, one after the other. Indentation does not matter. The block may leave out comments and
//! attributes, and has a line `// …` in place of other lines. A block without a source has
//! `<!-- not from a source: WHY -->`. One that a reader adds to a source has `<!-- add to PATH, … -->`, and
//! `tests/docs/add-a-method` tries it.

use std::{fs, path::Path};

/// The line of a block in place of lines that it leaves out.
const LEFT_OUT: &str = "// …";

/// The languages whose blocks must have an origin.
const LANGUAGES: &[&str] = &["rust", "proto"];

/// A block of code in a page.
#[derive(Debug)]
struct Block {
    /// The page and the line where the block begins.
    place: String,
    language: String,
    /// The text of the HTML comment before the block, or nothing.
    origin: String,
    lines: Vec<String>,
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn read(path: &str) -> Option<String> {
    fs::read_to_string(root().join(path)).ok()
}

/// The README and all files of `docs/`, by path.
fn pages() -> Vec<(String, String)> {
    let names = fs::read_dir(root().join("docs")).unwrap().map(|entry| {
        let name = entry.unwrap().file_name();
        format!("docs/{}", name.to_str().unwrap())
    });
    let mut paths: Vec<_> = names.filter(|name| name.ends_with(".md")).collect();
    paths.push("README.md".to_owned());
    paths.sort();
    let page = |path: String| (path.clone(), read(&path).unwrap());
    paths.into_iter().map(page).collect()
}

fn blocks(path: &str, page: &str) -> Vec<Block> {
    let mut blocks = Vec::new();
    let mut origin = "";
    let mut lines = page.lines().zip(1..);
    while let Some((line, number)) = lines.next() {
        let line = line.trim();
        if let Some(language) = line.strip_prefix("```") {
            let code = lines.by_ref().map(|(line, _)| line.trim());
            let code = code.take_while(|line| *line != "```").map(str::to_owned);
            blocks.push(Block {
                place: format!("{path}:{number}"),
                language: language.to_owned(),
                origin: origin.to_owned(),
                lines: code.collect(),
            });
        }
        let comment = line.strip_prefix("<!-- ");
        origin = comment.map_or("", |line| line.trim_end_matches(" -->"));
    }
    blocks
}

/// Returns what is wrong with a block.
fn check(block: &Block, read: impl Fn(&str) -> Option<String>) -> Result<(), String> {
    let fail = |what: String| Err(format!("{}: {what}", block.place));
    let Some(origin) = block.origin.strip_prefix("from ") else {
        let is_known =
            ["not from a source: ", "add to "].map(|kind| block.origin.starts_with(kind));
        return match !LANGUAGES.contains(&&*block.language) || is_known.contains(&true) {
            true => Ok(()),
            false => fail("the code has no origin".to_owned()),
        };
    };
    let (path, items) = origin.split_once(", ").unwrap_or((origin, ""));
    let Some(source) = read(path) else {
        return fail(format!("there is no {path}"));
    };
    let mut expected = Vec::new();
    for item in items.split(", ") {
        match find_item(&source, item) {
            Some(text) => expected.extend(text.lines().map(str::trim)),
            None => return fail(format!("{path} has no {item}")),
        }
    }
    let lines = block.lines.iter().map(String::as_str);
    let lines: Vec<_> = lines.filter(|line| !line.is_empty()).collect();
    match compare(&lines, &expected) {
        Ok(()) => Ok(()),
        Err(matching) => {
            let line = lines.get(matching).unwrap_or(&"the end of the block");
            fail(format!("{path} does not have, or not here: {line}"))
        }
    }
}

/// Returns the first item of a source that begins with such words, as `fn run` or `message Chunk`: its declaration
/// and its body.
fn find_item<'a>(source: &'a str, item: &str) -> Option<&'a str> {
    let mut begin = 0;
    for line in source.split_inclusive('\n') {
        let mut words = line.trim_start();
        while let Some(rest) = ["pub ", "pub(crate) ", "pub(super) ", "async "]
            .iter()
            .find_map(|prefix| words.strip_prefix(prefix))
        {
            words = rest;
        }
        let rest = words.strip_prefix(item).filter(|_| !item.is_empty());
        if rest.is_some_and(|rest| !rest.starts_with(|c: char| c.is_alphanumeric() || c == '_')) {
            let text = &source[begin..];
            let has_body = !["const ", "static ", "type "]
                .iter()
                .any(|kind| item.starts_with(kind));
            return Some(&text[..item_len(text, has_body)]);
        }
        begin += line.len();
    }
    None
}

/// The length of the item at the beginning of a text, up to its `;` or its last brace.
fn item_len(text: &str, has_body: bool) -> usize {
    let mut depth = 0;
    let mut at = 0;
    while let Some(next) = text[at..].chars().next() {
        let literal = literal_len(&text[at..]);
        match next {
            _ if literal > 0 => {}
            '(' | '[' | '{' => depth += 1,
            ')' | ']' | '}' => depth -= 1,
            _ => {}
        }
        at += literal.max(next.len_utf8());
        let is_end = next == ';' || (next == '}' && has_body);
        if is_end && literal == 0 && depth == 0 {
            return at;
        }
    }
    text.len()
}

/// The length of the comment, string or character at the beginning of a text, or 0.
fn literal_len(text: &str) -> usize {
    let end = |from: usize, end: &str| {
        text[from..]
            .find(end)
            .map_or(text.len(), |at| from + at + end.len())
    };
    let mut chars = text.chars();
    match (chars.next(), chars.next(), chars.next()) {
        (Some('/'), Some('/'), _) => end(2, "\n"),
        (Some('r'), Some('#'), Some('"')) => end(3, "\"#"),
        (Some('\''), Some('\\'), Some(_)) => end(3, "'"),
        (Some('\''), Some(one), Some('\'')) => one.len_utf8() + 2,
        (Some('"'), ..) => {
            let mut is_escaped = false;
            let close = text[1..].find(|c| {
                let is_close = c == '"' && !is_escaped;
                is_escaped = c == '\\' && !is_escaped;
                is_close
            });
            close.map_or(text.len(), |at| at + 2)
        }
        _ => 0,
    }
}

/// Compares a block with the lines of its source. An error is the number of lines that match.
fn compare(block: &[&str], source: &[&str]) -> Result<(), usize> {
    let may_miss =
        |line: &&&str| line.is_empty() || line.starts_with("//") || line.starts_with("#[");
    let Some((&line, rest)) = block.split_first() else {
        let is_complete = source.iter().all(|line| may_miss(&line));
        return if is_complete { Ok(()) } else { Err(0) };
    };
    if line == LEFT_OUT {
        let places = (0..=source.len()).map(|at| compare(rest, &source[at..]));
        let best = places.max_by_key(|compared| compared.err().unwrap_or(usize::MAX));
        return best.unwrap_or(Err(0)).map_err(|matching| matching + 1);
    }
    let is_missing = |there: &&&str| **there != line && may_miss(there);
    let at = source.iter().take_while(is_missing).count();
    match source.get(at) {
        Some(there) if *there == line => {
            compare(rest, &source[at + 1..]).map_err(|matching| matching + 1)
        }
        _ => Err(0),
    }
}

#[test]
fn code_in_the_pages_is_that_of_its_source() {
    let pages = pages();
    let blocks: Vec<_> = pages
        .iter()
        .flat_map(|(path, page)| blocks(path, page))
        .collect();
    let from_sources = blocks
        .iter()
        .filter(|block| block.origin.starts_with("from "));
    assert!(from_sources.count() > 10, "the pages have no code");
    let wrong: Vec<_> = blocks
        .iter()
        .filter_map(|block| check(block, read).err())
        .collect();
    assert!(wrong.is_empty(), "\n{}", wrong.join("\n"));
}

/// The names in backticks that are long enough for a test.
fn test_names(page: &str) -> Vec<&str> {
    let words = page.split('`').skip(1).step_by(2);
    let is_part = |part: &str| !part.is_empty() && part.chars().all(|c| c.is_ascii_alphanumeric());
    words
        .filter(|word| word.split('_').count() >= 5 && word.split('_').all(is_part))
        .collect()
}

#[test]
fn tests_that_the_course_names_exist() {
    let mut sources = String::new();
    let mut directories = ["tests/it", "src"].map(|name| root().join(name)).to_vec();
    while let Some(directory) = directories.pop() {
        for entry in fs::read_dir(directory).unwrap() {
            let path = entry.unwrap().path();
            match path.is_dir() {
                true => directories.push(path),
                false => sources += &fs::read_to_string(path).unwrap(),
            }
        }
    }
    let page = read("docs/streaming.md").unwrap();
    let names = test_names(&page);
    assert!(names.len() > 20, "{names:?}");
    let is_missing = |name: &&str| !sources.contains(&format!("fn {name}("));
    let missing: Vec<_> = names.into_iter().filter(is_missing).collect();
    assert!(missing.is_empty(), "{missing:?}");
}

#[test]
fn pictures_of_the_course_fit_a_terminal() {
    let page = read("docs/streaming.md").unwrap();
    for block in blocks("docs/streaming.md", &page) {
        let is_picture = block.language == "text";
        let widest = block.lines.iter().map(|line| line.chars().count()).max();
        assert!(!is_picture || widest < Some(80), "{}", block.place);
    }
}

/// The problem with a page that has one block.
fn problem(origin: &str, code: &str) -> Option<String> {
    let source = |path: &str| {
        let text = "\
            const ONE: [u8; 1] = [b'{'];\n\
            // fn run() {}\n\
            pub(crate) async fn run(\n    one: &'static str,\n) {\n\
            \x20   // Why: {\n    f(one, \"}\", '}', '\\'');\n    g();\n}\n\
            fn run_twice() {}\n\
            message Chunk {\n  // The bytes.\n  bytes data = 1;\n}\n";
        (path == "a.rs").then(|| text.to_owned())
    };
    let page = format!("Text\n\n{origin}\n```rust\n{code}\n```\n");
    let blocks = blocks("page.md", &page);
    assert_eq!(blocks.len(), 1);
    check(&blocks[0], source).err()
}

#[test]
fn true_code_is_accepted() {
    let run = "async fn run(\none: &'static str,\n) {\n f(one, \"}\", '}', '\\'');\n g();\n}";
    for (origin, code) in [
        ("<!-- from a.rs, fn run -->", format!("pub(crate) {run}")),
        (
            "<!-- from a.rs, fn run -->",
            "pub(crate) async fn run(\n// …\ng();\n}".to_owned(),
        ),
        (
            "<!-- from a.rs, fn run -->",
            "// …\n// Why: {\n// …".to_owned(),
        ),
        (
            "<!-- from a.rs, fn run_twice -->",
            "fn run_twice() {}".to_owned(),
        ),
        (
            "<!-- from a.rs, message Chunk -->",
            "message Chunk {\nbytes data = 1;\n}".to_owned(),
        ),
        (
            "<!-- from a.rs, const ONE, fn run_twice -->",
            "const ONE: [u8; 1] = [b'{'];\n\n  fn run_twice() {}".to_owned(),
        ),
        ("<!-- not from a source: made up -->", "f()".to_owned()),
        ("<!-- add to a.rs, at the end -->", "f()".to_owned()),
    ] {
        assert_eq!(problem(origin, &code), None, "{code}");
    }
}

#[test]
fn changed_code_is_refused() {
    for (origin, code, what) in [
        ("", "f()", "no origin"),
        ("<!-- somewhere -->", "f()", "no origin"),
        ("<!-- from b.rs, fn run -->", "f()", "no b.rs"),
        ("<!-- from a.rs, fn ru -->", "f()", "no fn ru"),
        ("<!-- from a.rs -->", "f()", "no "),
        (
            "<!-- from a.rs, fn run_twice -->",
            "fn run_twice() { f() }",
            "f()",
        ),
        (
            "<!-- from a.rs, fn run -->",
            "pub(crate) async fn run(\n// …\nh();\n}",
            "h();",
        ),
        (
            "<!-- from a.rs, fn run -->",
            "pub(crate) async fn run(\n// …\ng();",
            "the end",
        ),
        (
            "<!-- from a.rs, message Chunk -->",
            "message Chunk {\n}",
            "}",
        ),
    ] {
        let problem = problem(origin, code).unwrap_or_default();
        assert!(
            problem.starts_with("page.md:4: ") && problem.contains(what),
            "{code}: {problem}"
        );
    }
}
