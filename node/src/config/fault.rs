//! What is wrong with a configuration: all of it at once, each fault with its place and what to do; and what a configuration that is right
//! in itself would do to callers.

use std::fmt::Write as _;
use std::ops::Range;

use sbc_core::policy::ClusterConfig;
use sbc_core::routing::{Severity, review};
use toml::de::DeTable;

/// Faults that are shown; a file with more is of another kind.
pub const FAULT_CAP: usize = 50;

/// One fault.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// Dotted path of the field, such as `trunks[1].realm`; empty: the whole file.
    pub path: String,
    /// From 1.
    pub line: usize,
    /// In characters, from 1.
    pub column: usize,
    /// How many characters the caret underlines.
    width: usize,
    /// What is wrong.
    pub message: String,
    /// What to do; may be empty.
    pub hint: String,
    /// How bad it is.
    pub severity: Severity,
    /// The text is right in itself: who insists may have it.
    pub forceable: bool,
}

/// All faults of one text, in the order of their places; never empty when it is an error.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{}", self.summary())]
pub struct Faults(pub Vec<Fault>);

/// What is wrong with a file that a key names: the text is right in itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyFault {
    /// Dotted path of the key.
    pub key: &'static str,
    /// What is wrong.
    pub message: String,
    /// What to do; may be empty.
    pub hint: String,
}

impl std::fmt::Display for KeyFault {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}: {}", self.key, self.message)
    }
}

impl Fault {
    /// A fault at octets `span` of `text`.
    pub(crate) fn at(text: &str, span: Range<usize>, path: &str, message: String, hint: String) -> Fault {
        let clamp = |mut at: usize| {
            at = at.min(text.len());
            while !text.is_char_boundary(at) {
                at -= 1;
            }
            at
        };
        let (start, end) = (clamp(span.start), clamp(span.end.max(span.start)));
        let line_start = text[..start].rfind('\n').map_or(0, |i| i + 1);
        // A span over several lines (a table) is shown on its first.
        let first = text[start..end].lines().next().unwrap_or("");
        Fault {
            path: path.to_owned(),
            line: text[..start].matches('\n').count() + 1,
            column: text[line_start..start].chars().count() + 1,
            width: first.chars().count().max(1),
            message,
            hint,
            severity: Severity::Error,
            forceable: false,
        }
    }

    /// Whether a configuration with it is applied only by who insists.
    pub fn needs_force(&self) -> bool {
        self.forceable && self.severity != Severity::Info
    }
}

/// What a good text would do to callers, each finding at its place, the worst first.
pub fn review_cluster(text: &str, config: &ClusterConfig) -> Vec<Fault> {
    let (table, _) = DeTable::parse_recoverable(text);
    let fault = |f: sbc_core::routing::Finding| {
        let found = Fault::at(text, place(table.get_ref(), &f.path), &f.path, f.message, f.hint.to_owned());
        Fault { severity: f.severity, forceable: true, ..found }
    };
    review(config).into_iter().map(fault).collect()
}

/// Where a dotted path such as `trunks[1].realm` stands, as far as it is there.
fn place(table: &DeTable<'_>, path: &str) -> Range<usize> {
    let (mut at, mut span) = (Some(table), 0..0);
    for part in path.split('.') {
        let (key, index) = part.split_once('[').map_or((part, None), |(key, n)| (key, n.trim_end_matches(']').parse().ok()));
        let Some(mut found) = at.and_then(|t| t.get(key)) else { break };
        if let Some(element) = index.and_then(|n: usize| found.get_ref().as_array()?.get(n)) {
            found = element;
        }
        (at, span) = (found.get_ref().as_table(), found.span());
    }
    span
}

impl Faults {
    /// What is wrong at this node with a text that is right in itself.
    pub(crate) fn of_node(node: &str, messages: Vec<String>) -> Faults {
        let fault = |message: String| Fault {
            path: String::new(),
            line: 1,
            column: 1,
            width: 1,
            message: format!("{node}: {message}"),
            hint: "each node has a file of that name in its [node] secrets_dir".to_owned(),
            severity: Severity::Error,
            forceable: false,
        };
        Faults(messages.into_iter().take(FAULT_CAP).map(fault).collect())
    }

