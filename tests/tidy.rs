//! The tree keeps its shape: headers, layering, and links that lead somewhere.
#![allow(missing_docs, clippy::unwrap_used)]

use std::{
    fs,
    path::{Path, PathBuf},
};

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn rust_files() -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut folders: Vec<PathBuf> = ["src", "tests", "proto", "data", "cluster", "leaf", "root", "bench"]
        .iter()
        .map(|name| root().join(name))
        .collect();
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).into_iter().flatten() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                found.push(path);
            }
        }
    }
    assert!(found.len() > 50);
    found
}

#[test]
fn every_file_says_what_it_is() {
    for path in rust_files() {
        assert!(fs::read_to_string(&path).unwrap().starts_with("//!"), "{} has no //! header", path.display());
    }
}

#[test]
fn imports_point_one_way() {
    let may_use: [(&str, &[&str]); 7] = [
        ("proto", &[]),
        ("data", &["proto"]),
        ("cluster", &["proto"]),
        ("leaf", &["proto", "data", "cluster"]),
        ("leaf/sidecar", &[]),
        ("root", &["proto", "data", "cluster"]),
        ("root/ambassador", &["cluster"]),
    ];
    for (krate, allowed) in may_use {
        let manifest = fs::read_to_string(root().join(krate).join("Cargo.toml")).unwrap();
        let dependencies = manifest.split("[dev-dependencies]").next().unwrap();
        for other in ["proto", "data", "cluster", "leaf", "sidecar", "root", "ambassador"] {
            let used = dependencies.contains(&format!("\ntrawl-{other}"));
            assert!(!used || allowed.contains(&other), "{krate} must not depend on {other}");
        }
    }
}

#[test]
fn tantivy_and_http_are_known_only_where_they_belong() {
    for path in rust_files() {
        let place = path.strip_prefix(root()).unwrap().to_string_lossy().into_owned();
        let text = fs::read_to_string(&path).unwrap();
        if place.starts_with("root/src") && !place.starts_with("root/src/gather") {
            assert!(!text.contains("tantivy::"), "{place} uses tantivy");
        }
        let serves_http = place.starts_with("root/src/http") || place == "root/src/node.rs";
        if place.starts_with("root/src") && !serves_http {
            assert!(!text.contains("axum::"), "{place} uses axum");
        }
    }
}

#[test]
fn the_wall_clock_is_read_in_one_place() {
    for path in rust_files() {
        let place = path.strip_prefix(root()).unwrap().to_string_lossy().into_owned();
        let counts = [
            "src/",
            "proto/src/",
            "cluster/src/",
            "leaf/src/",
            "leaf/sidecar/src/",
            "root/src/",
            "root/ambassador/src/",
        ]
        .iter()
        .any(|of| place.starts_with(of));
        let reads = counts && fs::read_to_string(&path).unwrap().contains("SystemTime::now");
        assert!(
            !reads || ["proto/src/clock.rs", "leaf/sidecar/src/clock.rs"].contains(&place.as_str()),
            "{place} reads the wall clock"
        );
    }
}

#[test]
fn paths_named_in_the_documents_exist() {
    for document in ["ARCHITECTURE.md", "README.md"] {
        let text = fs::read_to_string(root().join(document)).unwrap();
        for name in text.split('`').skip(1).step_by(2) {
            let looks_like_a_path = name.contains('/')
                && name.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || "/._-".contains(c));
            let first = name.split('/').next().unwrap();
            let in_tree =
                ["src", "tests", "proto", "data", "cluster", "leaf", "root", "bench", "deploy"].contains(&first);
            if looks_like_a_path && (in_tree || name.ends_with(".rs")) {
                let path = root().join(name.trim_end_matches('/'));
                assert!(path.exists() || path.with_extension("rs").exists(), "{document} names {name}");
            }
        }
    }
}
