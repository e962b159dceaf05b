//! Reads source files, and finds the names that they use and define.

use std::{fs, path::Path};

/// A module or item: its path from the root of the library, or from `bin::<name>` for a program.
pub(super) type ItemPath = Vec<String>;

/// A file by its path from the directory of the crate.
pub(super) struct Source {
    pub(super) path: String,
    pub(super) text: String,
}

/// The names in a file, without those in items for tests.
#[derive(Default)]
pub(super) struct Names {
    pub(super) children: Vec<String>,
    pub(super) test_modules: Vec<String>,
    pub(super) imports: Vec<Import>,
    /// The paths in the code, such as `crate::a::B` and `module::B`.
    pub(super) paths: Vec<ItemPath>,
    /// The types that the file defines, without associated types.
    pub(super) types: Vec<String>,
}

/// One name of a `use`.
pub(super) struct Import {
    pub(super) path: ItemPath,
    pub(super) name: String,
    pub(super) is_public: bool,
}

impl Source {
    pub(super) fn module(&self) -> ItemPath {
        let path = self.path.trim_start_matches("src/");
        let mut parts: Vec<_> = path.trim_end_matches(".rs").split('/').collect();
        if ["mod", "lib", "main"].contains(parts.last().unwrap()) {
            parts.pop();
        }
        parts.into_iter().map(str::to_owned).collect()
    }

    pub(super) fn names(&self) -> Names {
        let mut names = Names::default();
        let tokens = names.take_tests(tokens(&self.text));
        let mut statements = tokens.as_slice();
        while let Some(at) = statements.iter().position(|token| *token == "use") {
            let (before, rest) = statements.split_at(at);
            let end = rest.iter().position(|token| *token == ";").unwrap();
            let vis = before
                .iter()
                .rev()
                .take_while(|token| !";{}]".contains(**token));
            let is_public = vis.into_iter().any(|token| *token == "pub");
            names.add_code(before);
            names.add_imports(&rest[1..end], &[], is_public);
            statements = &rest[end..];
        }
        names.add_code(statements);
        names.add_types(&tokens);
        names
    }
}

/// Reads all files below `roots` whose names have one of the endings.
pub(super) fn read(roots: &[&str], endings: &[&str]) -> Vec<Source> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut sources = Vec::new();
    let mut paths: Vec<_> = roots.iter().map(|name| root.join(name)).collect();
    while let Some(path) = paths.pop() {
        let name = path.strip_prefix(root).unwrap().to_str().unwrap();
        if path.is_dir() {
            let entries = fs::read_dir(path).unwrap();
            paths.extend(entries.map(|entry| entry.unwrap().path()));
        } else if endings.iter().any(|ending| name.ends_with(ending)) {
            let text = fs::read_to_string(&path).unwrap();
            let path = name.to_owned();
            sources.push(Source { path, text });
        }
    }
    sources.sort_by(|a, b| a.path.cmp(&b.path));
    sources
}

/// Removes the files of modules that are compiled for tests only.
pub(super) fn without_tests(sources: Vec<Source>) -> Vec<Source> {
    let tests = sources.iter().flat_map(|source| {
        let children = source.names().test_modules.into_iter();
        children.map(|name| [source.module(), vec![name]].concat())
    });
    let tests: Vec<_> = tests.collect();
    let is_test = |source: &Source| tests.iter().any(|test| source.module().starts_with(test));
    sources
        .into_iter()
        .filter(|source| !is_test(source))
        .collect()
}

/// Splits a text into words, `::` and single characters, without comments and literals.
fn tokens(text: &str) -> Vec<&str> {
    let is_word = |c: char| c.is_alphanumeric() || c == '_';
    let mut tokens = Vec::new();
    let mut rest = text.trim_start();
    while let Some(first) = rest.chars().next() {
        let literal = literal_len(rest);
        let length = literal.unwrap_or_else(|| match first {
            _ if is_word(first) => rest.find(|c| !is_word(c)).unwrap_or(rest.len()),
            ':' if rest.starts_with("::") => 2,
            _ => first.len_utf8(),
        });
        let (token, behind) = rest.split_at(length);
        tokens.extend(literal.is_none().then_some(token));
        rest = behind.trim_start();
    }
    tokens
}

