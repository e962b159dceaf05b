//! Rules for the sources of the crate. Each rule returns its violations, and refuses made-up sources that
//! violate it.

mod imports;
mod sources;

use std::collections::BTreeMap;

use self::{
    imports::Imports,
    sources::{ItemPath, Source, read, without_tests},
};

const MAX_COLUMNS: usize = 120;

/// The most lines of an example, and of those that need more. `support` has the sentence for each bad server and each
/// bad argument, so that no example has one.
const MAX_EXAMPLE_LINES: usize = 100;
const MAX_LINES: [(&str, usize); 4] = [
    ("examples/bidi_chat.rs", 140),
    // With the methods that docs/add-a-method.md adds.
    ("examples/minimal_server.rs", 140),
    ("examples/stream_file.rs", 140),
    ("examples/support/mod.rs", 80),
];

/// A part of `src/`, the modules that it must not import, and the words that its code must not contain.
struct Floor {
    room: &'static str,
    modules: &'static [&'static str],
    words: &'static [&'static str],
}

#[rustfmt::skip]
const FLOORS: &[Floor] = &[
    Floor { room: "server", modules: &["app", "files", "greeter", "client"], words: &[] },
    Floor { room: "greeter", modules: &["server", "app", "client", "files"], words: METRICS },
    Floor { room: "files", modules: &["server", "app", "client", "greeter"], words: METRICS },
    Floor { room: "files::store", modules: &["files::service"], words: &["tonic", "prost", "pb::"] },
    Floor { room: "files::local", modules: &["files::store", "files::service"], words: DISK },
    Floor { room: "files::path", modules: &[], words: DOMAIN },
    Floor { room: "files::path", modules: &[], words: &["store", "service"] },
    Floor { room: "files::error", modules: &[], words: DOMAIN },
    Floor { room: "client", modules: &["server", "app", "files", "greeter", "failure"], words: METRICS },
    Floor { room: "counter", modules: &[""], words: METRICS },
    Floor { room: "commit_point", modules: &[""], words: &["tonic", "tokio", "crate::"] },
    Floor { room: "loopback", modules: &[""], words: &["crate::"] },
    Floor { room: "oauth", modules: ABOVE_OAUTH, words: &["tonic", "tokio::net", "prost", "pb::"] },
];

/// The exporter of metrics: the rooms below it count, and do not know it.
const METRICS: &[&str] = &["prometheus", "hyper", "metrics"];

/// Everything but `loopback`.
const ABOVE_OAUTH: &[&str] = &[
    "app",
    "server",
    "client",
    "files",
    "greeter",
    "failure",
    "codec",
    "checksum",
    "commit_point",
    "counter",
    "metric_family",
];

/// The disk is worked on by blocking code.
const DISK: &[&str] = &["tonic", "tokio", "prost", "pb::", "async "];

/// The domain of files knows neither the wire nor the disk.
const DOMAIN: &[&str] = &[
    "tonic",
    "tokio",
    "prost",
    "pb::",
    "cap_std",
    "crate::",
    "local",
    "store::",
    "service::",
];

/// The one name that several types may have: that of the error type which a module exports.
const SHARED_TYPE_NAME: &str = "Error";

fn is_in(module: &[String], room: &str) -> bool {
    let room: Vec<_> = room.split("::").filter(|name| !name.is_empty()).collect();
    module.len() >= room.len() && module.iter().zip(&room).all(|(name, other)| name == other)
}

/// Imports from a file to an item of its parent module, or of a module further up.
fn upward_imports(imports: &Imports) -> Vec<String> {
    let upward = imports.all().filter(|(from, to)| from.starts_with(to));
    let name = |(from, to)| format!("{} imports {}", imports.path(from), imports.path(to));
    upward.map(name).collect()
}

