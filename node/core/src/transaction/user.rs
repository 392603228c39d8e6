//! Whose a transaction is: given when it is begun, and handed back with its outcome, so that nobody has to be asked whether it is theirs
//! (the transaction user of RFC 3261 §5).

use crate::ids::{CallUid, LocalId};
use crate::io::Side;

/// Who waits for the responses to a request of ours.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ClientUser {
    /// Nobody, or nobody any more.
    #[default]
    Nobody,
    /// A call.
    Call {
        /// Which.
        id: LocalId,
        /// What it is for.
        purpose: CallUse,
    },
    /// What is still to be said once a BYE or CANCEL has gone out: the call waits for nothing, and may be forgotten before the answer.
    AfterBye {
        /// The call, for its ladder.
        call: LocalId,
    },
    /// A MESSAGE, PUBLISH or first SUBSCRIBE.
    Message {
        /// Which.
        id: LocalId,
    },
    /// A request within a subscription.
    Subscription {
        /// The subscription.
        id: LocalId,
        /// The request, by its number.
        request: u64,
    },
    /// The BYE to a far end of a call that an earlier start of this node had.
    Farewell {
        /// That call.
        call: CallUid,
        /// That far end.
        side: Side,
    },
    /// Whether a target of a trunk is there.
    Probe,
    /// How a peer is that this node has no link to.
    Neighbour,
    /// What such a peer has of a call.
    Inquiry,
}

/// What a call's request is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CallUse {
    /// The called leg's first INVITE, by attempt.
    Dial(u32),
    /// A request on its way from one leg to the other, or a refresh of ours, by its number in the call.
    Crossing(u64),
    /// An OPTIONS of ours: is the far end of that leg still where it was?
    Doubt(Side),
}

/// Who answers a request that came in.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ServerUser {
    /// Nobody waits for anything: it is answered at once, or another node answers it.
    #[default]
    Nobody,
    /// A call.
    Call(LocalId),
    /// A MESSAGE, PUBLISH or first SUBSCRIBE.
    Message(LocalId),
    /// A subscription.
    Subscription(LocalId),
}

/// Who asked the DNS.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum QuestionUser {
    /// A call.
    Call(LocalId),
    /// A MESSAGE, PUBLISH or first SUBSCRIBE.
    Message(LocalId),
    /// A subscription.
    Subscription(LocalId),
    /// The BYE to a far end of a call that an earlier start of this node had.
    Farewell {
        /// That call.
        call: CallUid,
        /// That far end.
        side: Side,
    },
    /// Whether a target of a trunk is there.
    Probe,
}
