//! What changes between two texts, line by line.

/// Lines kept around a change.
const CONTEXT: usize = 3;
/// Largest table of the comparison, in cells (8 MiB): two texts that differ in a thousand lines each; more are shown as replaced whole.
const MAX_CELLS: usize = 2 << 20;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Edit<'a> {
    Keep(&'a str),
    Remove(&'a str),
    Add(&'a str),
}

/// The changed lines with some around them, marked `-`, `+` or blank; `None`: the texts are equal, up to the ends of lines.
pub(super) fn diff(old: &str, new: &str) -> Option<String> {
    let old: Vec<&str> = old.lines().collect();
    let new: Vec<&str> = new.lines().collect();
    if old == new {
        return None;
    }
    let edits = edits(&old, &new);
    let near = |i: usize| {
        let from = i.saturating_sub(CONTEXT);
        let to = (i + CONTEXT + 1).min(edits.len());
        edits[from..to].iter().any(|e| !matches!(e, Edit::Keep(_)))
    };
    let mut text = String::new();
    let mut skipped = false;
    for (i, edit) in edits.iter().enumerate() {
        if !near(i) {
            skipped = true;
            continue;
        }
        if std::mem::take(&mut skipped) {
            text += "...\n";
        }
        let (mark, line) = match edit {
            Edit::Keep(line) => (' ', line),
            Edit::Remove(line) => ('-', line),
            Edit::Add(line) => ('+', line),
        };
        text.push(mark);
        text += line;
        text.push('\n');
    }
    Some(text)
}

/// By the longest common subsequence of what lies between the equal beginnings and ends.
fn edits<'a>(old: &[&'a str], new: &[&'a str]) -> Vec<Edit<'a>> {
    let head = old.iter().zip(new).take_while(|(a, b)| a == b).count();
    let tail = old[head..].iter().rev().zip(new[head..].iter().rev()).take_while(|(a, b)| a == b).count();
    let (a, b) = (&old[head..old.len() - tail], &new[head..new.len() - tail]);
    let mut out: Vec<Edit<'_>> = old[..head].iter().map(|l| Edit::Keep(l)).collect();
    let width = b.len() + 1;
    if (a.len() + 1).saturating_mul(width) > MAX_CELLS {
        out.extend(a.iter().map(|l| Edit::Remove(l)));
        out.extend(b.iter().map(|l| Edit::Add(l)));
    } else {
        let mut longest = vec![0u32; (a.len() + 1) * width];
        for i in (0..a.len()).rev() {
            for j in (0..b.len()).rev() {
                longest[i * width + j] = if a[i] == b[j] {
                    longest[(i + 1) * width + j + 1] + 1
                } else {
                    longest[(i + 1) * width + j].max(longest[i * width + j + 1])
                };
            }
        }
        let (mut i, mut j) = (0, 0);
        while i < a.len() || j < b.len() {
            if i < a.len() && j < b.len() && a[i] == b[j] {
                out.push(Edit::Keep(a[i]));
                i += 1;
                j += 1;
            } else if j == b.len() || i < a.len() && longest[(i + 1) * width + j] >= longest[i * width + j + 1] {
                out.push(Edit::Remove(a[i]));
                i += 1;
            } else {
                out.push(Edit::Add(b[j]));
                j += 1;
            }
        }
    }
    out.extend(old[old.len() - tail..].iter().map(|l| Edit::Keep(l)));
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_texts_have_no_diff() {
        assert_eq!(diff("a\nb\n", "a\nb"), None);
    }

    #[test]
    fn shows_what_changed_with_context() {
        let old = "1\n2\n3\n4\n5\n6\n7\n8\n";
        let new = "1\n2\n3\n4\n5\nsix\n7\n8\n9\n";
        assert_eq!(diff(old, new).unwrap(), "...\n 3\n 4\n 5\n-6\n+six\n 7\n 8\n+9\n");
    }

    #[test]
    fn either_side_may_be_empty() {
        assert_eq!(diff("", "a\n").unwrap(), "+a\n");
        assert_eq!(diff("a\n", "").unwrap(), "-a\n");
    }
}
