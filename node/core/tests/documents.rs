//! What ARCHITECTURE.md and docs/ name is there: files, functions, tests, settings; and the files that comments name. A name that ends in `…` is
//! the beginning of one.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

/// Files of the repository, without what is built.
fn files(dir: &Path, into: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(dir).expect("a directory") {
        let path = entry.expect("an entry").path();
        let name = path.file_name().expect("a name").to_string_lossy().into_owned();
        match path.is_dir() {
            true if name == "target" || (name.starts_with('.') && name != ".ci" && name != ".cargo") => {}
            true => files(&path, into),
            false => into.push(path),
        }
    }
}

/// What stands in backticks, outside of blocks.
fn named(text: &str) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    let mut block = false;
    for line in text.lines() {
        block ^= line.starts_with("```");
        if !block {
            found.extend(line.split('`').skip(1).step_by(2).map(str::to_owned));
        }
    }
    found
}

fn is_word(text: &str) -> bool {
    text.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_') && text.contains('_')
}

#[test]
fn what_the_documents_name_is_there() {
    let mut all = Vec::new();
    files(&root(), &mut all);
    let (documents, others): (Vec<_>, Vec<_>) = all.into_iter().partition(|p| p.extension().is_some_and(|e| e == "md"));
    let paths: Vec<String> = others.iter().map(|p| p.to_string_lossy().into_owned()).collect();
    let texts =
        others.iter().filter(|p| p.extension().is_some_and(|e| ["rs", "toml", "proto", "sh", "xml"].iter().any(|k| e == *k)));
    let words: BTreeSet<String> = texts
        .filter_map(|p| std::fs::read_to_string(p).ok())
        .flat_map(|t| t.split(|c: char| !c.is_ascii_alphanumeric() && c != '_').map(str::to_owned).collect::<Vec<_>>())
        .collect();
    let mut missing = Vec::new();
    let mut seen = 0;
    for document in documents.iter().filter(|p| p.ends_with("ARCHITECTURE.md") || p.components().any(|c| c.as_os_str() == "docs"))
    {
        for name in named(&std::fs::read_to_string(document).expect("UTF-8")) {
            let there = if let Some(prefix) = name.strip_suffix('…') {
                words.range(prefix.to_owned()..).next().is_some_and(|word| word.starts_with(prefix))
            } else if name.ends_with(".rs") || name.ends_with(".sh") {
                paths.iter().any(|path| path.ends_with(&format!("/{name}")))
            } else if is_word(&name) {
                words.contains(&name)
            } else {
                continue;
            };
            seen += 1;
            if !there {
                missing.push(format!("{}: {name}", document.display()));
            }
        }
    }
    assert!(missing.is_empty(), "{missing:#?}");
    assert!(seen > 200, "only {seen} names were found: the scan is broken");
}

/// The source files that a comment names.
fn files_in_comment(line: &str) -> impl Iterator<Item = &str> {
    let start = line.find("//").filter(|at| line[..*at].trim().is_empty() || line[*at..].starts_with("// "));
    let comment = start.map_or("", |at| &line[at..]);
    let named = comment.split(|c: char| !c.is_ascii_alphanumeric() && !"_-./".contains(c));
    named.map(|word| word.trim_end_matches('.').trim_start_matches('/')).filter(|word| {
        word.strip_suffix(".rs")
            .or_else(|| word.strip_suffix(".sh"))
            .is_some_and(|stem| stem.ends_with(|c: char| c.is_ascii_alphanumeric()))
    })
}

#[test]
fn the_files_that_comments_name_are_there() {
    let mut all = Vec::new();
    files(&root(), &mut all);
    let paths: Vec<String> = all.iter().map(|p| p.to_string_lossy().into_owned()).collect();
    let (mut missing, mut seen) = (Vec::new(), 0);
    for path in all.iter().filter(|p| p.extension().is_some_and(|e| ["rs", "proto"].iter().any(|k| e == *k))) {
        for (at, line) in std::fs::read_to_string(path).expect("UTF-8").lines().enumerate() {
            for name in files_in_comment(line) {
                seen += 1;
                if !paths.iter().any(|path| path.ends_with(&format!("/{name}"))) {
                    missing.push(format!("{}:{}: {name}", path.display(), at + 1));
                }
            }
        }
    }
    assert!(missing.is_empty(), "{missing:#?}");
    assert!(seen > 20, "only {seen} names were found: the scan is broken");
}

#[test]
fn the_scan_of_comments_sees_what_it_should() {
    let of = |line| files_in_comment(line).collect::<Vec<_>>();
    assert_eq!(of("    //! As in `call/x.rs` (see y.rs, z.sh.)"), ["call/x.rs", "y.rs", "z.sh"]);
    assert_eq!(of("let a = 1; // lib.rs"), ["lib.rs"]);
    assert!(of("let u = \"http://c.rs\"; let f = \"d.rs\";").is_empty());
}

#[test]
fn links_lead_somewhere() {
    for document in ["ARCHITECTURE.md", "README.md", "CONTRIBUTING.md"] {
        let text = std::fs::read_to_string(root().join(document)).expect("it is there");
        for link in text.split("](").skip(1).filter_map(|rest| rest.split(')').next()) {
            let path = link.split('#').next().unwrap_or_default();
            let here = !path.is_empty() && !path.contains("://");
            assert!(!here || root().join(path).exists(), "{document} links to {link}");
        }
    }
}

#[test]
fn the_map_stays_a_map() {
    let size = std::fs::read(root().join("ARCHITECTURE.md")).expect("it is there").len();
    assert!(
        size <= 20_000,
        "{size} octets: what a reader does not need on the way belongs to docs/ or to the head of its module"
    );
}
