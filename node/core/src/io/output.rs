//! Everything that the core wants done.

use super::{
    AlarmKind, AuthOutcome, CallOutcome, ClaimOutcome, DropReason, Limit, MediaCommand, MisrouteAction, NodeState, PeerMessage,
    ProbeOutcome, Realm, ResolveRequest, SubscriptionOutcome, TakeoverStep, TargetChange, Transmit, Transport, UnreadOutcome,
};
use crate::ids::{CallUid, CommandId, Incarnation, NodeId, ProposalId, ResolveId};
use crate::replica::{CallEntry, EarlyEvent};
use crate::store_pb;
use crate::time::UnixMs;

/// One output of [`Sbc::poll_output`](crate::sbc::Sbc::poll_output), to be carried out in order.
#[derive(Clone, Debug)]
pub enum Output {
    /// Send bytes.
    Transmit(Transmit),
    /// Send to a peer; drop it if the link is down.
    Peer {
        /// To whom.
        to: NodeId,
        /// What.
        message: PeerMessage,
    },
    /// Ask the DNS.
    Resolve {
        /// Named in the answer.
        id: ResolveId,
        /// The question.
        request: ResolveRequest,
    },
    /// Order the media engine.
    Media(MediaCommand),
    /// Propose to the log. Success is seen as [`Input::Applied`](super::Input::Applied).
    Propose {
        /// Named in a failure.
        id: ProposalId,
        /// What.
        command: Box<store_pb::Command>,
    },
    /// The log brought a new cluster configuration: parse and validate it, then `Input::Reconfigured`.
    ConfigChanged {
        /// Its revision.
        revision: u64,
        /// Its TOML text.
        text: String,
    },
    /// The answer to a command.
    Reply {
        /// Which.
        id: CommandId,
        /// The answer.
        reply: CommandReply,
    },
    /// Count something.
    Count(Counter),
    /// A target of a trunk was asked whether it is there.
    TrunkProbed {
        /// The trunk.
        trunk: Box<str>,
        /// One of its targets at least is up.
        up: bool,
        /// How long the answer took; `None`: there was none, or it said no.
        rtt: Option<std::time::Duration>,
    },
    /// Something is wrong, or well again.
    Alarm {
        /// What.
        kind: AlarmKind,
        /// `None`: it is well. For people.
        raised: Option<String>,
    },
    /// A peer that this node has no link to has answered its OPTIONS, and said how it is.
    PeerSaid {
        /// Which peer.
        node: NodeId,
        /// Its incarnation.
        incarnation: Incarnation,
        /// What it said.
        state: NodeState,
    },
    /// The log holds something that this version cannot apply: stop the node, for it must not go on with a wrong state.
    Halt(String),
    /// What the log does not have of a call of this node; takes the place of what was said of it before.
    Uncommitted(Box<Uncommitted>),
    /// A call event was derived from the log; it stands in the replica, this only wakes watchers.
    EventsChanged,
}

/// A call of this node as far as the log does not have it.
#[derive(Clone, Debug)]
pub struct Uncommitted {
    /// Which.
    pub call: CallUid,
    /// As it stands; `None`: the log has it, or another node has the call.
    pub entry: Option<CallEntry>,
    /// Its events that the log does not have, in order.
    pub events: Vec<EarlyEvent>,
    /// The log will never have them, and nothing more is said of the call.
    pub last: bool,
}

/// Answers to commands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CommandReply {
    /// It was done.
    Done,
    /// No such call on this node.
    NotFound,
    /// An emergency call, and the command did not say so.
    EmergencyRefused,
    /// The messages of a call.
    Ladder {
        /// Oldest first.
        entries: Vec<LadderEntry>,
        /// How many more there were, between the first ones and the last.
        dropped: u32,
    },
    /// Of this node.
    Summary {
        /// Calls that this node owns now, in any state.
        calls: u64,
        /// The same by class of emergency service: every class that there has been.
        by_class: Vec<(&'static str, u64)>,
        /// Live transactions.
        transactions: u64,
        /// How busy the SIP loop is, in percent.
        load: u8,
    },
    /// What the gate says of a request.
    Explained(Explanation),
}

/// What the gate says of a request, which knows all but the routes of the configuration.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Explanation {
    /// The status that refuses it, 0 for a drop without an answer, and why, for people.
    pub refused: Option<(u16, Box<str>)>,
    /// It takes the place of a dialog with a far end of this trunk (RFC 3891), which is then dialled instead of a route's targets.
    pub replaces: Option<Box<str>>,
}

/// One message of a call, for people.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LadderEntry {
    /// When.
    pub at: UnixMs,
    /// True: received by us.
    pub inbound: bool,
    /// On which side of the SBC.
    pub realm: Realm,
    /// By what it came or went.
    pub transport: Transport,
    /// Our address.
    pub local: std::net::SocketAddr,
    /// The far end's.
    pub remote: std::net::SocketAddr,
    /// The node whose socket it went through; `None`: the owner itself.
    pub through: Option<NodeId>,
    /// The first line of the message without personal data: method, or status and reason.
    pub summary: Box<str>,
    /// CSeq number and method.
    pub cseq: Box<str>,
    /// The same octets came in before.
    pub repeated: bool,
}

/// Things that are counted. Labels are bounded.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Counter {
    /// A call began, by its class ([`class_label`](crate::routing::class_label)).
    CallReceived(&'static str),
    /// A MESSAGE outside of a dialog, by class as calls are.
    MessageReceived(&'static str),
    /// What became of subscriptions.
    Subscription(SubscriptionOutcome),
    /// A request came in, by method.
    RequestReceived(&'static str),
    /// A response was sent, by status class 1..=6.
    ResponseSent(u8),
    /// A message could not be parsed.
    ParseError(&'static str),
    /// Dropped without an answer, by reason.
    Dropped(DropReason),
    /// A rule of the access list denied or rejected something, by its number from 0.
    Acl(u8),
    /// A claim's outcome.
    Claim(ClaimOutcome),
    /// A misrouted packet, by method and by what was done with it.
    Misrouted(&'static str, MisrouteAction),
    /// An initial request was refused for a limit, by which.
    Limited(Limit),
    /// A source is to be blocked, for a scanner spoke from there.
    Banned,
    /// A call went on without media ports of ours, or without all that it needed, by class as calls are.
    Unanchored(&'static str),
    /// A session description was not as it should be, by what came of it.
    Unread(UnreadOutcome),
    /// A call went on without the store.
    Degraded,
    /// An OPTIONS to a target of a trunk.
    Probe(ProbeOutcome),
    /// A target of a trunk changed.
    Target(TargetChange),
    /// A call ended, by outcome and by class of emergency service (`routing::class_label`).
    CallEnded(CallOutcome, &'static str),
    /// A call whose owner is gone is taken over, by what came of it and by class as calls are.
    Takeover(TakeoverStep, &'static str),
    /// Digest authentication, of ours and of callers.
    Auth(AuthOutcome),
}
