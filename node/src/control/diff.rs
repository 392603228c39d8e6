//! What changes between two texts, line by line.

use std::time::Duration;

use similar::{Algorithm, ChangeTag, TextDiff};

/// Lines kept around a change.
const CONTEXT: usize = 3;
/// How long the shortest difference is looked for; two texts that differ in thousands of lines are shown by a longer one.
const LIMIT: Duration = Duration::from_millis(200);

/// The changed lines with some around them, marked `-`, `+` or blank; `None`: the texts are equal, up to the ends of lines.
pub(super) fn diff(old: &str, new: &str) -> Option<String> {
    let old: Vec<&str> = old.lines().collect();
    let new: Vec<&str> = new.lines().collect();
    if old == new {
        return None;
    }
    let diff = TextDiff::configure().algorithm(Algorithm::Myers).timeout(LIMIT).diff_slices(&old, &new);
    let mut text = String::new();
    let mut shown = 0;
    for group in diff.grouped_ops(CONTEXT) {
        for (at, op) in group.iter().enumerate() {
            if at == 0 && op.old_range().start > shown {
                text += "...\n";
            }
            shown = op.old_range().end;
            for change in diff.iter_changes(op) {
                text.push(match change.tag() {
                    ChangeTag::Equal => ' ',
                    ChangeTag::Delete => '-',
                    ChangeTag::Insert => '+',
                });
                text += change.value();
                text.push('\n');
            }
        }
    }
    Some(text)
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
    fn what_is_left_out_is_marked_once() {
        let old: String = (0..30).map(|n| format!("{n}\n")).collect();
        let new = old.replacen("2\n", "two\n", 1).replace("\n20\n", "\n");
        let expected = " 0\n 1\n-2\n+two\n 3\n 4\n 5\n...\n 17\n 18\n 19\n-20\n 21\n 22\n 23\n";
        assert_eq!(diff(&old, &new).unwrap(), expected);
    }

    #[test]
    fn texts_that_are_hard_to_compare_take_no_longer_than_others() {
        let mut lines: Vec<String> = (0..20_000).map(|n| format!("{n}\n")).collect();
        let old = lines.concat();
        lines.reverse();
        let new = lines.concat();
        let begin = std::time::Instant::now();
        let shown = diff(&old, &new).unwrap();
        assert!(begin.elapsed() < 25 * LIMIT, "{:?}", begin.elapsed());
        let made: String = shown.lines().filter(|l| !l.starts_with('-')).flat_map(|l| [&l[1..], "\n"]).collect();
        assert_eq!(made, new);
    }

    #[test]
    fn either_side_may_be_empty() {
        assert_eq!(diff("", "a\n").unwrap(), "+a\n");
        assert_eq!(diff("a\n", "").unwrap(), "-a\n");
    }
}
