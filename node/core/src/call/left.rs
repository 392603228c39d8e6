//! INVITEs of ours within a dialog whose outcome nobody waits for any more, for a BYE ended the dialog: their final responses are
//! acknowledged all the same (RFC 3261 §17.1.1.3, §13.2.2.4), or the far end would repeat them for 32 s.

use std::time::Duration;

use super::Call;
use super::services::Services;
use super::timer::Timer;
use crate::io::{ReturnPath, Side};
use crate::sip::{Draft, HeaderId, Message};
use crate::transaction::{ClientTxId, ResponseAction};

/// RFC 3261 §9.1: 64 × T1. A far end that has the BYE and says nothing of the INVITE for so long will not.
const GIVE_UP: Duration = Duration::from_secs(32);

/// What its ACK is made of.
#[derive(Debug)]
pub struct Left {
    /// The serial of its call.
    call: u64,
    /// The ACK, without Via.
    ack: Draft,
    way: ReturnPath,
    tls_name: Option<Box<str>>,
}

impl Call {
    /// Nobody waits for this INVITE any more; its transaction goes on.
    pub(super) fn leave_invite(&self, cx: &mut Services, side: Side, tx: ClientTxId, cseq: u32) {
        let Some(way) = cx.tx.way(tx) else { return };
        let leg = self.leg(side);
        let left = Left { call: self.serial, ack: leg.dialog.ack(cseq), way, tls_name: leg.tls_name.clone() };
        cx.left.insert(tx, left);
        cx.alone_of.insert(tx, self.serial);
        cx.start_timer(GIVE_UP, Timer::Left(tx));
    }
}

impl Services {
    /// A response to an INVITE that nobody waits for. False: somebody does.
    pub fn on_left_response(&mut self, tx: ClientTxId, action: ResponseAction, response: &Message) -> bool {
        let Some(left) = self.left.get(&tx) else { return false };
        let success = response.status().is_some_and(|s| (200..300).contains(&s));
        let branch = match action {
            ResponseAction::NeedAck => self.tx.client_branch(tx).map(str::to_owned),
            ResponseAction::Deliver if success => Some(String::new()),
            ResponseAction::Deliver | ResponseAction::Absorb => None,
        };
        let Some(branch) = branch else { return true };
        let (call, way, tls_name, mut ack) = (left.call, left.way, left.tls_name.clone(), left.ack.clone());
        let branch = if branch.is_empty() { self.mint_branch() } else { branch };
        ack.set(HeaderId::To, response.to());
        ack.insert_first(HeaderId::Via, self.via(&way.path, &branch));
        let Some(payload) = self.encode(&ack) else { return true };
        self.note_sent(call, way, &ack);
        if success {
            self.send(way, tls_name, payload);
        } else {
            self.tx.set_ack(self.now.mono, tx, payload);
        }
        true
    }

    /// No final response came, or its copies have ended.
    pub fn on_left_over(&mut self, tx: ClientTxId) {
        if self.left.remove(&tx).is_some() {
            self.tx.abandon_client(tx);
        }
    }
}
