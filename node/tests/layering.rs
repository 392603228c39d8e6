//! Who imports whom in the node: each module only what its line of the table allows, never upward. And what a crate may
//! depend on: `ctl` and `cluster-tests` see a node as an operator and a phone do, through `sbc-proto` and a phone that shares no code with the node.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

/// A module and the modules of the node that it may name. In the order of the layers: a line names only lines above it.
const TABLE: &[(&str, &[&str])] = &[
    // Files with secrets.
    ("key_file", &[]),
    ("config", &["key_file"]),
    ("gate", &[]),
    ("telemetry", &["config", "gate"]),
    ("tls", &["key_file"]),
    ("transport", &["tls"]),
    ("dns", &[]),
    ("media", &[]),
    ("store", &[]),
    // Who a certificate speaks for.
    ("peer", &["tls"]),
    // `bind` announces by holding the anycast socket, which is a transport's.
    ("announce", &["transport"]),
    ("driver", &["dns", "media", "peer", "store", "transport"]),
    // The handle that `app` implements, and no more: it does not know the driver.
    ("control", &["config", "gate", "telemetry", "tls"]),
    (
        "app",
        &[
            "announce",
            "config",
            "control",
            "dns",
            "driver",
            "key_file",
            "media",
            "peer",
            "store",
            "telemetry",
            "tls",
            "transport",
        ],
    ),
    ("main", &["app", "telemetry"]),
];

/// What tests of a module name besides, in files called `tests.rs`.
const TESTS_TOO: &[(&str, &str)] = &[("announce", "tls")];

/// Crates of this workspace, and those of its crates that they may depend on.
const CRATES: &[(&str, &[&str])] = &[
    ("proto", &[]),
    ("node/core", &[]),
    ("node/raft", &["sbc-proto"]),
    ("node", &["sbc-core", "sbc-proto", "sbc-raft"]),
    ("ctl/phone", &[]),
    ("ctl", &["sbc-phone", "sbc-proto"]),
    ("cluster-tests", &["sbc-phone", "sbc-proto"]),
];

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// The modules that a source text names by `crate::<module>` (`sbc_node::<module>` in a binary), comments apart.
fn named(source: &str) -> BTreeSet<String> {
    let code: String = source.lines().map(|l| l.split("//").next().unwrap_or("")).collect::<Vec<_>>().join("\n");
    let mut found = BTreeSet::new();
    for prefix in ["crate::", "sbc_node::"] {
        for (at, _) in code.match_indices(prefix) {
            let rest = &code[at + prefix.len()..];
            // `use crate::{a::X, b::{Y, Z}}`: the words at depth 1.
            let (mut depth, mut word, mut fresh) = (0, String::new(), true);
            for c in rest.chars() {
                match c {
                    '{' => depth += 1,
                    '}' => depth -= 1,
                    ',' if depth == 1 => fresh = true,
                    c if fresh && (c.is_ascii_alphanumeric() || c == '_') => word.push(c),
                    _ => {}
                }
                let in_word = c.is_ascii_alphanumeric() || c == '_';
                if !in_word && !word.is_empty() {
                    found.insert(std::mem::take(&mut word));
                    fresh = false;
                }
                if depth == 0 && !in_word {
                    break;
                }
            }
        }
    }
    found
}

fn sources(dir: &Path, into: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(dir).expect("a source directory") {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            sources(&path, into);
        } else if path.extension().is_some_and(|e| e == "rs") {
            into.push(path);
        }
    }
}

#[test]
fn nobody_imports_upward() {
    let src = root().join("src");
    let mut files = Vec::new();
    sources(&src, &mut files);
    let mut wrong = Vec::new();
    let mut seen = BTreeSet::new();
    for file in files {
        let relative = file.strip_prefix(&src).expect("below src");
        let first = relative.components().next().expect("a name").as_os_str().to_string_lossy();
        let module = first.trim_end_matches(".rs").to_owned();
        if module == "lib" {
            continue;
        }
        seen.insert(module.clone());
        let Some((_, may)) = TABLE.iter().find(|(name, _)| *name == module) else {
            wrong.push(format!("{module} is not in the table"));
            continue;
        };
        let test = relative.file_name().is_some_and(|n| n == "tests.rs");
        for other in named(&std::fs::read_to_string(&file).expect("UTF-8")) {
            let allowed = other == module || may.contains(&&*other);
            let in_test = test && TESTS_TOO.contains(&(&*module, &*other));
            if !allowed && !in_test {
                wrong.push(format!("{} names {other}", relative.display()));
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
    let known: BTreeSet<String> = TABLE.iter().map(|(m, _)| (*m).to_owned()).collect();
    assert_eq!(seen, known, "the table names exactly the modules that there are");
}

#[test]
fn the_table_is_layered() {
    for (at, (module, may)) in TABLE.iter().enumerate() {
        for other in *may {
            assert!(TABLE[..at].iter().any(|(m, _)| m == other), "{module} may not name {other}, which is below it");
        }
    }
}

#[test]
fn the_scan_sees_what_it_should() {
    let text = "use crate::tls;\nuse crate::{a::B, c::{D, E}, f};\nlet x = crate::g::h(); // crate::no\nuse sbc_node::i::J;\n";
    let expected: BTreeSet<String> = ["tls", "a", "c", "f", "g", "i"].map(String::from).into();
    assert_eq!(named(text), expected);
}

#[test]
fn crates_depend_on_what_they_may() {
    for (dir, may) in CRATES {
        let path = root().join("..").join(dir).join("Cargo.toml");
        let text = std::fs::read_to_string(&path).expect("a manifest");
        let manifest: toml::Table = text.parse().expect("TOML");
        for section in ["dependencies", "dev-dependencies", "build-dependencies"] {
            let Some(table) = manifest.get(section).and_then(toml::Value::as_table) else { continue };
            let ours = table.keys().filter(|k| k.starts_with("sbc") || *k == "cluster-tests");
            let wrong: Vec<&String> = ours.filter(|k| !may.contains(&k.as_str())).collect();
            assert!(wrong.is_empty(), "{dir}: [{section}] has {wrong:?}");
        }
        assert!(manifest.get("target").is_none(), "{dir}: dependencies of one target only are not looked at here");
    }
}
