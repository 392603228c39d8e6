//! The shape of the core: how much one object does, how long a function is, and which files can be read alone. The limits only ever go down;
//! the aims are 60 methods, 20 fields, 70 lines and no circle (ARCHITECTURE.md, "The shape of the core").

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

/// Methods of the two objects that everything meets in.
const METHODS: [(&str, usize); 2] = [("Call", 162), ("Sbc", 60)];
/// Fields of the largest struct written by hand.
const FIELDS: usize = 37;
/// Lines of the longest function that is not a table.
const LINES: usize = 109;
/// Files of a module that call each other in one circle, its `mod.rs` apart.
const CIRCLES: [(&str, usize); 5] = [("call", 15), ("sbc", 0), ("sbc/gate", 0), ("subscription", 0), ("message", 0)];

/// A file's code: without comments, the contents of strings, and unit tests.
fn code(text: &str) -> String {
    let text = text.split("#[cfg(test)]\nmod tests {").next().unwrap_or_default();
    text.lines().map(|line| format!("{}\n", without_strings(line).split("//").next().unwrap_or_default())).collect()
}

/// A line with its strings emptied. A quote that is a character or follows a backslash begins none.
fn without_strings(line: &str) -> String {
    let (mut out, mut inside, mut before) = (String::new(), false, ' ');
    for c in line.chars() {
        if c == '"' && before != '\\' && before != '\'' {
            inside = !inside;
            out.push('"');
        } else if !inside {
            out.push(c);
        }
        before = if before == '\\' { ' ' } else { c };
    }
    out
}

fn sources(dir: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(dir).expect("a source directory") {
        let path = entry.expect("an entry").path();
        match path.is_dir() {
            true => found.extend(sources(&path)),
            false if path.extension().is_some_and(|e| e == "rs") => found.push(path),
            false => {}
        }
    }
    found.sort();
    found
}

fn src() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("src")
}

fn is_test(path: &Path) -> bool {
    path.ancestors().take(2).any(|p| p.file_stem().is_some_and(|n| n.to_string_lossy().contains("test")))
}

fn name_at(text: &str) -> &str {
    let end = text.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(text.len());
    &text[..end]
}

/// The functions that a text defines: their indentation, name, and number of lines.
fn functions(code: &str) -> Vec<(usize, &str, usize)> {
    let lines: Vec<&str> = code.lines().collect();
    let mut found = Vec::new();
    for (at, line) in lines.iter().enumerate() {
        let indent = line.len() - line.trim_start().len();
        let Some(before) = line.find("fn ").filter(|n| line[indent..*n].split(' ').all(|w| w.is_empty() || is_qualifier(w)))
        else {
            continue;
        };
        let close = format!("{}}}", " ".repeat(indent));
        let length = lines[at..].iter().position(|l| *l == close).map_or(1, |n| n + 1);
        found.push((indent, name_at(&line[before + 3..]), length));
    }
    found
}

fn is_qualifier(word: &str) -> bool {
    matches!(word, "pub" | "const" | "async" | "in") || word.starts_with("pub(") || word.ends_with(')')
}

/// The methods in the `impl` blocks of a type.
fn methods(code: &str, of: &str) -> usize {
    let (mut inside, mut count) = (false, 0);
    for line in code.lines() {
        if line.starts_with("impl") {
            inside = line.split('{').next().is_some_and(|head| head.trim() == format!("impl {of}"));
        } else if line == "}" {
            inside = false;
        } else if inside {
            count += functions(line).iter().filter(|(indent, ..)| *indent == 4).count();
        }
    }
    count
}

/// The structs of a text, and how many fields each has.
fn structs(code: &str) -> Vec<(&str, usize)> {
    let mut found: Vec<(&str, usize)> = Vec::new();
    let mut inside = false;
    for line in code.lines() {
        if let Some(at) = line.find("struct ").filter(|_| line.ends_with('{') && !line.starts_with(' ')) {
            found.push((name_at(&line[at + 7..]), 0));
            inside = true;
        } else if line == "}" {
            inside = false;
        } else if inside && line.starts_with("    ") && !line.starts_with("     ") && line.contains(": ") {
            found.last_mut().expect("pushed above").1 += 1;
        }
    }
    found
}

/// The names that a text calls, as functions or methods.
fn called(code: &str) -> BTreeSet<&str> {
    let mut found = BTreeSet::new();
    for (at, _) in code.match_indices('(') {
        let head = &code[..at];
        let start = head.rfind(|c: char| !c.is_alphanumeric() && c != '_').map_or(0, |n| n + 1);
        let name = &head[start..];
        if !name.is_empty() && !is_qualifier(name) && !head[..start].ends_with("fn ") {
            found.insert(name);
        }
    }
    found
}

