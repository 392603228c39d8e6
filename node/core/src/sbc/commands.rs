//! What the control plane asks of the core.

use super::Sbc;
use crate::ids::CommandId;
use crate::io::{Command, CommandReply, Output};

impl Sbc {
    pub(super) fn on_command(&mut self, id: CommandId, command: Command) {
        let reply = match command {
            Command::Terminate { call, reason, emergency } => match self.calls.own(&self.cx, call) {
                None => CommandReply::NotFound,
                Some(found) if found.about.emergency && !emergency => CommandReply::EmergencyRefused,
                Some(found) => {
                    let id = found.about.id;
                    self.with_call(id, |call, cx| call.terminate(cx, &reason));
                    CommandReply::Done
                }
            },
            Command::Ladder { call } => match self.calls.ladder(&self.cx, call) {
                Some(ladder) => CommandReply::Ladder { entries: ladder.entries().to_vec(), dropped: ladder.dropped() },
                None => CommandReply::NotFound,
            },
            Command::Explain { origin, message } => CommandReply::Explained(self.explain(&origin, message)),
            Command::Summary => CommandReply::Summary {
                calls: self.calls.active(),
                by_class: self.calls.by_class().collect(),
                transactions: u64::try_from(self.cx.tx.len()).unwrap_or(u64::MAX),
                load: self.gate.limits.load(),
            },
        };
        self.cx.output(Output::Reply { id, reply });
    }
}
