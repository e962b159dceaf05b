//! The floors of the house, as ARCHITECTURE.md draws them: what each part of `src/` may not know.

use std::{fs, path::Path};

/// Part of `src/`, and the words that must not be in its code.
const FLOORS: [(&str, &[&str]); 7] = [
    (
        "files/local",
        &[
            "tonic",
            "tokio",
            "prost",
            "pb::",
            "async ",
            "crate::greeter",
            "crate::server",
            "store::",
            "service::",
        ],
    ),
    (
        "files/path.rs",
        &[
            "tonic", "tokio", "prost", "pb::", "cap_std", "crate::", "local", "store", "service",
        ],
    ),
    (
        "files/error.rs",
        &[
            "tonic",
            "tokio",
            "prost",
            "pb::",
            "cap_std",
            "crate::",
            "local",
            "store::",
            "service::",
        ],
    ),
    (
        "files/store",
        &[
            "tonic",
            "prost",
            "pb::",
            "service::",
            "crate::greeter",
            "crate::server",
        ],
    ),
    ("greeter.rs", &["files", "crate::server"]),
    (
        "client",
        &[
            "crate::files",
            "crate::greeter",
            "crate::server",
            "crate::failure",
        ],
    ),
    (
        "oauth.rs",
        &["tonic", "tokio::net", "prost", "pb::", "crate::"],
    ),
];

#[test]
fn no_floor_knows_the_ones_above_it() {
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    for (floor, forbidden) in FLOORS {
        let sources = sources(&src.join(floor));
        assert!(!sources.is_empty(), "{floor} has moved");
        for (name, source) in sources {
            // Comments may speak of what they like.
            for line in source
                .lines()
                .filter(|line| !line.trim_start().starts_with("//"))
            {
                for word in forbidden {
                    assert!(!line.contains(word), "{name} knows of {word:?}: {line}");
                }
            }
        }
    }
}

/// The files count what happens to them, and do not know who asks.
#[test]
fn no_file_knows_who_is_told_what_is_counted() {
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    for floor in ["files", "greeter.rs", "client", "counter.rs"] {
        for (name, source) in sources(&src.join(floor)) {
            for word in ["prometheus", "hyper", "metrics"] {
                assert!(!source.contains(word), "{name} knows of {word:?}");
            }
        }
    }
}

/// The domain is spelled apart from the wire: only the service brings them together.
#[test]
fn only_the_service_of_the_files_knows_grpc() {
    let files = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/files");
    for (name, source) in sources(&files) {
        let knows = source.contains("tonic::") || source.contains("pb::");
        assert_eq!(knows, name.contains("/service/"), "{name}");
    }
}

fn sources(path: &Path) -> Vec<(String, String)> {
    if path.is_file() {
        return vec![(
            path.display().to_string(),
            fs::read_to_string(path).unwrap(),
        )];
    }
    let entries = fs::read_dir(path).unwrap();
    entries
        .flat_map(|entry| sources(&entry.unwrap().path()))
        .collect()
}
