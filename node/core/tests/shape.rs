//! The shape of the core: how much one object does, how long a function is, and which files can be read alone. The limits only ever go down;
//! the aims are 60 methods, 20 fields, 70 lines and no circle (ARCHITECTURE.md, "The shape of the core").

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

/// Methods of the two objects that everything meets in.
const METHODS: [(&str, usize); 2] = [("Call", 60), ("Sbc", 60)];
/// Fields of the largest struct written by hand. Those of a struct within it that nobody else has or is lent count as its own, unless that keeps
/// them to itself.
const FIELDS: usize = 20;
/// Lines of the longest function that is not a table.
const LINES: usize = 70;
/// Those that are: one line a case, and nothing else.
const TABLES: [&str; 1] = ["reason_phrase"];
/// Files of a module that call each other in one circle, its `mod.rs` apart.
const CIRCLES: [(&str, usize); 5] = [("call", 0), ("sbc", 0), ("sbc/gate", 0), ("subscription", 0), ("message", 0)];

/// Type names that stand in several files, each in the module that says whose it is. The four machines of RFC 3261 §17 have a file each, and are
/// read as `invite_client::State`.
const SHARED_NAMES: [(&str, &str); 2] = [("State", "transaction"), ("Event", "transaction")];
/// Modules that are a protocol of their own, which no SIP module names: each has the words of its RFC (4271, 5880) to itself.
const OWN_WORDS: [&str; 2] = ["bfd", "bgp"];

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

/// The structs of a text, and their fields.
fn structs(code: &str) -> Vec<(&str, Vec<&str>)> {
    let mut found: Vec<(&str, Vec<&str>)> = Vec::new();
    let mut inside = false;
    for line in code.lines() {
        if let Some(at) = line.find("struct ").filter(|_| line.ends_with('{') && !line.starts_with(' ')) {
            found.push((name_at(&line[at + 7..]), Vec::new()));
            inside = true;
        } else if line == "}" {
            inside = false;
        } else if inside && line.starts_with("    ") && !line.starts_with("     ") {
            let of = found.last_mut().expect("pushed above");
            of.1.extend(Some(line.trim()).filter(|field| field.contains(": ") && !field.starts_with('#')));
        }
    }
    found
}

/// The names of the types and traits that a text defines, those that belong to a trait apart.
fn types(code: &str) -> Vec<&str> {
    let kinds = ["struct ", "enum ", "trait ", "type "];
    let named = |line: &'_ str| {
        let head = match line.strip_prefix("pub") {
            Some(seen) if seen.starts_with('(') => seen.split_once(") ").map_or("", |(_, rest)| rest),
            Some(seen) => seen.trim_start(),
            None => line,
        };
        kinds.iter().find_map(|kind| head.strip_prefix(kind)).map(str::len)
    };
    code.lines().filter_map(|line| named(line).map(|rest| name_at(&line[line.len() - rest..]))).collect()
}

/// The words of a text.
fn words(text: &str) -> BTreeSet<&str> {
    text.split(|c: char| !c.is_alphanumeric() && c != '_').filter(|word| !word.is_empty()).collect()
}

/// The heads of the functions of a text: what they are lent, and what they give.
fn signatures(code: &str) -> impl Iterator<Item = &str> {
    code.match_indices("fn ").map(|(at, _)| &code[at..at + code[at..].find(['{', ';']).unwrap_or(0)])
}