/// Imports from a floor to one that it must not know, and words in its code.
fn floor_violations(sources: &[Source], imports: &Imports) -> Vec<String> {
    let mut found = Vec::new();
    for (from, to) in imports.all() {
        let floors = FLOORS.iter().filter(|floor| is_in(from, floor.room));
        let is_forbidden = floors
            .flat_map(|floor| floor.modules)
            .any(|other| is_in(to, other));
        let may_know_app = from.is_empty() || is_in(from, "app") || is_in(from, "bin");
        if is_forbidden || (is_in(to, "app") && !may_know_app) {
            found.push(format!(
                "{} imports {}",
                imports.path(from),
                imports.path(to)
            ));
        }
    }
    for source in sources {
        let module = source.module();
        let floors = FLOORS.iter().filter(|floor| is_in(&module, floor.room));
        let mut words: Vec<_> = floors.flat_map(|floor| floor.words).collect();
        if is_in(&module, "files") && !is_in(&module, "files::service") {
            words.extend(&["tonic::", "pb::"]);
        }
        let lines = source.text.lines();
        let code: Vec<_> = lines
            .filter(|line| !line.trim_start().starts_with("//"))
            .collect();
        let contained = words
            .iter()
            .filter(|word| code.iter().any(|line| line.contains(**word)));
        found.extend(contained.map(|word| format!("{} contains {word:?}", source.path)));
    }
    found
}

/// Types of one name in one crate, except for associated types.
fn shared_type_names(sources: &[Source]) -> Vec<String> {
    let mut types: BTreeMap<(ItemPath, String), Vec<&str>> = BTreeMap::new();
    for source in sources {
        let program = source.module().into_iter().take(2);
        let program: Vec<_> = program
            .filter(|_| source.path.starts_with("src/bin/"))
            .collect();
        for name in source.names().types {
            types
                .entry((program.clone(), name))
                .or_default()
                .push(&source.path);
        }
    }
    types.retain(|(_, name), paths| paths.len() > 1 && name != SHARED_TYPE_NAME);
    types
        .iter()
        .map(|((_, name), paths)| format!("{name}: {}", paths.join(", ")))
        .collect()
}

/// Statuses that a handler makes by a constructor of `tonic::Status`, which gives them no reason. A defect of the
/// server itself needs none.
fn statuses_without_reason(sources: &[Source]) -> Vec<String> {
    let mut found = Vec::new();
    let handlers = sources.iter().filter(|source| {
        let module = source.module();
        is_in(&module, "greeter") || is_in(&module, "files::service")
    });
    for source in handlers {
        let lines = source.text.lines().zip(1..);
        for (line, number) in lines.filter(|(line, _)| !line.trim_start().starts_with("//")) {
            for constructor in line.replace("pb::Status::", "").split("Status::").skip(1) {
                let is_end = |c: char| !c.is_alphanumeric() && c != '_';
                let name = constructor.split(is_end).next().unwrap_or_default();
                if !["from", "ok", "internal"].contains(&name) {
                    found.push(format!(
                        "{}:{number}: Status::{name} gives no reason, Failure::new does",
                        source.path
                    ));
                }
            }
        }
    }
    found
}

fn long_lines(sources: &[Source]) -> Vec<String> {
    let mut found = Vec::new();
    for source in sources {
        let lines = source.text.lines().zip(1..);
        let long = lines.filter(|(line, _)| line.chars().count() > MAX_COLUMNS);
        found.extend(long.map(|(_, number)| format!("{}:{number}", source.path)));
    }
    found
}

/// The texts of the files of `src/` that are not for tests only.
pub(crate) fn texts_of_src() -> Vec<String> {
    let sources = read_src().into_iter();
    sources.map(|source| source.text).collect()
}

/// Examples that are too long, do not say what to watch, or are missing in their index.
fn example_violations(sources: &[Source], index: &str) -> Vec<String> {
    let mut found = Vec::new();
    for Source { path, text } in sources {
        let own = MAX_LINES.iter().find(|(long, _)| long == path);
        let limit = own.map_or(MAX_EXAMPLE_LINES, |(_, lines)| *lines);
        let lines = text.lines().count();
        if lines > limit {
            found.push(format!("{path} has {lines} lines, the limit is {limit}"));
        }
        let Some(name) = path
            .strip_prefix("examples/")
            .filter(|it| !it.contains('/'))
        else {
            continue;
        };
        if !text.lines().any(|line| line.starts_with("//! Watch: ")) {
            found.push(format!("{path} does not say what to watch"));
        }
        let row = format!("]({name}) |");
        if !index
            .lines()
            .any(|line| line.starts_with('|') && line.contains(&row))
        {
            found.push(format!("examples/README.md has no row for {path}"));
        }
    }
    found
}

