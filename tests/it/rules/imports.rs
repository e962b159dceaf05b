//! The graph of imports from file to file, by the names that each file uses.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    slice,
};

use super::sources::{ItemPath, Source};

/// The files by their modules, and for each the modules that it imports from.
pub(super) struct Imports {
    files: BTreeMap<ItemPath, File>,
    targets: BTreeMap<ItemPath, BTreeSet<ItemPath>>,
}

struct File {
    path: String,
    /// The items and modules that the names of imports and of child modules stand for.
    names: BTreeMap<String, ItemPath>,
    /// The items and modules that the file uses, except where it exports those of its children.
    used: Vec<ItemPath>,
}

impl Imports {
    pub(super) fn find(sources: &[Source]) -> Self {
        let mut files = BTreeMap::new();
        for source in sources {
            let (module, names) = (source.module(), source.names());
            let child = |name: &String| [module.as_slice(), slice::from_ref(name)].concat();
            let mut file = File {
                path: source.path.clone(),
                names: names
                    .children
                    .iter()
                    .map(|name| (name.clone(), child(name)))
                    .collect(),
                used: Vec::new(),
            };
            for import in names.imports {
                if let Some(item) = file.absolute(&module, &import.path) {
                    let is_export = import.is_public && item.starts_with(&module);
                    file.used.extend((!is_export).then(|| item.clone()));
                    file.names.insert(import.name, item);
                }
            }
            let paths = names.paths.iter().filter(|path| path.len() > 1);
            let used: Vec<_> = paths
                .filter_map(|path| file.absolute(&module, path))
                .collect();
            file.used.extend(used);
            files.insert(module, file);
        }
        let mut imports = Self {
            files,
            targets: BTreeMap::new(),
        };
        for (module, file) in &imports.files {
            let targets = file.used.iter().filter_map(|item| imports.resolve(item, 0));
            let others = targets.filter(|target| target != module).collect();
            imports.targets.insert(module.clone(), others);
        }
        imports
    }

    /// Returns all imports, as pairs of modules.
    pub(super) fn all(&self) -> impl Iterator<Item = (&ItemPath, &ItemPath)> {
        self.targets
            .iter()
            .flat_map(|(from, all)| all.iter().map(move |to| (from, to)))
    }

    /// Returns the path of the file of a module.
    pub(super) fn path(&self, module: &ItemPath) -> &str {
        &self.files[module].path
    }

    /// Returns circles that have no file in common.
    pub(super) fn circles(&self) -> Vec<String> {
        let mut seen = BTreeSet::new();
        let mut circles = Vec::new();
        for start in self.files.keys() {
            if let Some(circle) = self
                .shortest_circle(start)
                .filter(|_| !seen.contains(start))
            {
                let names: Vec<_> = circle.iter().map(|module| self.path(module)).collect();
                circles.push(names.join(" -> "));
                seen.extend(circle);
            }
        }
        circles
    }

    fn shortest_circle<'a>(&'a self, start: &'a ItemPath) -> Option<Vec<&'a ItemPath>> {
        let mut paths = VecDeque::from([vec![start]]);
        let mut reached = BTreeSet::new();
        while let Some(path) = paths.pop_front() {
            for next in &self.targets[path[path.len() - 1]] {
                if next == start {
                    return Some([path, vec![start]].concat());
                }
                if reached.insert(next) {
                    paths.push_back([path.clone(), vec![next]].concat());
                }
            }
        }
        None
    }

    /// Returns the module that defines an item, through the names that other modules export. `None` for a
    /// module, whose items count where they are used, and for the generated code of `pb`.
    fn resolve(&self, item: &[String], depth: usize) -> Option<ItemPath> {
        let is_module = |length: &usize| self.files.contains_key(&item[..*length]);
        let (module, rest) = item.split_at((0..=item.len()).rev().find(is_module)?);
        let name = rest.first().filter(|_| item[0] != "pb")?;
        match self.files[module].names.get(name) {
            Some(target) if depth < 8 => {
                self.resolve(&[target.as_slice(), &rest[1..]].concat(), depth + 1)
            }
            _ => Some(module.to_vec()),
        }
    }
}

impl File {
    /// Returns the path from the root of the crate, or `None` for an item of another crate.
    fn absolute(&self, module: &ItemPath, path: &[String]) -> Option<ItemPath> {
        let program = module.iter().take(2).take_while(|_| module[0] == "bin");
        let (base, rest) = match path[0].as_str() {
            "crate" => (program.cloned().collect(), &path[1..]),
            "muxs" => (Vec::new(), &path[1..]),
            "self" => (module.clone(), &path[1..]),
            "super" => {
                let supers = path.iter().take_while(|name| *name == "super").count();
                (
                    module[..module.len().checked_sub(supers)?].to_vec(),
                    &path[supers..],
                )
            }
            name => (self.names.get(name)?.clone(), &path[1..]),
        };
        Some([base.as_slice(), rest].concat())
    }
}