/// How many fields each struct has, by its name. A struct that is in one other only, is in no function's head outside of its own file, and has fields
/// that others reach into, is not a part of its own: its fields are the other one's. `lent`: the functions of all crates.
fn fields<'a>(files: &'a [(PathBuf, String)], lent: &[(PathBuf, String)]) -> BTreeMap<&'a str, usize> {
    let all: Vec<(&Path, &str, Vec<&str>)> = files
        .iter()
        .flat_map(|(path, text)| structs(text).into_iter().map(move |(name, fields)| (path.as_path(), name, fields)))
        .collect();
    let mut holders: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
    for (_, holder, fields) in &all {
        for word in fields.iter().flat_map(|of| words(of)) {
            holders.entry(word).or_default().insert(holder);
        }
    }
    let heads: Vec<(&Path, BTreeSet<&str>)> =
        lent.iter().map(|(path, text)| (path.as_path(), signatures(text).flat_map(words).collect())).collect();
    let of: BTreeMap<&str, (&Path, &Vec<&str>)> = all.iter().map(|(path, name, fields)| (*name, (*path, fields))).collect();
    let is_inner = |name: &str| {
        let (home, fields) = of[name];
        holders.get(name).is_some_and(|by| by.len() == 1)
            && !heads.iter().any(|(path, words)| *path != home && words.contains(name))
            && fields.iter().any(|field| field.starts_with("pub"))
    };
    let names: Vec<&str> = of.keys().copied().collect();
    names.into_iter().map(|name| (name, count(name, &of, &is_inner))).collect()
}

/// The fields of a struct with those of what is no part of its own.
fn count<'a>(name: &'a str, of: &BTreeMap<&'a str, (&Path, &Vec<&'a str>)>, is_inner: &dyn Fn(&str) -> bool) -> usize {
    let inner = |field: &&'a str| {
        // What it has many of is no part of it.
        let many = ["Vec", "HashMap", "BTreeMap", "VecDeque", "Arc"].iter().any(|many| words(field).contains(many));
        words(field).into_iter().find(|word| !many && *word != name && of.contains_key(word) && is_inner(word))
    };
    of[name].1.iter().map(|field| inner(field).map_or(1, |word| count(word, of, is_inner))).sum()
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

/// The methods of a text by the type that they are of.
fn methods_by_type(code: &str) -> Vec<(&str, &str)> {
    let mut found = Vec::new();
    let mut of = None;
    for line in code.lines() {
        if let Some(head) = line.strip_prefix("impl") {
            of = implemented(head);
        } else if line == "}" {
            of = None;
        } else if let Some(of) = of {
            found.extend(functions(line).iter().filter(|(indent, ..)| *indent == 4).map(|(_, name, _)| (of, *name)));
        }
    }
    found
}

/// The type of the head of an `impl` block; `None`: it is that of a trait.
fn implemented(head: &str) -> Option<&str> {
    let head = head.trim_start_matches(|c: char| c != ' ').trim_start();
    (!head.contains(" for ")).then(|| name_at(head))
}

/// What a text calls by `self.name(` within the methods of a type, and by `Type::name(`.
fn called_of_type(code: &str) -> BTreeSet<(&str, &str)> {
    let mut found = BTreeSet::new();
    let mut of = None;
    for line in code.lines() {
        if let Some(head) = line.strip_prefix("impl") {
            of = implemented(head);
        } else if line == "}" {
            of = None;
        }
        for (at, _) in line.match_indices('(') {
            let path = line[..at].rsplit(|c: char| !c.is_alphanumeric() && !"_.:".contains(c)).next().unwrap_or_default();
            match path.strip_prefix("self.").filter(|name| !name.contains(['.', ':'])) {
                Some(name) => found.extend(of.map(|of| (of, name))),
                None => found.extend(path.rsplit_once("::").map(|(of, name)| (of.rsplit("::").next().unwrap_or(of), name))),
            }
        }
    }
    found
}