fn read_src() -> Vec<Source> {
    let sources = without_tests(read(&["src"], &[".rs"]));
    for floor in FLOORS {
        let exists = sources
            .iter()
            .any(|source| is_in(&source.module(), floor.room));
        assert!(exists, "there is no {}", floor.room);
    }
    sources
}

#[track_caller]
fn assert_none(violations: &[String]) {
    assert!(violations.is_empty(), "\n{}", violations.join("\n"));
}

#[test]
fn files_import_each_other_without_circles() {
    assert_none(&Imports::find(&read_src()).circles());
}

#[test]
fn files_do_not_import_their_parents() {
    assert_none(&upward_imports(&Imports::find(&read_src())));
}

#[test]
fn floors_do_not_know_the_floors_above() {
    let sources = read_src();
    assert_none(&floor_violations(&sources, &Imports::find(&sources)));
}

#[test]
fn type_names_have_one_meaning() {
    assert_none(&shared_type_names(&read_src()));
}

#[test]
fn handlers_make_statuses_with_a_reason() {
    assert_none(&statuses_without_reason(&read_src()));
}

#[test]
fn lines_have_at_most_120_columns() {
    let directories = ["src", "tests", "examples", "benches", "proto", "build.rs"];
    assert_none(&long_lines(&read(
        &directories,
        &[".rs", ".proto", ".py", ".js"],
    )));
}

#[test]
fn examples_are_short_and_listed() {
    let examples = read(&["examples"], &[".rs"]);
    assert!(examples.len() > MAX_LINES.len());
    let index = include_str!("../../../examples/README.md");
    assert_none(&example_violations(&examples, index));
}

#[test]
fn long_or_unlisted_example_is_refused() {
    let index = "| a | b | [hello](hello.rs) | c |\n[other](other.rs) | d |";
    let source = |path: &str, lines: usize| Source {
        path: path.to_owned(),
        text: format!("//! Watch: this.\n{}", "\n".repeat(lines - 1)),
    };
    let violations = |source| example_violations(&[source], index);
    assert_none(&violations(source("examples/hello.rs", 100)));
    assert_none(&violations(source("examples/support/mod.rs", 80)));
    let refused = [
        source("examples/hello.rs", 101),
        source("examples/support/mod.rs", 81),
        source("examples/other.rs", 100),
        Source {
            path: "examples/hello.rs".to_owned(),
            text: String::new(),
        },
    ];
    for source in refused {
        assert_eq!(violations(source).len(), 1);
    }
}

/// Made-up sources that follow the rules, with one more file.
fn sources_with(path: &str, text: &str) -> Vec<Source> {
    #[rustfmt::skip]
    let files = [
        ("src/lib.rs", "mod app; mod files; mod server; pub mod pb {}"),
        ("src/app/mod.rs", "use crate::{files::Store, server}; pub fn run() { server::run(Store) }"),
        ("src/server/mod.rs", "mod calls; mod limits; pub use limits::Limits; fn run() { calls::begin() }"),
        ("src/server/calls.rs", "use super::Limits; pub struct Call; #[cfg(test)] mod tests; // app::run"),
        ("src/server/calls/tests.rs", "use crate::app::run; struct Call;"),
        ("src/server/limits.rs", "pub struct Limits; #[cfg(test)] mod tests { use crate::app::run; }"),
        ("src/files/mod.rs", "mod local; pub use self::local::Store;"),
        ("src/files/local.rs", "pub struct Store; impl Iterator for Store { type Item = (); }"),
        (path, text),
    ];
    let source = |(path, text): (&str, &str)| Source {
        path: path.to_owned(),
        text: text.to_owned(),
    };
    without_tests(files.map(source).into())
}

