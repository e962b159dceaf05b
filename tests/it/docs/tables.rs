//! The tables of failures and of flags, compared with the sources, the contract and the program.

use std::{collections::BTreeSet, process::Command};

use crate::rules::texts_of_src;

const ERRORS_PAGE: &str = include_str!("../../../docs/errors.md");
const CONFIGURATION_PAGE: &str = include_str!("../../../docs/configuration.md");
const CONTRACT: &str = include_str!("../../../proto/mux.proto");

/// A gRPC code, such as `NOT_FOUND`, and a reason.
type Pair = (String, String);

/// A flag with its variable and default: `("--listen", "MUXS_LISTEN", "127.0.0.1:50051")`.
type Flag = (String, String, String);

/// The cells of each row whose first cell is `is_wanted`, of all tables of a page.
fn rows(page: &str, is_wanted: impl Fn(&str) -> bool) -> Vec<Vec<String>> {
    let lines = page.lines().filter(|line| line.starts_with('|'));
    let cells = |line: &str| -> Vec<String> {
        let line = line.trim_matches('|').replace("\\|", "\u{0}");
        let cells = line
            .split('|')
            .map(|cell| cell.trim().replace('\u{0}', "|"));
        cells.collect()
    };
    let rows = lines.map(cells);
    rows.filter(|row| is_wanted(&row[0])).collect()
}

fn without_backticks(cell: &str) -> &str {
    cell.trim_matches('`')
}

fn is_word(text: &str) -> bool {
    let mut characters = text.chars();
    text.len() > 1 && characters.all(|it| it.is_ascii_uppercase() || it == '_')
}

fn documented_failures(page: &str) -> BTreeSet<Pair> {
    let rows = rows(page, is_word);
    let pair = |row: &Vec<String>| (row[0].clone(), without_backticks(&row[1]).to_owned());
    rows.iter().map(pair).collect()
}

/// The pairs of `Failure::new(Code::X, "REASON")` in a source. A reason that is not a literal is the constant
/// `BAD_REQUEST`.
fn failures_of_source(text: &str) -> BTreeSet<Pair> {
    let arguments = text.split("Failure::new(").skip(1);
    let pair = |text: &str| {
        let (code, rest) = text.trim_start().strip_prefix("Code::")?.split_once(',')?;
        let (reason, _) = rest.split_once(')')?;
        let reason = reason.trim().trim_end_matches(',').trim_matches('"');
        Some((screaming_snake_case(code), reason.to_owned()))
    };
    arguments.filter_map(pair).collect()
}

/// `NotFound` as `NOT_FOUND`.
fn screaming_snake_case(name: &str) -> String {
    let mut text = String::new();
    for character in name.chars() {
        if character.is_ascii_uppercase() && !text.is_empty() {
            text.push('_');
        }
        text.push(character.to_ascii_uppercase());
    }
    text
}

/// The pairs that the comments of a contract name as `CODE, reason REASON`, over line breaks as well.
fn failures_of_contract(text: &str) -> BTreeSet<Pair> {
    let words = text.split_whitespace().filter(|word| *word != "//");
    let words: Vec<_> = words.collect();
    let bare = |word: &str| {
        word.trim_matches(|it: char| !it.is_ascii_uppercase())
            .to_owned()
    };
    let named = words.windows(3).filter(|words| words[1] == "reason");
    let pairs = named.map(|words| (bare(words[0]), bare(words[2])));
    pairs
        .filter(|(code, reason)| is_word(code) && is_word(reason))
        .collect()
}

fn documented_flags(page: &str) -> BTreeSet<Flag> {
    let rows = rows(page, |cell| cell.starts_with("`--"));
    let flag = |row: &Vec<String>| {
        let name = without_backticks(&row[0]).split(' ').next().unwrap();
        let [variable, default] = [1, 2].map(|at| without_backticks(&row[at]).to_owned());
        (name.to_owned(), variable, default)
    };
    rows.iter().map(flag).collect()
}

