//! Whose a timer is.

use crate::dialog::PairId;
use crate::ids::LocalId;
use crate::io::Side;
use crate::transaction::ClientTxId;

/// Whose a timer is, and what for: handed back when it fires.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TimerUser {
    /// Of a call.
    Call(LocalId, CallTimer),
    /// A held CANCEL has waited long enough, by its number.
    Hold(u64),
    /// The owner of a held INVITE may have become reachable, or be known to be gone, by the number of the hold.
    HeldInvite(u64),
    /// There may be room for emergency calls that wait.
    Crowd,
    /// Calls whose owner is gone may be due to be taken over.
    Takeover,
    /// Calls of an earlier start of this node wait for their end.
    Farewell,
    /// Targets of trunks may be due to be asked whether they are there.
    Probe,
    /// Peers that this node has no link to may be due to be asked how they are.
    Neighbours,
    /// The target of a request outside of a dialog has been silent for a while.
    Message(LocalId),
    /// A subscription was not refreshed in its time.
    Subscription(LocalId),
    /// The NATs before the far ends of a subscription are to remember them.
    SubscriptionKeepAlive(LocalId),
    /// A request within a subscription that could go another way got no response so far.
    SubscriptionSilent(LocalId, ClientTxId),
    /// An INVITE of ours within a dialog that is over still has no final response.
    AbandonedInvite(ClientTxId),
    /// Housekeeping of bounded memories.
    Sweep,
}

/// A call's timers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CallTimer {
    /// The claim's budget is spent (rule B).
    ClaimBudget,
    /// The log has not decided the claim at once, or a peer without a link has not said whether it has the call: the peers are asked.
    AskPeers,
    /// The NAT before a far end is to remember it.
    KeepAlive(Side),
    /// The claim is this call's, but a rival has its called side: it is told again to hand over.
    Reclaim,
    /// A request on that leg is held that may be anybody's: where do its far end's media come from, and whose is it then?
    Doubt(Side),
    /// The INVITE is too old to be dialled, should nobody have asked for that.
    Outlived,
    /// The target of this attempt has been silent for too long.
    Failover(u32),
    /// The cancelled INVITE of this attempt got no final response.
    Abandon(u32),
    /// The cancelled re-INVITE, by its number among the crossings, got no final response.
    AbandonCrossing(u64),
    /// A re-INVITE, by its number among the crossings, has had no word from its far end.
    Stale(u64),
    /// A request within the dialog that could go another way got no response so far.
    Silent(ClientTxId),
    /// The called side has rung long enough.
    Ring,
    /// The caller has heard nothing for a while (RFC 3261 §13.3.1.1).
    Progress,
    /// Repeat the 2xx on this leg (RFC 3261 §13.3.1.4).
    Repeat2xx(Side),
    /// Repeat the reliable provisional response of this early dialog (RFC 3262 §3).
    Repeat18x(PairId),
    /// The far end of this leg is to be asked again to go on with this node.
    Takeover(Side),
    /// The session on this leg is to be refreshed, or should have been (RFC 4028 §10).
    Session(Side),
    /// Propose again what did not commit.
    Journal,
    /// The log may be late: what it does not have is told here.
    Early,
    /// The media engine did not answer a close.
    MediaClose,
    /// The media engine or the DNS did not answer before dialling.
    Prepare,
}