#[test]
fn rules_accept_sources_that_follow_them() {
    let sources = sources_with(
        "src/files/service.rs",
        "use crate::pb; type Files = pb::Files;",
    );
    let imports = Imports::find(&sources);
    assert_none(&imports.circles());
    assert_none(&upward_imports(&imports));
    assert_none(&floor_violations(&sources, &imports));
    assert_none(&shared_type_names(&sources));
    assert_none(&long_lines(&sources));
}

#[test]
fn circle_is_refused() {
    let circle = "src/server/calls.rs -> src/server/timer.rs -> src/server/calls.rs";
    for timer in [
        "use super::calls::Call;",
        "fn f() { crate::server::calls::begin() }",
    ] {
        let mut sources = sources_with("src/server/timer.rs", timer);
        sources[3].text = "use super::timer; fn f() { timer::arm() }".to_owned();
        assert_eq!(Imports::find(&sources).circles(), [circle], "{timer}");
    }
}

#[test]
fn upward_import_is_refused() {
    for text in [
        "use super::run;",
        "use crate::server::{Limits, run as go};",
        "fn f() { super::run() }",
    ] {
        let imports = Imports::find(&sources_with("src/server/timer.rs", text));
        assert_eq!(
            upward_imports(&imports),
            ["src/server/timer.rs imports src/server/mod.rs"],
            "{text}"
        );
    }
    let imports = Imports::find(&sources_with("src/server/timer.rs", "use super::*;"));
    assert_eq!(upward_imports(&imports).len(), 1);
}

#[test]
fn import_of_a_higher_floor_is_refused() {
    for (path, text) in [
        ("src/server/timer.rs", "use crate::files::Store;"),
        ("src/server/timer.rs", "fn f() { crate::app::run() }"),
        ("src/files/path.rs", "use crate::server::Limits;"),
        ("src/files/path.rs", "use tokio::fs;"),
        ("src/files/local/commit.rs", "async fn commit() {}"),
        ("src/files/version.rs", "use tonic::Status;"),
        ("src/codec.rs", "use crate::app::run;"),
        ("src/client.rs", "select! { a = crate::files::open() }"),
    ] {
        let sources = sources_with(path, text);
        let found = floor_violations(&sources, &Imports::find(&sources));
        assert!(
            found.iter().any(|line| line.starts_with(path)),
            "{path}: {text}"
        );
    }
}

#[test]
fn second_type_of_a_name_is_refused() {
    for text in [
        "enum Call {}",
        "pub trait Call {}",
        "type Call = u8;",
        "fn f() { struct Call<T>(T); }",
    ] {
        let found = shared_type_names(&sources_with("src/server/timer.rs", text));
        assert_eq!(
            found,
            ["Call: src/server/calls.rs, src/server/timer.rs"],
            "{text}"
        );
    }
    let program = sources_with(
        "src/bin/server/main.rs",
        "struct Call; struct Error; enum Error {}",
    );
    assert_none(&shared_type_names(&program));
}

#[test]
fn status_without_reason_is_refused() {
    let text = "// Status::aborted(\nfn f() { pb::Status::default(); Status::from(e); tonic::Status::not_found(\"\") }";
    for path in ["src/greeter.rs", "src/files/service/read_stream.rs"] {
        assert_eq!(
            statuses_without_reason(&sources_with(path, text)),
            [format!(
                "{path}:2: Status::not_found gives no reason, Failure::new does"
            )]
        );
    }
    assert_none(&statuses_without_reason(&sources_with(
        "src/client.rs",
        text,
    )));
}

#[test]
fn long_line_is_refused() {
    let text = format!(
        "\n// {}\n// {}",
        "é".repeat(MAX_COLUMNS - 3),
        "é".repeat(MAX_COLUMNS - 2)
    );
    assert_eq!(
        long_lines(&sources_with("src/codec.rs", &text)),
        ["src/codec.rs:3"]
    );
}