/// The flags of a help text in the long form of clap.
fn flags_of_help(help: &str) -> BTreeSet<Flag> {
    let mut flags = BTreeSet::new();
    // A flag begins a line of its own; what follows, up to the next one, describes it.
    let starts: Vec<_> = help.match_indices("\n      --").map(|(at, _)| at).collect();
    for (number, &start) in starts.iter().enumerate() {
        let end = starts.get(number + 1).copied().unwrap_or(help.len());
        let text = help[start..end]
            .split_whitespace()
            .collect::<Vec<_>>()
            .join(" ");
        let within = |before: &str| {
            let (_, rest) = text.split_once(before)?;
            Some(rest.split_once(']')?.0.to_owned())
        };
        let Some(variable) = within("[env: ") else {
            continue;
        };
        let variable = variable.split('=').next().unwrap().to_owned();
        let name = text.split(' ').next().unwrap().to_owned();
        let is_switch = !text.contains(" <");
        let default = within("[default: ").unwrap_or_else(|| match is_switch {
            true => "off".to_owned(),
            false => "none".to_owned(),
        });
        flags.insert((name, variable, default));
    }
    flags
}

fn help_of_server() -> String {
    let output = Command::new(env!("CARGO_BIN_EXE_server"))
        .arg("--help")
        .output()
        .unwrap();
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn every_failure_of_the_sources_is_documented() {
    let documented = documented_failures(ERRORS_PAGE);
    let sources = texts_of_src();
    let thrown = sources.iter().flat_map(|text| failures_of_source(text));
    let reason = |(code, reason): Pair| match reason.as_str() {
        "BAD_REQUEST" | "crate::failure::BAD_REQUEST" => (code, "BAD_REQUEST".to_owned()),
        _ => (code, reason),
    };
    let thrown: BTreeSet<_> = thrown.map(reason).collect();
    assert_eq!(documented, thrown);
}

#[test]
fn every_failure_of_the_contract_is_documented() {
    let documented = documented_failures(ERRORS_PAGE);
    let promised = failures_of_contract(CONTRACT);
    assert!(promised.len() > 20, "{promised:?}");
    let missing: Vec<_> = promised.difference(&documented).collect();
    assert!(missing.is_empty(), "{missing:?} not in docs/errors.md");
}

#[test]
fn every_flag_of_the_server_is_documented() {
    let documented = documented_flags(CONFIGURATION_PAGE);
    let mut flags = flags_of_help(&help_of_server());
    assert!(flags.len() > 30, "{flags:?}");
    if !cfg!(feature = "otel") {
        let endpoint = ["--otlp-endpoint", "MUXS_OTLP_ENDPOINT", "none"].map(str::to_owned);
        let [name, variable, default] = endpoint;
        flags.insert((name, variable, default));
    }
    assert_eq!(documented, flags);
}

#[test]
fn tables_are_read_as_they_stand() {
    let page =
        "| code | reason |\n| --- | --- |\n| NOT_FOUND | `A` |\n| x | `B` |\nNOT_FOUND | `C` |\n";
    let pair = |code: &str, reason: &str| (code.to_owned(), reason.to_owned());
    assert_eq!(
        documented_failures(page),
        BTreeSet::from([pair("NOT_FOUND", "A")])
    );
    let source =
        "Failure::new(Code::OutOfRange, \"A\")\nFailure::new(\n Code::Aborted,\n BAD_REQUEST,\n)";
    let pairs = [pair("OUT_OF_RANGE", "A"), pair("ABORTED", "BAD_REQUEST")];
    assert_eq!(failures_of_source(source), BTreeSet::from(pairs));
    let contract = "// It fails with NOT_FOUND,\n// reason GONE; or ABORTED, reason\n// LATE.\n";
    let pairs = [pair("NOT_FOUND", "GONE"), pair("ABORTED", "LATE")];
    assert_eq!(failures_of_contract(contract), BTreeSet::from(pairs));
    let help = [
        "Options:",
        "      --some <X>",
        "          Text",
        "          [env: S=]",
        "          [default: 1]",
        "",
        "      --on",
        "          [env: O=]",
    ];
    let help = help.join("\n");
    let flag = |name: &str, variable: &str, default: &str| {
        (name.to_owned(), variable.to_owned(), default.to_owned())
    };
    let flags = [flag("--some", "S", "1"), flag("--on", "O", "off")];
    assert_eq!(flags_of_help(&help), BTreeSet::from(flags));
    let page = "| `--some X` | `S` | `1` | Text. |\n| `--on` | `O` | off | A\\|B |\n";
    assert_eq!(documented_flags(page), flags_of_help(&help));
}
