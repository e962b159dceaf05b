//! Filenames, parsed once into a type that is always valid.

use std::{
    hash::{Hash, Hasher},
    path::Path,
    str::FromStr,
};

/// The server's private directory in the root. No filename begins with it in any case, as some filesystems
/// ignore case.
pub(crate) const PRIVATE_DIR: &str = ".muxs";

const MAX_BYTES: usize = 4096;
const MAX_COMPONENTS: usize = 64;
const MAX_COMPONENT_BYTES: usize = 255;

/// The name of a file, relative to the root: `/`-separated, without components that lead out of it.
///
/// Filenames are equal if their texts are, whatever directory they are restricted to.
#[derive(Clone, Debug)]
pub struct FilePath {
    text: String,
    /// The length in bytes of the leading directory that no link may lead out of. 0 for the root.
    restricted_to: usize,
}

impl FilePath {
    /// The name as the client wrote it.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// Restricts the name to `dir`: resolving it follows no link out of that directory. None if it lies
    /// outside.
    pub(crate) fn restrict_to(mut self, dir: &Self) -> Option<Self> {
        let rest = self.text.strip_prefix(&dir.text)?;
        self.restricted_to = dir.text.len();
        rest.starts_with('/').then_some(self)
    }

    /// Splits the name into the directory that it is restricted to, if any, and the rest.
    pub(crate) fn split(&self) -> (Option<&Path>, &Path) {
        match self.text.split_at(self.restricted_to) {
            ("", whole) => (None, Path::new(whole)),
            (dir, rest) => (Some(Path::new(dir)), Path::new(&rest[1..])),
        }
    }
}

impl PartialEq for FilePath {
    fn eq(&self, other: &Self) -> bool {
        self.text == other.text
    }
}

impl Eq for FilePath {}

impl Hash for FilePath {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.text.hash(state);
    }
}

/// Why a text is not a filename.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidPath {
    /// The text is empty.
    #[error("the filename is empty")]
    Empty,
    /// The text is too long.
    #[error("the filename is longer than {MAX_BYTES} bytes")]
    TooLong,
    /// The text has too many components.
    #[error("the filename has more than {MAX_COMPONENTS} components")]
    TooDeep,
    /// A component is too long.
    #[error("a component of the filename is longer than {MAX_COMPONENT_BYTES} bytes")]
    ComponentTooLong,
    /// The text begins with `/`.
    #[error("the filename begins with a slash: it has to be relative to the server's root folder")]
    Absolute,
    /// A component is empty: there are two slashes in a row or one at the end.
    #[error("the filename has an empty component: it ends with a slash, or has two in a row")]
    EmptyComponent,
    /// A component is `.` or `..`.
    #[error("the filename has a component that is `.` or `..`")]
    DotComponent,
    /// The text has a NUL or another control character.
    #[error("the filename has a control character")]
    ControlCharacter,
    /// The text has a backslash.
    #[error("the filename has a backslash")]
    Backslash,
    /// The file would lie in the server's private directory.
    #[error("the filename is in `.muxs`, the server's own folder")]
    Reserved,
    /// The server's filesystem does not support the name.
    #[error("the server's filesystem does not support the filename")]
    NotStorable,
}

impl FromStr for FilePath {
    type Err = InvalidPath;

    fn from_str(text: &str) -> Result<Self, InvalidPath> {
        if text.is_empty() {
            return Err(InvalidPath::Empty);
        }
        if text.len() > MAX_BYTES {
            return Err(InvalidPath::TooLong);
        }
        if text.starts_with('/') {
            return Err(InvalidPath::Absolute);
        }
        if text.contains(char::is_control) {
            return Err(InvalidPath::ControlCharacter);
        }
        if text.contains('\\') {
            return Err(InvalidPath::Backslash);
        }
        for component in text.split('/') {
            match component {
                "" => return Err(InvalidPath::EmptyComponent),
                "." | ".." => return Err(InvalidPath::DotComponent),
                long if long.len() > MAX_COMPONENT_BYTES => {
                    return Err(InvalidPath::ComponentTooLong);
                }
                _ => {}
            }
        }
        if text.split('/').count() > MAX_COMPONENTS {
            return Err(InvalidPath::TooDeep);
        }
        let first = text.split('/').next();
        if first.is_some_and(|first| first.eq_ignore_ascii_case(PRIVATE_DIR)) {
            return Err(InvalidPath::Reserved);
        }
        Ok(Self {
            text: text.to_owned(),
            restricted_to: 0,
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn plain_names_are_accepted() {
        for name in [
            "a",
            "a/b/c.txt",
            "...",
            ".hidden",
            "a b",
            "名前/ñ",
            "a/.muxs",
            ".muxsy",
        ] {
            let path: FilePath = name.parse().unwrap();
            assert_eq!(path.as_str(), name);
        }
    }

    #[test]
    fn length_limits_are_inclusive() {
        let deep = |components: usize| vec!["x"; components].join("/");
        assert!(deep(64).parse::<FilePath>().is_ok());
        assert_eq!(deep(65).parse::<FilePath>(), Err(InvalidPath::TooDeep));

        let component = |bytes: usize| "x".repeat(bytes);
        assert!(component(255).parse::<FilePath>().is_ok());
        assert_eq!(
            component(256).parse::<FilePath>(),
            Err(InvalidPath::ComponentTooLong)
        );

        let long = |bytes: usize| {
            format!(
                "{}/{}",
                vec![component(255); 15].join("/"),
                component(bytes - 3840)
            )
        };
        assert!(long(4095).parse::<FilePath>().is_ok());
        let longest = format!("{}/{}", vec![component(254); 16].join("/"), component(16));
        assert_eq!(longest.len(), 4096);
        assert!(longest.parse::<FilePath>().is_ok());
        assert_eq!(
            (longest + "x").parse::<FilePath>(),
            Err(InvalidPath::TooLong)
        );
    }

    proptest! {
        /// A second implementation of the rules agrees with what the parser accepts.
        #[test]
        fn parsed_names_stay_below_the_root(text in "[./a\\\\\u{0}\u{7f}M]{0,12}|\\.muxs(/[a.]{1,3})?") {
            let Ok(path) = text.parse::<FilePath>() else { return Ok(()) };
            let plain = Path::new(path.as_str())
                .components()
                .all(|component| matches!(component, std::path::Component::Normal(_)));
            prop_assert!(plain);
            prop_assert!(!text.starts_with(".muxs/") && text != ".muxs");
            prop_assert!(!text.ends_with('/') && !text.contains("//"));
            let clean = !text.contains(['\\', '\u{0}', '\u{7f}']);
            prop_assert!(clean);
            prop_assert_eq!(path.split(), (None, Path::new(&text)));
        }
    }
}
