//! The corpus: messages with what becomes of each, in text files that the tests of the parser, of the core and of live nodes read.
//!
//! An entry begins with `=== NAME | what it is`, then `key: value` lines, then `---`, then the message until the next entry. One
//! empty line before an entry belongs to the file. Lines end in CRLF on the wire. Keys:
//!
//! - `parse`: `ok METHOD-OR-STATUS`, or the label of the error;
//! - `node`: what a node answers at last: statuses with `|` between, `none`, or `cross`: the called side gets it, and its answer comes back;
//! - `tcp`: the same over TCP where it differs; `skip`: cannot be sent so;
//! - `has`: the answer has this text; `far`: the called side's copy has it; `not`: the called side's copy has it not.
//!
//! A message without an empty line gets one at its end. In a message `{xHH}` is an octet, `{TEXT*N}` is TEXT N times, `{len}` the length of the body, `{nocrlf}` leaves out the line break.

/// One message of the corpus.
#[derive(Debug, Default)]
pub(crate) struct Entry {
    /// File and name, for reports.
    pub(crate) name: String,
    /// What the parser says.
    pub(crate) parse: String,
    /// What a node does with a datagram.
    pub(crate) node: String,
    /// What a node does over TCP; empty: the same.
    pub(crate) tcp: String,
    /// Text that the answer has.
    pub(crate) has: Vec<String>,
    /// Text that the called side's copy has.
    pub(crate) far: Vec<String>,
    /// Text that the called side's copy has not.
    pub(crate) not: Vec<String>,
    /// The message.
    pub(crate) octets: Vec<u8>,
}

const FILES: [(&str, &str); 3] =
    [("rfc4475", include_str!("rfc4475.txt")), ("rfc5118", include_str!("rfc5118.txt")), ("own", include_str!("own.txt"))];

/// All entries.
///
/// # Panics
/// A file is not as described above.
pub(crate) fn entries() -> Vec<Entry> {
    FILES.iter().flat_map(|(file, text)| of_file(file, text)).collect()
}

fn of_file(file: &str, text: &str) -> Vec<Entry> {
    let mut chunks = format!("\n{text}").split("\n=== ").map(str::to_owned).collect::<Vec<_>>().into_iter();
    chunks.next();
    chunks.map(|chunk| entry(file, &chunk)).collect()
}

fn entry(file: &str, chunk: &str) -> Entry {
    let (head, message) = chunk.split_once("\n---\n").unwrap_or_else(|| panic!("{file}: no --- in {chunk:.60}"));
    let mut lines = head.lines();
    let title = lines.next().unwrap_or_default();
    let (name, _) = title.split_once(" | ").unwrap_or_else(|| panic!("{file}: no description: {title}"));
    let mut entry = Entry { name: format!("{file} {name}"), ..Entry::default() };
    for line in lines {
        let (key, value) = line.split_once(':').unwrap_or_else(|| panic!("{}: {line}", entry.name));
        let value = value.strip_prefix(' ').unwrap_or(value).to_owned();
        match key {
            "parse" => entry.parse = value,
            "node" => entry.node = value,
            "tcp" => entry.tcp = value,
            "has" => entry.has.push(value),
            "far" => entry.far.push(value),
            "not" => entry.not.push(value),
            _ => panic!("{}: unknown key {key}", entry.name),
        }
    }
    assert!(!entry.parse.is_empty() && !entry.node.is_empty(), "{}: parse and node are needed", entry.name);
    entry.octets = octets(message.strip_suffix('\n').unwrap_or(message));
    entry
}

fn octets(message: &str) -> Vec<u8> {
    let mut out = Vec::new();
    for line in message.split('\n') {
        let bare = line.strip_suffix("{nocrlf}");
        expand(bare.unwrap_or(line), &mut out);
        if bare.is_none() {
            out.extend_from_slice(b"\r\n");
        }
    }
    if !message.contains("\n\n") && !message.ends_with("{nocrlf}") {
        out.extend_from_slice(b"\r\n");
    }
    let body = out.windows(4).position(|w| w == b"\r\n\r\n").map_or(0, |at| out.len() - at - 4);
    let Some(at) = out.windows(5).position(|w| w == b"{len}") else { return out };
    out.splice(at..at + 5, body.to_string().into_bytes());
    out
}

fn expand(line: &str, out: &mut Vec<u8>) {
    let mut rest = line;
    while let Some((before, tail)) = rest.split_once('{') {
        out.extend_from_slice(before.as_bytes());
        let end = closing(tail);
        let (inside, after) = (&tail[..end], &tail[end + 1..]);
        rest = after;
        if inside == "len" {
            out.extend_from_slice(b"{len}");
        } else if let Some((text, times)) = inside.rsplit_once('*') {
            let mut unit = Vec::new();
            expand(text, &mut unit);
            out.extend(unit.repeat(times.parse().unwrap_or_else(|_| panic!("{{{inside}}}"))));
        } else {
            let hex = inside.strip_prefix('x').and_then(|hex| u8::from_str_radix(hex, 16).ok());
            out.push(hex.unwrap_or_else(|| panic!("{{{inside}}}")));
        }
    }
    out.extend_from_slice(rest.as_bytes());
}

/// Where the brace that was opened before `tail` closes.
fn closing(tail: &str) -> usize {
    let mut depth = 0;
    for (at, octet) in tail.bytes().enumerate() {
        match octet {
            b'{' => depth += 1,
            b'}' if depth == 0 => return at,
            b'}' => depth -= 1,
            _ => {}
        }
    }
    panic!("no }} in {tail:.60}")
}
