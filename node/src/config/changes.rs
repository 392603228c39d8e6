//! What differs between two texts of a node's configuration, by key, and what of it a running node takes.

use std::collections::BTreeMap;

use toml::{Table, Value};

/// What a running node takes; all else is read at the start only. A table stands for all its keys.
const LIVE: [&str; 3] = ["log.filter", "tls", "sip.tls"];

/// The dotted keys whose values differ, in order; those of an array of tables as one.
pub fn changed_keys(old: &str, new: &str) -> Vec<String> {
    let read = |text: &str| {
        let mut keys = BTreeMap::new();
        // Both were read before: what cannot be parsed now has no keys.
        flatten("", &text.parse::<Table>().unwrap_or_default(), &mut keys);
        keys
    };
    let (old, new) = (read(old), read(new));
    let mut changed: Vec<String> =
        old.iter().filter(|(key, value)| new.get(*key) != Some(value)).map(|(key, _)| key.clone()).collect();
    changed.extend(new.into_keys().filter(|key| !old.contains_key(key)));
    changed.sort();
    changed
}

/// Whether a running node takes another value of this key.
pub fn is_live(key: &str) -> bool {
    LIVE.iter().any(|live| key.strip_prefix(live).is_some_and(|rest| rest.is_empty() || rest.starts_with('.')))
}

fn flatten(path: &str, table: &Table, keys: &mut BTreeMap<String, Value>) {
    for (key, value) in table {
        let path = if path.is_empty() { key.clone() } else { format!("{path}.{key}") };
        match value {
            Value::Table(inner) => flatten(&path, inner, keys),
            other => drop(keys.insert(path, other.clone())),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_that_differ_and_what_is_taken_of_them() {
        let old = "[log]\nfilter = \"info\"\n[sip]\nport = 5060\n[sip.tls]\ncert = \"a\"\n[[cluster.members]]\nid = 1\n";
        assert_eq!(changed_keys(old, &old.replace("[log]", "# a remark\n[log]")), [""; 0]);
        let new = "[log]\nfilter = \"debug\"\nformat = \"text\"\n[sip]\nport = 5062\n[[cluster.members]]\nid = 2\n";
        let changed = changed_keys(old, new);
        assert_eq!(changed, ["cluster.members", "log.filter", "log.format", "sip.port", "sip.tls.cert"]);
        let live: Vec<&String> = changed.iter().filter(|k| is_live(k)).collect();
        assert_eq!(live, ["log.filter", "sip.tls.cert"]);
        assert!(is_live("tls.ca") && !is_live("tlsx.ca") && !is_live("sip.tls_port"));
    }
}
