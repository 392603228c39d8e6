//! SIP transactions: RFC 3261 §17 with RFC 6026, 4320 and 4321.
//!
//! Four pure machines, each `on(state, event, reliable) -> (state, actions)`, and one table, [`Transactions`], that keys
//! them, runs their actions and timers, knows whose each is, and stores the encoded messages that they repeat. Nothing here reads a message: the
//! caller hands in keys, status codes and bytes.
//!
//! What it keeps true: ids are never reused; a transaction that has ended is gone at once, with its keys and timers; every
//! transaction ends by its timers alone, whatever the far end and the TU do or fail to do; there are never more than the limit.

pub mod action;
pub mod invite_client;
pub mod invite_server;
pub mod non_invite_client;
pub mod non_invite_server;
pub mod timing;

mod client_table;
mod output;
mod server_table;
mod shared;
mod table;
mod user;

#[cfg(test)]
mod test_table;
#[cfg(test)]
mod tests;

pub use client_table::{ResponseAction, SEND_MARK};
pub use output::{ClientTxId, NewRequest, ServerTxId, TxEvent, TxOutput};
pub use server_table::ServerKey;
pub use table::Transactions;
pub use user::{CallUse, ClientUser, QuestionUser, ServerUser};

/// Names of server transactions, for tests of those who keep them.
#[cfg(test)]
pub(crate) fn test_server_ids(count: u64) -> Vec<ServerTxId> {
    (1..=count).map(ServerTxId).collect()
}

/// Names of client transactions, for tests of those who keep them.
#[cfg(test)]
pub(crate) fn test_ids(count: u64) -> Vec<ClientTxId> {
    (1..=count).map(ClientTxId).collect()
}