    /// What is wrong with files, at the keys of `text` that name them.
    pub fn at_keys(text: &str, faults: &[KeyFault]) -> Faults {
        let (table, _) = DeTable::parse_recoverable(text);
        let fault = |f: &KeyFault| Fault::at(text, place(table.get_ref(), f.key), f.key, f.message.clone(), f.hint.clone());
        let mut faults: Vec<Fault> = faults.iter().take(FAULT_CAP).map(fault).collect();
        faults.sort_by_key(|f| (f.line, f.column));
        Faults(faults)
    }

    /// For people: each fault with its line and a caret under the place.
    pub fn render(&self, file: &str, text: &str) -> String {
        let mut out = String::new();
        for f in &self.0 {
            let line = text.lines().nth(f.line - 1).unwrap_or("").replace('\t', " ");
            let number = f.line.to_string();
            let margin = " ".repeat(number.len());
            let at = if f.path.is_empty() { String::new() } else { format!("{}: ", f.path) };
            let _ = writeln!(out, "{}: {at}{}", f.severity, f.message);
            let _ = writeln!(out, "{margin}--> {file}:{}:{}", f.line, f.column);
            let _ = writeln!(out, "{margin} |\n{number} | {line}");
            let _ = writeln!(out, "{margin} | {}{}", " ".repeat(f.column - 1), "^".repeat(f.width));
            if !f.hint.is_empty() {
                let _ = writeln!(out, "{margin} = hint: {}", f.hint);
            }
            out.push('\n');
        }
        let _ = writeln!(out, "{}", self.summary());
        out
    }

    fn summary(&self) -> String {
        match self.0.len() {
            1 => "1 fault in the configuration".to_owned(),
            n => format!("{n} faults in the configuration"),
        }
    }
}

/// The known word nearest to a mistyped one, as a hint; empty where none is near.
pub(crate) fn did_you_mean<'a>(word: &str, known: impl IntoIterator<Item = &'a str>) -> String {
    // Long words are no typing mistakes, and the distance costs their product.
    if word.len() > 64 {
        return String::new();
    }
    let best = known.into_iter().map(|k| (strsim::levenshtein(word, k), k)).min();
    match best {
        Some((d, k)) if d <= (k.len() / 2).clamp(1, 3) => format!("did you mean `{k}`?"),
        _ => String::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nearest_word() {
        assert_eq!(did_you_mean("claim_bugdet_ms", ["claim_budget_ms", "max_calls"]), "did you mean `claim_budget_ms`?");
        assert_eq!(did_you_mean("colour", ["name", "realm"]), "");
    }

    #[test]
    fn findings_stand_where_they_are_about() {
        let text = "[[trunks]]\nname = \"a\"\nrealm = \"external\"\nsources = [\"0.0.0.0/0\"]\n\n[[trunks]]\nname = \"b\"\n\
            realm = \"external\"\nsources = [\"198.18.0.0/15\"]\n";
        let found = review_cluster(text, &super::super::parse_cluster(text, 1).unwrap());
        let shadowed = found.iter().find(|f| f.path == "trunks[1]").unwrap();
        assert_eq!((shadowed.line, shadowed.column, shadowed.severity), (6, 1, Severity::Warning));
        assert!(shadowed.needs_force());
        let lost = found.iter().find(|f| f.path == "trunks[0]").unwrap();
        assert_eq!((lost.line, lost.severity), (1, Severity::Error));
        assert!(Faults(found.clone()).render("c.toml", text).contains("warning: trunks[1]: trunk \"b\" never matches"));
        // The empty text has no places.
        let empty = review_cluster("", &super::super::parse_cluster("", 1).unwrap());
        assert_eq!(empty.iter().map(|f| (f.line, f.needs_force())).collect::<Vec<_>>(), [(1, true)]);
    }

    #[test]
    fn places_are_counted_in_characters() {
        let text = "a = 1\nß = \"x\"\n";
        let at = text.find("\"x\"").unwrap();
        let f = Fault::at(text, at..at + 3, "ß", "bad".into(), String::new());
        assert_eq!((f.line, f.column, f.width), (2, 5, 3));
        assert!(Faults(vec![f]).render("f.toml", text).contains("2 | ß = \"x\"\n  |     ^^^\n"));
        // Beyond the end, or within a character: no panic.
        assert_eq!(Fault::at(text, 999..1000, "", String::new(), String::new()).line, 3);
        assert_eq!(Fault::at(text, 7..7, "", String::new(), String::new()).line, 2);
    }
}
