//! Who imports whom in the core: each module only what its line of the table allows, never upward.

use std::collections::BTreeSet;
use std::path::Path;

/// A module and the modules of the core that it may name. In the order of the layers: a line names only lines above it,
/// but for the one exception that `the_table_is_layered` knows.
const TABLE: &[(&str, &[&str])] = &[
    ("store_pb", &[]),
    ("ids", &[]),
    ("time", &[]),
    ("timer", &["time"]),
    ("bgp", &["time"]),
    ("bfd", &["time"]),
    ("token", &["ids"]),
    ("sip", &[]),
    ("auth", &["sip", "token"]),
    ("replica", &["ids", "store_pb"]),
    // `Output::Uncommitted` carries what an owner would have the log say. `Input::Reconfigured` carries the configuration, whose values name realms and transports.
    ("io", &["ids", "time", "store_pb", "policy", "replica"]),
    ("policy", &["auth", "io", "sip", "time"]),
    ("local", &["ids", "io", "sip"]),
    ("transaction", &["ids", "time", "io", "timer"]),
    ("dialog", &["io", "sip"]),
    ("health", &["io", "time"]),
    ("routing", &["io", "policy", "sip"]),
    ("targets", &["ids", "io"]),
    ("crossing", &["dialog", "ids", "io", "sip", "transaction"]),
    ("placement", &["local", "ids", "io", "replica", "sip", "time", "token"]),
    (
        "call",
        &[
            "auth",
            "crossing",
            "local",
            "dialog",
            "health",
            "ids",
            "io",
            "policy",
            "replica",
            "routing",
            "sip",
            "store_pb",
            "targets",
            "time",
            "timer",
            "token",
            "transaction",
        ],
    ),
    ("farewell", &["call", "crossing", "ids", "io", "replica", "routing", "sip", "store_pb", "time", "transaction"]),
    ("neighbours", &["call", "ids", "io", "sip", "time", "timer", "token", "transaction"]),
    ("subscription", &["call", "crossing", "local", "dialog", "ids", "io", "policy", "sip", "timer", "token", "transaction"]),
    (
        "message",
        &[
            "call",
            "local",
            "dialog",
            "ids",
            "io",
            "policy",
            "routing",
            "sip",
            "subscription",
            "targets",
            "time",
            "timer",
            "token",
            "transaction",
        ],
    ),
    ("probe", &["call", "local", "ids", "io", "policy", "routing", "sip", "time", "timer", "transaction"]),
    (
        "sbc",
        &[
            "auth",
            "call",
            "crossing",
            "local",
            "dialog",
            "farewell",
            "ids",
            "io",
            "message",
            "neighbours",
            "placement",
            "policy",
            "probe",
            "replica",
            "routing",
            "sip",
            "store_pb",
            "subscription",
            "targets",
            "time",
            "timer",
            "token",
            "transaction",
        ],
    ),
];

fn allowed(module: &str) -> Option<&'static [&'static str]> {
    TABLE.iter().find(|(name, _)| *name == module).map(|(_, may)| *may)
}

/// The modules that a source text names by `crate::<module>`, comments apart.
fn named(source: &str) -> BTreeSet<String> {
    let code: String = source.lines().map(|l| l.split("//").next().unwrap_or("")).collect::<Vec<_>>().join("\n");
    let word = |s: &str| s.chars().take_while(|c| c.is_ascii_alphanumeric() || *c == '_').collect::<String>();
    let mut found = BTreeSet::new();
    for (at, _) in code.match_indices("crate::") {
        let rest = &code[at + "crate::".len()..];
        match rest.strip_prefix('{') {
            // `use crate::{a::X, b::{Y, Z}}`: the words at depth 1.
            Some(group) => {
                let (mut depth, mut fresh) = (1, true);
                for (i, c) in group.char_indices() {
                    match c {
                        '{' => depth += 1,
                        '}' => depth -= 1,
                        ',' if depth == 1 => fresh = true,
                        c if fresh && depth == 1 && c.is_ascii_alphabetic() => {
                            found.insert(word(&group[i..]));
                            fresh = false;
                        }
                        _ => {}
                    }
                    if depth == 0 {
                        break;
                    }
                }
            }
            None => {
                found.insert(word(rest));
            }
        }
    }
    found.remove("");
    found
}

fn sources(dir: &Path, into: &mut Vec<std::path::PathBuf>) {
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
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
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
        let Some(may) = allowed(&module) else {
            wrong.push(format!("{module} is not in the table"));
            continue;
        };
        let text = std::fs::read_to_string(&file).expect("UTF-8");
        for other in named(&text) {
            if other != module && !may.contains(&&*other) {
                wrong.push(format!("{} names crate::{other}", relative.display()));
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
    let known: BTreeSet<String> = TABLE.iter().map(|(m, _)| (*m).to_owned()).filter(|m| m != "store_pb").collect();
    assert_eq!(seen, known, "the table names exactly the modules that there are");
}

#[test]
fn the_table_is_layered() {
    for (at, (module, may)) in TABLE.iter().enumerate() {
        for other in *may {
            let above = TABLE[..at].iter().any(|(m, _)| m == other);
            assert!(above || (*module, *other) == ("io", "policy"), "{module} may not name {other}, which is below it");
        }
    }
}

#[test]
fn the_scan_sees_what_it_should() {
    let text = "use crate::ids::X;\nuse crate::{a::B, c::{D, E}, f};\nlet x = crate::g::h(); // crate::no\n//! crate::never\n";
    let expected: BTreeSet<String> = ["ids", "a", "c", "f", "g"].map(String::from).into();
    assert_eq!(named(text), expected);
}
