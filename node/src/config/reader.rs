//! Reads a TOML text by table and key, and collects every fault instead of stopping at the first.

use std::cell::RefCell;
use std::net::IpAddr;
use std::ops::{Range, RangeInclusive};
use std::str::FromStr;

use sbc_core::io::Addresses;
use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::fault::{FAULT_CAP, Fault, Faults, did_you_mean};

/// A value and its place in the text.
pub(crate) struct At<T> {
    /// The value.
    pub(crate) value: T,
    /// Octets of the text.
    pub(crate) span: Range<usize>,
    /// Dotted path.
    pub(crate) path: String,
}

/// The text and its faults so far.
pub(crate) struct Reader<'a> {
    text: &'a str,
    faults: RefCell<Vec<Fault>>,
}

/// One table of the text. A key that nobody asked for is a fault when the section is dropped.
pub(crate) struct Section<'a> {
    reader: &'a Reader<'a>,
    table: &'a DeTable<'a>,
    pub(crate) span: Range<usize>,
    pub(crate) path: String,
    asked: RefCell<Vec<&'static str>>,
}

#[cfg(test)]
thread_local! {
    /// Each path that this thread's readers have asked for, and whether it was there: what they know, for the test of the sample files.
    pub(crate) static ASKED: RefCell<std::collections::BTreeSet<(String, bool)>> = const { RefCell::new(std::collections::BTreeSet::new()) };
}

impl<'a> Reader<'a> {
    pub(crate) fn new(text: &'a str) -> Reader<'a> {
        Reader { text, faults: RefCell::new(Vec::new()) }
    }

    /// Syntax first: with a fault there, what stands in the tables is a guess.
    pub(crate) fn parse(&self) -> Option<Spanned<DeTable<'a>>> {
        let (table, errors) = DeTable::parse_recoverable(self.text);
        for e in &errors {
            self.fault(e.span().unwrap_or(0..0), "", e.message().to_owned(), String::new());
        }
        errors.is_empty().then_some(table)
    }

    pub(crate) fn root(&'a self, table: &'a Spanned<DeTable<'a>>) -> Section<'a> {
        Section { reader: self, table: table.get_ref(), span: 0..0, path: String::new(), asked: RefCell::default() }
    }

    pub(crate) fn fault(&self, span: Range<usize>, path: &str, message: impl Into<String>, hint: impl Into<String>) {
        let mut faults = self.faults.borrow_mut();
        if faults.len() < FAULT_CAP {
            faults.push(Fault::at(self.text, span, path, message.into(), hint.into()));
        }
    }

    pub(crate) fn fault_at<T>(&self, at: &At<T>, message: impl Into<String>, hint: impl Into<String>) {
        self.fault(at.span.clone(), &at.path, message, hint);
    }

    pub(crate) fn finish<T>(&self, value: Option<T>) -> Result<T, Faults> {
        let mut faults = self.faults.take();
        faults.sort_by_key(|f| (f.line, f.column));
        match value {
            Some(value) if faults.is_empty() => Ok(value),
            _ => Err(Faults(faults)),
        }
    }
}

impl<'a> Section<'a> {
    fn join(&self, key: &str) -> String {
        if self.path.is_empty() { key.to_owned() } else { format!("{}.{key}", self.path) }
    }

    fn get(&self, key: &'static str) -> Option<&'a Spanned<DeValue<'a>>> {
        self.asked.borrow_mut().push(key);
        self.table.get(key)
    }

    fn wrong_type(&self, key: &str, found: &Spanned<DeValue<'_>>, wanted: &str) {
        let message = format!("expected {wanted}, found {}", found.get_ref().type_str());
        self.reader.fault(found.span(), &self.join(key), message, "");
    }

    /// Says that a key is missing; for use with `?`.
    pub(crate) fn missing(&self, key: &str) {
        self.reader.fault(self.span.clone(), &self.join(key), format!("`{key}` is missing"), "");
    }

    /// True when the key stands there, whatever its value.
    pub(crate) fn has(&self, key: &str) -> bool {
        self.table.contains_key(key)
    }

