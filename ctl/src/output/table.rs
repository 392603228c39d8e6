//! Tables without borders: a header and aligned columns, easy to read and to cut.

use std::fmt;

/// Rows under a header.
#[derive(Debug)]
pub(crate) struct Table(comfy_table::Table);

impl Table {
    /// With these columns.
    pub(crate) fn new(header: &[&str]) -> Table {
        let mut table = comfy_table::Table::new();
        table.load_preset(comfy_table::presets::NOTHING).set_content_arrangement(comfy_table::ContentArrangement::Disabled);
        table.set_header(header);
        Table(table)
    }

    /// Adds a row. An empty cell shows as "-".
    pub(crate) fn row<I: Into<String>>(&mut self, cells: impl IntoIterator<Item = I>) {
        self.0.add_row(cells.into_iter().map(|c| printable(c.into())));
    }
}

/// Text from the network must not move the cursor or colour the screen of a terminal.
fn printable(cell: String) -> String {
    match cell.is_empty() {
        true => "-".to_owned(),
        false => cell.chars().map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect(),
    }
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = self.0.to_string();
        let lines: Vec<&str> = text.lines().map(|l| l.strip_prefix(' ').unwrap_or(l).trim_end()).collect();
        f.write_str(&lines.join("\n"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn aligns_and_fills() {
        let mut table = Table::new(&["A", "LONGER"]);
        table.row(["x", ""]);
        table.row(["wider", "y"]);
        assert_eq!(table.to_string(), "A      LONGER\nx      -\nwider  y");
    }

    #[test]
    fn control_characters_do_not_reach_the_terminal() {
        let mut table = Table::new(&["A"]);
        table.row(["\x1b[31mred\n"]);
        assert!(!table.to_string().contains('\x1b'));
    }
}