/// Returns the length of a comment, string or character at the beginning of a text.
fn literal_len(text: &str) -> Option<usize> {
    let raw = text.trim_start_matches('b').strip_prefix('r');
    let quoted = raw.map(|raw| raw.trim_start_matches('#'));
    let to = |end: &str, from: usize| {
        let found = text[from..].find(end).map(|at| from + at + end.len());
        Some(found.unwrap_or(text.len()))
    };
    let mut chars = text.chars();
    match (chars.next()?, chars.next(), chars.next()) {
        _ if quoted.is_some_and(|quoted| quoted.starts_with('"')) => {
            let open = text.find('"')?;
            let hashes = text[..open].matches('#').count();
            return to(&format!("\"{}", "#".repeat(hashes)), open + 1);
        }
        ('/', Some('/'), _) => return to("\n", 0),
        ('/', Some('*'), _) => return to("*/", 2),
        // A lifetime has no closing quote.
        ('"', ..) | ('\'', Some('\\'), _) | ('\'', Some(_), Some('\'')) => {}
        _ => return None,
    }
    let mut is_escaped = false;
    let end = text[1..].find(|c| {
        let is_end = !is_escaped && text.starts_with(c);
        is_escaped = !is_escaped && c == '\\';
        is_end
    });
    Some(end.map_or(text.len(), |at| at + 2))
}

impl Names {
    /// Removes the items behind `#[cfg(test)]`, and notes the modules among them.
    fn take_tests<'a>(&mut self, mut tokens: Vec<&'a str>) -> Vec<&'a str> {
        let attribute = ["#", "[", "cfg", "(", "test", ")", "]"];
        while let Some(start) = tokens.windows(7).position(|window| window == attribute) {
            let mut depth = 0;
            let end = tokens[start..].iter().position(|token| {
                depth += i32::from(*token == "{") - i32::from(*token == "}");
                depth == 0 && [";", "}"].contains(token)
            });
            let item: Vec<_> = tokens.drain(start..=start + end.unwrap()).collect();
            let module = item.windows(2).find(|pair| pair[0] == "mod");
            self.test_modules
                .extend(module.map(|pair| pair[1].to_owned()));
        }
        tokens
    }

    fn add_code(&mut self, tokens: &[&str]) {
        let modules = tokens.windows(2).filter(|pair| pair[0] == "mod");
        self.children.extend(modules.map(|pair| pair[1].to_owned()));
        let mut rest = tokens;
        while let Some(at) = rest.iter().skip(1).position(|token| *token == "::") {
            let links = rest[at + 1..].chunks_exact(2);
            let length = 1 + 2 * links.take_while(|link| link[0] == "::").count();
            let names = rest[at..at + length].iter().step_by(2);
            self.paths
                .push(names.map(|name| (*name).to_owned()).collect());
            rest = &rest[at + length..];
        }
    }

    /// Adds the names of a tree of `use`.
    fn add_imports(&mut self, tree: &[&str], prefix: &[String], is_public: bool) {
        let mut depth = 0;
        let branches = tree.split(|token| {
            depth += i32::from(*token == "{") - i32::from(*token == "}");
            depth == 0 && *token == ","
        });
        for branch in branches.filter(|branch| !branch.is_empty()) {
            let find = |word: &str| branch.iter().position(|token| *token == word);
            let (open, alias) = (find("{"), find("as").filter(|_| find("{").is_none()));
            let end = alias.or(open).unwrap_or(branch.len());
            let names = branch[..end].iter().filter(|token| **token != "::");
            let names = names.map(|name| (*name).to_owned());
            let mut path: ItemPath = prefix.iter().cloned().chain(names).collect();
            if let Some(open) = open {
                self.add_imports(&branch[open + 1..branch.len() - 1], &path, is_public);
                continue;
            }
            path.pop_if(|last| last == "self");
            let name = alias.map_or(path[path.len() - 1].as_str(), |at| branch[at + 1]);
            let name = name.to_owned();
            self.imports.push(Import {
                path,
                name,
                is_public,
            });
        }
    }

    fn add_types(&mut self, tokens: &[&str]) {
        // Whether each open block is that of an `impl` or a trait, and the tokens before the next block.
        let (mut blocks, mut head) = (Vec::new(), Vec::new());
        for token in tokens {
            let keyword = head.last().map_or("", |last| *last);
            let is_type = keyword == "type" && !blocks.contains(&true);
            let is_type = is_type || ["struct", "enum", "trait", "union"].contains(&keyword);
            if is_type && token.starts_with(char::is_uppercase) {
                self.types.push((*token).to_owned());
            }
            head.push(*token);
            if *token == "{" {
                let contains = |word| head.contains(&word);
                blocks.push((contains("impl") || contains("trait")) && !contains("fn"));
            } else if *token == "}" {
                blocks.pop();
            }
            if ["{", "}", ";"].contains(token) {
                head.clear();
            }
        }
    }
}
