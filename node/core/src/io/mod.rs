//! What goes in and out of the core: plain values, one file a concern.

mod addresses;
mod alarm;
mod dns;
mod input;
mod labels;
mod media;
mod output;
mod peer;
mod state;
mod view;
mod wire;

pub use addresses::Addresses;
pub use alarm::AlarmKind;
pub use dns::{HostAndPort, ResolveError, ResolveRequest, Target, TransportChoice};
pub use input::{Command, Input, RouteOrigin};
pub use labels::{
    AuthOutcome, CallOutcome, ClaimOutcome, DropReason, Limit, MisrouteAction, ProbeOutcome, SubscriptionOutcome, TakeoverStep,
    TargetChange, UnreadOutcome,
};
pub use media::{Carries, MediaCommand, MediaEvent, MediaStats, Place, Side, SideHeard, StreamPorts, StreamRemote, StreamStats};
pub use output::{CommandReply, Counter, Explanation, LadderEntry, Output, Uncommitted};
pub use peer::{ClaimStage, Envelope, PeerMessage};
pub use state::NodeState;
pub use view::{NodeView, View};
pub use wire::{AddressRole, Path, Realm, Received, ReturnPath, SendFailure, Transmit, Transport};