/// Who calls what is defined in which other file of a module. A plain name that stands in two files of the core says nothing; that of a method does
/// where it is called by `self` or by its type.
fn edges(module: &str) -> BTreeMap<String, BTreeSet<String>> {
    let dir = src().join(module);
    let files = core();
    let mut owners: BTreeMap<&str, BTreeSet<&Path>> = BTreeMap::new();
    let mut of_types: BTreeMap<(&str, &str), BTreeSet<&Path>> = BTreeMap::new();
    for (file, text) in &files {
        for (_, name, _) in functions(text) {
            owners.entry(name).or_default().insert(file);
        }
        for method in methods_by_type(text) {
            of_types.entry(method).or_default().insert(file);
        }
    }
    let part =
        |path: &Path| path.strip_prefix(&dir).ok().map(|p| p.to_string_lossy().into_owned()).filter(|name| name != "mod.rs");
    let only = |files: &BTreeSet<&Path>| files.first().filter(|_| files.len() == 1).and_then(|file| part(file));
    files
        .iter()
        .filter_map(|(path, text)| Some((part(path)?, text)))
        .map(|(file, text)| {
            let by_name = called(text).into_iter().filter_map(|name| only(owners.get(name)?));
            let by_type = called_of_type(text).into_iter().filter_map(|method| only(of_types.get(&method)?));
            let to = by_name.chain(by_type).filter(|to| *to != file).collect();
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

/// The files of the core that are no tests, without what is no code.
fn core() -> Vec<(PathBuf, String)> {
    files_of(&src())
}

fn files_of(dir: &Path) -> Vec<(PathBuf, String)> {
    let read = |path: &PathBuf| code(&std::fs::read_to_string(path).expect("UTF-8"));
    sources(dir).iter().filter(|path| !is_test(path)).map(|path| (path.clone(), read(path))).collect()
}

#[test]
fn structs_get_no_more_fields_and_functions_no_more_lines() {
    let files = core();
    let node = files_of(&src().parent().and_then(Path::parent).expect("the node's crate").join("src"));
    for (name, fields) in fields(&files, &[files.clone(), node].concat()) {
        assert!(fields <= FIELDS, "{name} has {fields} fields, more than {FIELDS}");
    }
    for (path, text) in &files {
        for (_, name, lines) in functions(text).iter().filter(|(_, name, _)| !TABLES.contains(name)) {
            assert!(*lines <= LINES, "{}: {name} has {lines} lines, more than {LINES}", path.display());
        }
    }
}

#[test]
fn a_type_name_stands_once() {
    let files = core();
    let mut homes: BTreeMap<(&str, &str), Vec<String>> = BTreeMap::new();
    for (path, text) in &files {
        let file = path.strip_prefix(src()).expect("below src").to_string_lossy().into_owned();
        let words = OWN_WORDS.into_iter().find(|module| file.starts_with(&format!("{module}/"))).unwrap_or_default();
        for name in types(text) {
            homes.entry((words, name)).or_default().push(file.clone());
        }
    }
    assert!(homes.len() > 300, "only {} types were found: the scan is broken", homes.len());
    for ((_, name), files) in homes.iter().filter(|(_, files)| files.len() > 1) {
        let shared =
            |file: &String| SHARED_NAMES.iter().any(|(known, module)| known == name && file.starts_with(&format!("{module}/")));
        assert!(files.iter().all(shared), "{name} is a type of {files:?}: give each the name of what it is");
    }
    for (name, _) in SHARED_NAMES {
        assert!(homes.get(&("", name)).is_some_and(|files| files.len() > 1), "{name} is no exception any more");
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
    assert_eq!(
        types("struct A {\npub enum B {\npub(in crate::x) type C<T> = D;\n    type E = F;\nimpl A {\npub(super) trait G {\n"),
        ["A", "B", "C", "G"]
    );
    assert_eq!(structs(&text), [("A", vec!["a: u8,", "pub b: Vec<u8>,"])]);
    assert_eq!(methods_by_type(&text), [("A", "one"), ("A", "two")]);
    assert_eq!(called_of_type(&text), [("A", "two"), ("x", "five")].into());
    let nested = |own: &str, lent: &str| {
        let one = "struct A {\n    a: u8,\n    b: Option<B>,\n    c: Vec<B>,\n}\n".to_owned();
        let files = [("one", one + lent), ("two", format!("struct B {{\n    {own}x: u8,\n    y: u8,\n}}\n"))];
        let files = files.map(|(path, text)| (PathBuf::from(path), text));
        fields(&files, &files)["A"]
    };
    assert_eq!(nested("pub ", ""), 4, "what nobody else has is no part of its own");
    assert_eq!(nested("pub ", "fn f(b: &B) {\n}\n"), 3, "this one is lent");
    assert_eq!(nested("", ""), 3, "this one keeps its fields to itself");
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
