//! What metrics are counted under: the values of their labels. The help text of a metric lists those of its label.

/// An enum whose variants are the values of a metric's label.
macro_rules! labels {
    ($(#[doc = $doc:literal] $name:ident { $(#[doc = $says:literal] $variant:ident = $label:literal,)* })*) => {$(
        #[doc = $doc]
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum $name {
            $(#[doc = $says] $variant,)*
        }

        impl $name {
            /// All values of the label.
            pub const LABELS: &[&str] = &[$($label),*];

            /// The value of the label.
            pub fn label(self) -> &'static str {
                match self {
                    $($name::$variant => $label,)*
                }
            }
        }
    )*};
}

labels! {
    /// Why a message was dropped without an answer.
    DropReason {
        /// Its source is blocked.
        Blocked = "blocked",
        /// To be sent for another node from an address that is not ours.
        EmitAddress = "emit_address",
        /// A response to what we did not ask.
        ForeignResponse = "foreign_response",
        /// More early dialogs than are kept.
        Forks = "forks",
        /// Something of the core side that waited too long.
        LateCore = "late_core",
        /// A far end's request within a call whose owner is gone, of more than are held.
        HeldRequest = "held_request",
        /// An emergency INVITE that waited too long.
        LateEmergency = "late_emergency",
        /// Something of the core side within an emergency call that waited too long.
        LateEmergencyCall = "late_emergency_call",
        /// Something of a caller within an emergency call that waited too long.
        LateEmergencyCaller = "late_emergency_caller",
        /// Something new that waited too long.
        LateOrdinary = "late_ordinary",
        /// A response after the end of its transaction.
        LateResponse = "late_response",
        /// Something under way that waited too long.
        LateUnderway = "late_underway",
        /// A PRACK that nothing waits for.
        NoPrack = "no_prack",
        /// More notices than are kept.
        NoticeMany = "notice_many",
        /// A notice that is too large.
        NoticeSize = "notice_size",
        /// Its sender has given up.
        OldInvite = "old_invite",
        /// The link to a peer is full.
        PeerLink = "peer_link",
        /// A copy of an INVITE whose call another node has.
        QuietCopy = "quiet_copy",
        /// A reliable provisional response out of order.
        Rseq = "rseq",
        /// A scanner sent it.
        Scanner = "scanner",
        /// It came from where its far end is not, or may not be.
        Source = "source",
        /// Its source has had all answers that it may have.
        SourceRate = "source_rate",
        /// Records of a call that the log did not take in time.
        UnsettledCall = "unsettled_call",
        /// It cannot be written.
        Unwritable = "unwritable",
    }
    /// What became of a claim.
    ClaimOutcome {
        /// Another node has answered the caller.
        AnsweredElsewhere = "answered_elsewhere",
        /// The proposal did not commit.
        Failed = "failed",
        /// The log did not decide within the budget.
        Late = "late",
        /// Another node has it; the call had gone on without.
        LateLost = "late_lost",
        /// Its owner is gone; the call had gone on without.
        LateOrphaned = "late_orphaned",
        /// It is ours; the call had gone on without.
        LateWon = "late_won",
        /// Another node has it.
        Lost = "lost",
        /// It is another call: the INVITE came by two ways.
        Merged = "merged",
        /// The far end says that it has the call from another node.
        MergedLate = "merged_late",
        /// Its owner is gone.
        Orphaned = "orphaned",
        /// A rival has the called side.
        Twin = "twin",
        /// Its owner does not answer.
        Unsure = "unsure",
        /// It is ours.
        Won = "won",
    }
    /// What was done with a misrouted packet.
    MisrouteAction {
        /// 481: no such dialog.
        NoDialog = "481",
        /// 503: this node does not know.
        Unsure = "503",
        /// It waits until its far end was asked.
        Doubt = "doubt",
        /// Nothing: it is an ACK.
        Drop = "drop",
        /// It waits for its owner.
        Hold = "hold",
        /// Nothing: it had been relayed before.
        Hop = "hop",
        /// An ACK did not come.
        Missing = "missing",
        /// Its sender was told where the owner is.
        Redirect = "redirect",
        /// It went to its owner.
        Relay = "relay",
        /// Nothing: its INVITE is over.
        Stale = "stale",
        /// Nothing: its source relays too much.
        Stranger = "stranger",
        /// Nothing: its owner cannot be reached.
        Unreachable = "unreachable",
    }
    /// A limit for which an initial request is refused, or waits.
    Limit {
        /// Emergency calls toward one trunk: it has waited to no end.
        EmergencyCrowd = "emergency_crowd",
        /// Emergency calls of one source.
        EmergencySourceRate = "emergency_source_rate",
        /// Emergency calls toward one trunk: it waits.
        EmergencyWaits = "emergency_waits",
        /// The load of the node.
        Load = "load",
        /// Calls of the node.
        MaxCalls = "max_calls",
        /// What one source begins.
        SourceRate = "source_rate",
        /// Subscriptions of one source.
        SourceSubscriptions = "source_subscriptions",
        /// Subscriptions of the node.
        Subscriptions = "subscriptions",
        /// Half of the transactions.
        Transactions = "transactions",
        /// Calls of a trunk.
        TrunkMaxCalls = "trunk_max_calls",
        /// What one trunk begins.
        TrunkMaxRate = "trunk_max_rate",
    }
    /// What became of a session description that was not as it should be.
    UnreadOutcome {
        /// The other side's media go past us.
        OneSided = "one_sided",
        /// It was mended.
        Repaired = "repaired",
        /// The call's media go past us.
        Unanchored = "unanchored",
    }
    /// What became of an OPTIONS to a target.
    ProbeOutcome {
        /// It was silent, or says that it takes nothing.
        Down = "down",
        /// It could not be sent.
        Unsent = "unsent",
        /// It answered.
        Up = "up",
    }
    /// What became of a call, or of a leg of one, whose owner is gone.
    TakeoverStep {
        /// This node goes on with the call.
        Adopted = "adopted",
        /// Another node goes on with a call that this one had.
        Ceded = "ceded",
        /// The far end of a leg is gone, and so is the call.
        Over = "over",
        /// A far end does not go on with this node: its media go to the one that is gone.
        Refused = "refused",
        /// The far end of a leg goes on with this node.
        Stands = "stands",
        /// Its record says too little to go on with the call.
        Unread = "unread",
    }
    /// How a target changed.
    TargetChange {
        /// It answers again.
        Answered = "answered",
        /// It failed, and is tried last.
        Held = "held",
        /// It names others.
        Redirected = "redirected",
    }
    /// Digest authentication.
    AuthOutcome {
        /// A caller proved who it is.
        Accepted = "accepted",
        /// Ours: a challenge was answered.
        Answered = "answered",
        /// A caller was asked.
        Challenged = "challenged",
        /// Ours: our credentials were not taken.
        Refused = "refused",
        /// A caller used an old nonce, or one use twice.
        Stale = "stale",
        /// A caller has another secret, or is unknown.
        Wrong = "wrong",
    }
    /// What became of a subscription.
    SubscriptionOutcome {
        /// It was accepted.
        Begun = "begun",
        /// One side ended it.
        Ended = "ended",
        /// Nobody refreshed it.
        Expired = "expired",
        /// It was not.
        Refused = "refused",
    }
    /// How a call ended.
    CallOutcome {
        /// The caller cancelled it.
        Abandoned = "abandoned",
        /// It was answered.
        Answered = "answered",
        /// The called side is busy.
        Busy = "busy",
        /// It reached nobody.
        Failed = "failed",
        /// Its owner started again.
        Lost = "lost",
        /// Its 2xx was never acknowledged.
        NoAck = "no_ack",
        /// The called side refused it.
        Refused = "refused",
        /// It was not admitted.
        Rejected = "rejected",
    }
}