    /// A string.
    pub(crate) fn string(&self, key: &'static str) -> Option<At<&'a str>> {
        let found = self.get(key)?;
        let Some(value) = found.get_ref().as_str() else {
            self.wrong_type(key, found, "a string");
            return None;
        };
        Some(At { value, span: found.span(), path: self.join(key) })
    }

    /// A string that must be there and not be empty.
    pub(crate) fn required(&self, key: &'static str) -> Option<At<&'a str>> {
        if !self.has(key) {
            self.asked.borrow_mut().push(key);
            self.missing(key);
            return None;
        }
        let found = self.string(key)?;
        if found.value.is_empty() {
            self.reader.fault_at(&found, "must not be empty", "");
            return None;
        }
        Some(found)
    }

    /// A string that parses; `what` names the form for people.
    pub(crate) fn parsed<T: FromStr>(&self, key: &'static str, what: &str) -> Option<At<T>> {
        let found = self.string(key)?;
        self.parse(found, what)
    }

    /// The same, and it must be there.
    pub(crate) fn required_parsed<T: FromStr>(&self, key: &'static str, what: &str) -> Option<At<T>> {
        let found = self.required(key)?;
        self.parse(found, what)
    }

    fn parse<T: FromStr>(&self, found: At<&str>, what: &str) -> Option<At<T>> {
        match found.value.parse() {
            Ok(value) => Some(At { value, span: found.span, path: found.path }),
            Err(_) => {
                self.reader.fault_at(&found, format!("expected {what}, found \"{}\"", found.value), "");
                None
            }
        }
    }

    /// An IP address, or a list of one IPv4 and one IPv6 address, that must be there.
    pub(crate) fn required_addresses(&self, key: &'static str) -> Option<At<Addresses>> {
        const ADDRESS: &str = "an IP address";
        let found = self.table.get(key).filter(|value| value.get_ref().is_array());
        let Some(found) = found else {
            let At { value, span, path } = self.required_parsed::<IpAddr>(key, ADDRESS)?;
            return Some(At { value: value.into(), span, path });
        };
        let given = self.strings(key);
        let count = found.get_ref().as_array().map_or(0, |list| list.len());
        let parsed: Vec<IpAddr> = given.into_iter().filter_map(|ip| Some(self.parse::<IpAddr>(ip, ADDRESS)?.value)).collect();
        if parsed.len() != count {
            return None; // Said already.
        }
        let addresses = match parsed[..] {
            [one] => Some(one.into()),
            [first, second] => Addresses::pair(first, second),
            _ => None,
        };
        if addresses.is_none() {
            let hint = "for example [\"198.18.2.18\", \"2001:db8:2::18\"]";
            self.reader.fault(found.span(), &self.join(key), "expected one address, or one of IPv4 and one of IPv6", hint);
        }
        Some(At { value: addresses?, span: found.span(), path: self.join(key) })
    }

    /// One of a few words.
    pub(crate) fn word<T: Copy>(&self, key: &'static str, words: &[(&str, T)]) -> Option<T> {
        let found = self.string(key)?;
        let known = words.iter().find(|(w, _)| *w == found.value).map(|(_, v)| *v);
        if known.is_none() {
            let all: Vec<String> = words.iter().map(|(w, _)| format!("\"{w}\"")).collect();
            let hint = did_you_mean(found.value, words.iter().map(|(w, _)| *w));
            self.reader.fault_at(&found, format!("expected {}, found \"{}\"", all.join(" or "), found.value), hint);
        }
        known
    }

    /// A whole number within a range.
    pub(crate) fn number(&self, key: &'static str, range: RangeInclusive<u64>) -> Option<u64> {
        let found = self.get(key)?;
        number(self.reader, found, &self.join(key), &range)
    }

    /// A whole number within a range, or 0 for "off".
    pub(crate) fn number_or_off(&self, key: &'static str, range: RangeInclusive<u64>) -> Option<u64> {
        let found = self.get(key)?;
        let path = self.join(key);
        let n = number(self.reader, found, &path, &(0..=*range.end()))?;
        if n != 0 && n < *range.start() {
            let wanted = format!("write 0 (off), or {} to {}", range.start(), range.end());
            self.reader.fault(found.span(), &path, format!("{n} is too small"), &wanted);
            return None;
        }
        Some(n)
    }

    /// Two whole numbers within a range, the second not below the first.
    pub(crate) fn pair(&self, key: &'static str, range: RangeInclusive<u64>) -> Option<[u64; 2]> {
        let found = self.get(key)?;
        let path = self.join(key);
        let list: Vec<&Spanned<DeValue<'_>>> = found.get_ref().as_array().map(|a| a.iter().collect()).unwrap_or_default();
        let [low, high] = list[..] else {
            self.wrong_type(key, found, "two numbers, [low, high]");
            return None;
        };
        let (low, high) = (number(self.reader, low, &path, &range), number(self.reader, high, &path, &range));
        let pair = [low?, high?];
        if pair[0] > pair[1] {
            self.reader.fault(found.span(), &path, format!("{} is above {}", pair[0], pair[1]), "write the lower one first");
            return None;
        }
        Some(pair)
    }

    /// True or false.
    pub(crate) fn boolean(&self, key: &'static str) -> Option<bool> {
        let found = self.get(key)?;
        let value = found.get_ref().as_bool();
        if value.is_none() {
            self.wrong_type(key, found, "true or false");
        }
        value
    }

    /// A list of strings; absent: empty.
    pub(crate) fn strings(&self, key: &'static str) -> Vec<At<&'a str>> {
        let Some(found) = self.get(key) else { return Vec::new() };
        let Some(list) = found.get_ref().as_array() else {
            self.wrong_type(key, found, "a list of strings");
            return Vec::new();
        };
        let mut out = Vec::new();
        for (i, item) in list.iter().enumerate() {
            let path = format!("{}[{i}]", self.join(key));
            match item.get_ref().as_str() {
                Some(value) => out.push(At { value, span: item.span(), path }),
                None => {
                    let message = format!("expected a string, found {}", item.get_ref().type_str());
                    self.reader.fault(item.span(), &path, message, "");
                }
            }
        }
        out
    }

    /// A table below this one.
    pub(crate) fn section(&self, key: &'static str) -> Option<Section<'a>> {
        let found = self.get(key)?;
        let Some(table) = found.get_ref().as_table() else {
            self.wrong_type(key, found, "a table");
            return None;
        };
        Some(self.below(table, found.span(), self.join(key)))
    }

    /// The same, and it must be there.
    pub(crate) fn required_section(&self, key: &'static str) -> Option<Section<'a>> {
        if !self.has(key) {
            self.asked.borrow_mut().push(key);
            self.reader.fault(self.span.clone(), &self.join(key), format!("the table [{key}] is missing"), "");
            return None;
        }
        self.section(key)
    }

    /// A fault of a key that is there.
    pub(crate) fn fault(&self, key: &'static str, message: impl Into<String>, hint: impl Into<String>) {
        let span = self.get(key).map_or_else(|| self.span.clone(), Spanned::span);
        self.reader.fault(span, &self.join(key), message, hint);
    }

    /// A list of tables, `[[key]]`; absent: empty.
    pub(crate) fn sections(&self, key: &'static str) -> Vec<Section<'a>> {
        let Some(found) = self.get(key) else { return Vec::new() };
        let Some(list) = found.get_ref().as_array() else {
            self.wrong_type(key, found, "a list of tables");
            return Vec::new();
        };
        let mut out = Vec::new();
        for (i, item) in list.iter().enumerate() {
            let path = format!("{}[{i}]", self.join(key));
            match item.get_ref().as_table() {
                Some(table) => out.push(self.below(table, item.span(), path)),
                None => {
                    let message = format!("expected a table, found {}", item.get_ref().type_str());
                    self.reader.fault(item.span(), &path, message, "");
                }
            }
        }
        out
    }

    fn below(&self, table: &'a DeTable<'a>, span: Range<usize>, path: String) -> Section<'a> {
        Section { reader: self.reader, table, span, path, asked: RefCell::default() }
    }
}

impl Drop for Section<'_> {
    fn drop(&mut self) {
        let asked = self.asked.borrow();
        #[cfg(test)]
        for key in asked.iter() {
            ASKED.with_borrow_mut(|all| all.insert((self.join(key), self.table.contains_key(*key))));
        }
        for key in self.table.keys() {
            let name: &str = key.get_ref();
            if !asked.contains(&name) {
                let hint = did_you_mean(name, asked.iter().copied().filter(|k| !self.table.contains_key(*k)));
                self.reader.fault(key.span(), &self.join(name), format!("unknown key `{name}`"), hint);
            }
        }
    }
}

fn number(reader: &Reader<'_>, found: &Spanned<DeValue<'_>>, path: &str, range: &RangeInclusive<u64>) -> Option<u64> {
    let wanted = format!("a whole number from {} to {}", range.start(), range.end());
    let Some(integer) = found.get_ref().as_integer() else {
        reader.fault(found.span(), path, format!("expected {wanted}, found {}", found.get_ref().type_str()), "");
        return None;
    };
    let value = u64::from_str_radix(&integer.as_str().replace('_', ""), integer.radix()).ok();
    let value = value.filter(|v| range.contains(v));
    if value.is_none() {
        reader.fault(found.span(), path, format!("expected {wanted}, found {}", integer.as_str()), "");
    }
    value
}
