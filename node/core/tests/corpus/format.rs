//! The corpus: messages with what becomes of each, in text files that the tests of the parser, of the core and of live nodes read.
//!
//! An entry begins with `=== NAME | what it is`, then `key: value` lines, then `---`, then the message until the next entry. One
//! empty line before an entry belongs to the file. Lines end in CRLF on the wire. Keys:
//!
//! - `parse`: `ok METHOD-OR-STATUS`, or the label of the error;
//! - `node`: what a node answers at last: a status, `none`, or `cross`: the called side gets it, and its answer comes back. What does
//!   not cross is not seen by the called side. Where one stream has two messages, one answer each;
//! - `tcp`: the same over TCP and TLS where it differs; `skip`: cannot be sent so;
//! - `udp: skip`: no datagram can carry it, or the answer;
//! - `trunk: challenged`: from a caller who is to say who it is (RFC 3261 §22.1);
//! - `has`: an answer has this text; `lacks`: none has; `trying`: the 100 has it;
//! - `far`: the called side's copy has it; `not`: the called side's copy has it not; `body: same`: it has the body octet for octet.
//!
//! A message without an empty line gets one at its end. In a message, `has`, `far` and `not`, `{own}` is the address that is
//! called. In a message `{xHH}` is an octet, `{TEXT*N}` is TEXT N times, `{len}` the length of the body, `{nocrlf}` leaves out the
//! line break.

/// One message of the corpus.
#[derive(Debug, Default)]
pub(crate) struct Entry {
    /// File and name, for reports.
    pub(crate) name: String,
    /// What the parser says.
    pub(crate) parse: String,
    /// What a node does with a datagram.
    pub(crate) node: String,
    /// What a node does over TCP and TLS; empty: the same.
    pub(crate) tcp: String,
    /// `skip`: not as a datagram.
    pub(crate) udp: String,
    /// From whom; empty: anybody.
    pub(crate) trunk: String,
    /// Text that an answer has.
    has: Vec<String>,
    /// Text that no answer has.
    lacks: Vec<String>,
    /// Text that the 100 has.
    trying: Vec<String>,
    /// Text that the called side's copy has.
    far: Vec<String>,
    /// Text that the called side's copy has not.
    not: Vec<String>,
    /// The called side's copy has the same body.
    same_body: bool,
    /// The message.
    pub(crate) octets: Vec<u8>,
}

/// What became of one message.
#[derive(Debug, Default)]
pub(crate) struct Seen {
    /// Final answers to its sender, in order, each once.
    pub(crate) answers: Vec<String>,
    /// The 100s.
    pub(crate) trying: String,
    /// What the called side got but ACKs, each once.
    pub(crate) far: Vec<Vec<u8>>,
}

impl Seen {
    /// Notes an answer; a repeated one is there once.
    pub(crate) fn note(&mut self, answer: String) {
        if answer.starts_with("SIP/2.0 1") {
            self.trying.push_str(&answer);
        } else if !self.answers.contains(&answer) {
            self.answers.push(answer);
        }
    }
}

impl Entry {
    /// What a node should do, one word a message.
    pub(crate) fn wanted(&self, stream: bool) -> &str {
        if stream && !self.tcp.is_empty() { &self.tcp } else { &self.node }
    }

    /// How many final answers there should be.
    pub(crate) fn answers(&self, stream: bool) -> usize {
        self.wanted(stream).split(' ').filter(|word| *word != "none").count()
    }

    /// What is wrong with what was seen; `None`: nothing.
    pub(crate) fn fault(&self, stream: bool, seen: &Seen) -> Option<String> {
        let wanted: Vec<&str> = self.wanted(stream).split(' ').filter(|word| *word != "none").collect();
        let fits = |(wanted, answer): (&&str, &String)| match (*wanted, answer.get(8..11)) {
            ("cross", status) => matches!(status, Some("486" | "200")),
            (wanted, status) => status == Some(wanted),
        };
        let mut faults = Vec::new();
        if self.answers(stream) != seen.answers.len() || !wanted.iter().zip(&seen.answers).all(fits) {
            faults.push("the answers".to_owned());
        }
        if wanted.iter().filter(|word| **word == "cross").count() != seen.far.len() {
            faults.push("how many crossed".to_owned());
        }
        let far = seen.far.iter().map(|octets| String::from_utf8_lossy(octets)).collect::<Vec<_>>().join("\n");
        let answers = seen.answers.join("\n");
        let mut check = |what: &str, text: &str, parts: &[String], has: bool| {
            faults.extend(parts.iter().filter(|part| text.contains(part.as_str()) != has).map(|part| format!("{what} {part:?}")));
        };
        check("has", &answers, &self.has, true);
        check("lacks", &answers, &self.lacks, false);
        check("trying", &seen.trying, &self.trying, true);
        check("far", &far, &self.far, true);
        check("not", &far, &self.not, false);
        if self.same_body && !seen.far.iter().all(|octets| body(octets) == body(&self.octets)) {
            faults.push("the body".to_owned());
        }
        (!faults.is_empty()).then(|| {
            let (name, wanted, faults, trying) = (&self.name, self.wanted(stream), faults.join(", "), &seen.trying);
            format!("{name}: wanted {wanted}, wrong are {faults}\nanswers: {answers}\nprovisional: {trying}\nfar side: {far}")
        })
    }
}

/// What follows the first empty line.
fn body(octets: &[u8]) -> &[u8] {
    octets.windows(4).position(|w| w == b"\r\n\r\n").map_or(&[], |at| &octets[at + 4..])
}

const FILES: [(&str, &str); 3] =
    [("rfc4475", include_str!("rfc4475.txt")), ("rfc5118", include_str!("rfc5118.txt")), ("own", include_str!("own.txt"))];

/// All entries, for a node that is called at the address `own`.
///
/// # Panics
/// A file is not as described above.
pub(crate) fn entries(own: &str) -> Vec<Entry> {
    FILES.iter().flat_map(|(file, text)| of_file(file, &text.replace("{own}", own))).collect()
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
            "udp" => entry.udp = value,
            "trunk" => entry.trunk = value,
            "has" => entry.has.push(value),
            "lacks" => entry.lacks.push(value),
            "trying" => entry.trying.push(value),
            "far" => entry.far.push(value),
            "not" => entry.not.push(value),
            "body" if value == "same" => entry.same_body = true,
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