/// The largest set of files that each lead to each other.
fn largest_circle(edges: &BTreeMap<String, BTreeSet<String>>) -> BTreeSet<String> {
    let reach = |from: &String| {
        let (mut seen, mut next) = (BTreeSet::new(), vec![from.clone()]);
        while let Some(file) = next.pop() {
            for to in edges.get(&file).into_iter().flatten() {
                if seen.insert(to.clone()) {
                    next.push(to.clone());
                }
            }
        }
        seen
    };
    let all: BTreeMap<&String, BTreeSet<String>> = edges.keys().map(|file| (file, reach(file))).collect();
    let circle = |file: &String| -> BTreeSet<String> {
        all[file].iter().filter(|other| all.get(other).is_some_and(|back| back.contains(file))).cloned().collect()
    };
    edges.keys().map(circle).max_by_key(BTreeSet::len).unwrap_or_default()
}

/// Who calls what is defined in which other file of a module. A name that stands in two files of the core says nothing.
fn edges(module: &str) -> BTreeMap<String, BTreeSet<String>> {
    let dir = src().join(module);
    let read = |path: &PathBuf| code(&std::fs::read_to_string(path).expect("UTF-8"));
    let files: Vec<(PathBuf, String)> =
        sources(&src()).iter().filter(|path| !is_test(path)).map(|p| (p.clone(), read(p))).collect();
    let mut owners: BTreeMap<&str, BTreeSet<&Path>> = BTreeMap::new();
    for (file, text) in &files {
        for (_, name, _) in functions(text) {
            owners.entry(name).or_default().insert(file);
        }
    }
    let part =
        |path: &Path| path.strip_prefix(&dir).ok().map(|p| p.to_string_lossy().into_owned()).filter(|name| name != "mod.rs");
    let owner = |name: &str| owners.get(name).filter(|files| files.len() == 1).and_then(|files| part(files.first()?));
    files
        .iter()
        .filter_map(|(path, text)| Some((part(path)?, text)))
        .map(|(file, text)| {
            let to = called(text).into_iter().filter_map(owner).filter(|to| *to != file).collect();
            (file, to)
        })
        .collect()
}

#[test]
fn objects_get_no_more_methods() {
    let texts: Vec<String> = sources(&src()).iter().map(|p| code(&std::fs::read_to_string(p).expect("UTF-8"))).collect();
    for (object, limit) in METHODS {
        let count: usize = texts.iter().map(|text| methods(text, object)).sum();
        assert!(
            count <= limit,
            "impl {object} has {count} methods, more than {limit}: give the state that they are about to a part of its own"
        );
    }
}

#[test]
fn structs_get_no_more_fields_and_functions_no_more_lines() {
    for path in sources(&src()) {
        let text = code(&std::fs::read_to_string(&path).expect("UTF-8"));
        for (name, fields) in structs(&text) {
            assert!(fields <= FIELDS, "{}: {name} has {fields} fields, more than {FIELDS}", path.display());
        }
        for (_, name, lines) in functions(&text) {
            assert!(lines <= LINES, "{}: {name} has {lines} lines, more than {LINES}", path.display());
        }
    }
}

#[test]
fn circles_get_no_larger() {
    for (module, limit) in CIRCLES {
        let circle = largest_circle(&edges(module));
        assert!(
            circle.len() <= limit,
            "{} files of {module} call each other in one circle, more than {limit}: {circle:?}",
            circle.len()
        );
    }
}

#[test]
fn the_scans_see_what_they_should() {
    let text = code(
        "struct A {\n    /// x: y\n    a: u8,\n    pub b: Vec<u8>,\n}\nimpl A {\n    pub(super) fn one(&self) {\n        self.two(\"fn no(\");\n    }\n\n    \
         fn two(&self) {} // fn three()\n}\nimpl B for A {\n    fn four() {\n        x::five();\n    }\n}\nfn six() {}\n#[cfg(test)]\nmod tests {\n    fn seven() {}\n}\n",
    );
    assert_eq!(structs(&text), [("A", 2)]);
    assert_eq!(methods(&text, "A"), 2);
    let names: Vec<(&str, usize)> = functions(&text).into_iter().map(|(_, name, lines)| (name, lines)).collect();
    assert_eq!(names[0], ("one", 3));
    assert_eq!(names.iter().map(|n| n.0).collect::<Vec<_>>(), ["one", "two", "four", "six"]);
    assert_eq!(called(&text), ["two", "five"].into());
    let circle = |pairs: &[(&str, &str)]| {
        let mut edges: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
        for (from, to) in pairs {
            edges.entry((*from).to_owned()).or_default().insert((*to).to_owned());
        }
        largest_circle(&edges)
    };
    assert!(circle(&[("a", "b"), ("b", "c"), ("a", "c")]).is_empty());
    assert_eq!(circle(&[("a", "b"), ("b", "c"), ("c", "a"), ("c", "d")]), ["a", "b", "c"].map(String::from).into());
}
