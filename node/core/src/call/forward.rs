//! A request within the dialog that is on its way from one leg to the other.

use super::challenge::Retry;
use super::describe::Agreed;
use crate::io::{ReturnPath, Side};
use crate::sip::Message;
use crate::transaction::{ClientTxId, ServerTxId};

/// One such request.
#[derive(Debug)]
pub(super) struct Forward {
    /// Its number in the call.
    pub(super) id: u64,
    /// The early dialog that it is in.
    pub(super) fork: Option<usize>,
    /// The leg it came from.
    pub(super) from: Side,
    /// As received.
    pub(super) request: Message,
    /// Its transaction on that leg; `None` once answered.
    pub(super) server_tx: Option<ServerTxId>,
    /// Its way back.
    pub(super) back: ReturnPath,
    /// Its transaction on the other leg, once sent.
    pub(super) client_tx: Option<ClientTxId>,
    /// The CSeq number that it has there.
    pub(super) cseq: u32,
    /// The Via branch and value are kept by the transaction; CANCEL needs the request itself.
    pub(super) offered: bool,
    /// The far end that asked has cancelled it.
    pub(super) cancelled: bool,
    /// Why.
    pub(super) cancel_reason: Option<Box<str>>,
    /// It waits for ports: not sent yet.
    pub(super) held: bool,
    /// A provisional response came.
    pub(super) provisional: bool,
    /// As sent, where the far end may ask who we are.
    pub(super) retry: Option<Retry>,
    /// How often it was sent again for that.
    pub(super) tries: u8,
    /// A refresh of ours (RFC 4028): nobody waits for its answer.
    pub(super) own: bool,
    /// What stood before its offer; `None`: nothing is to be taken back.
    pub(super) before: Option<Agreed>,
    /// How often it was sent again with a longer interval (422).
    pub(super) raises: u8,
}
