//! Data goes to standard output in the form that was asked for, everything else to standard error.

mod json;
mod table;
mod text;

use std::io::{self, IsTerminal, Write};

use prost::Message;

use crate::args::Format;
use crate::error::{Exit, Failure};

pub(crate) use json::{Json, render as render_json};
pub(crate) use table::Table;
pub(crate) use text::{cause, enum_name, party, span, time};

/// Prints data.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Out {
    format: Format,
}

impl Out {
    pub(crate) fn new(format: Format) -> Out {
        Out { format }
    }

    /// True when the output is for people.
    pub(crate) fn is_table(self) -> bool {
        self.format == Format::Table
    }

    /// One message. `name` is its full protobuf name; `table` what people see.
    pub(crate) fn message(self, name: &str, message: &impl Message, table: impl FnOnce() -> String) -> Result<(), Failure> {
        match self.format {
            Format::Table => line(&table()),
            Format::Json => line(&render_json(name, message, Json::Indented)?),
            Format::Jsonl => line(&render_json(name, message, Json::Line)?),
        }
    }

    /// A list: its response message in JSON, each item on its line in JSON lines. An empty table says `nothing` on
    /// standard error.
    pub(crate) fn list<I: Message>(
        self,
        response: (&str, &impl Message),
        item_name: &str,
        items: &[I],
        table: impl FnOnce(&[I]) -> Table,
        nothing: &str,
    ) -> Result<(), Failure> {
        match self.format {
            Format::Table if items.is_empty() => {
                note(nothing);
                Ok(())
            }
            Format::Table => line(&table(items).to_string()),
            Format::Json => line(&render_json(response.0, response.1, Json::Indented)?),
            Format::Jsonl => items.iter().try_for_each(|item| line(&render_json(item_name, item, Json::Line)?)),
        }
    }

    /// A list that no response message of `sbc.v1` describes: in JSON an object with the items under `key`.
    pub(crate) fn items<I: Message>(
        self,
        key: &str,
        name: &str,
        items: &[I],
        text: impl Fn(&I) -> String,
    ) -> Result<(), Failure> {
        match self.format {
            Format::Table => items.iter().try_for_each(|item| line(&text(item))),
            Format::Jsonl => items.iter().try_for_each(|item| line(&render_json(name, item, Json::Line)?)),
            Format::Json => {
                let items: Result<Vec<String>, Failure> = items.iter().map(|i| render_json(name, i, Json::Line)).collect();
                line(&format!("{{\"{key}\":[{}]}}", items?.join(",\n")))
            }
        }
    }

    /// What no message of `sbc.v1` describes: a JSON value of our own.
    pub(crate) fn value(self, value: &serde_json::Value, table: impl FnOnce() -> Table) -> Result<(), Failure> {
        match self.format {
            Format::Table => line(&table().to_string()),
            Format::Json => line(&format!("{value:#}")),
            Format::Jsonl => line(&value.to_string()),
        }
    }

    /// One event of a stream: a line each, in JSON too.
    pub(crate) fn event(self, name: &str, message: &impl Message, text: impl FnOnce() -> String) -> Result<(), Failure> {
        match self.format {
            Format::Table => line(&text()),
            Format::Json | Format::Jsonl => line(&render_json(name, message, Json::Line)?),
        }
    }

    /// Before each round of `-w`: an empty screen, on a terminal.
    pub(crate) fn fresh_screen(self) -> Result<(), Failure> {
        if self.is_table() && io::stdout().is_terminal() {
            return print("\x1b[H\x1b[2J");
        }
        Ok(())
    }
}

/// A line on standard output.
pub(crate) fn line(text: &str) -> Result<(), Failure> {
    print(&format!("{}\n", text.trim_end_matches('\n')))
}

/// Text on standard output, at once. A reader that went away ends the command quietly.
pub(crate) fn print(text: &str) -> Result<(), Failure> {
    let mut out = io::stdout().lock();
    out.write_all(text.as_bytes()).and_then(|()| out.flush()).map_err(|e| match e.kind() {
        io::ErrorKind::BrokenPipe => Failure::silent(Exit::Failed),
        _ => Failure::failed("cannot write the output").cause(e),
    })
}

/// A line on standard error: progress, remarks. There is nobody to tell when that fails.
pub(crate) fn note(text: &str) {
    let _ = writeln!(io::stderr().lock(), "{text}");
}
