//! What has become of a target that an INVITE went to (RFC 3261 §9.1, §13.2.2; RFC 3263 §4.3).
//!
//! One that is passed over for its silence may still answer: silence is also what a slow target and a lost packet sound like. One that is
//! not wanted is cancelled as soon as it has said anything, and never before (§9.1).

/// Where an attempt stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AttemptState {
    /// Nothing has come back. `spared`: it was given more time, for nothing better was left.
    Calling {
        /// It was given more time.
        spared: bool,
    },
    /// A provisional response has come back.
    Proceeding {
        /// One above 100: somebody is there.
        rang: bool,
    },
    /// Left for its silence alone: what it says may still count.
    PassedOver,
    /// It is not wanted any more: a 2xx is met by ACK and BYE.
    Cancelling {
        /// CANCEL went out: something had come back.
        sent: bool,
    },
    /// A final response came, or none will.
    Done {
        /// It was still wanted then, and is now.
        wanted: bool,
    },
}

/// What happens to an attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AttemptEvent {
    /// A provisional response, by its status.
    Provisional(u16),
    /// A final response, or the certainty that there will be none.
    Final,
    /// The INVITE went out again, with credentials.
    Again,
    /// It has been silent for too long, and others are left that may be better.
    PassOver,
    /// It has been silent for too long, and nothing better is left.
    Spare,
    /// It counts again.
    Revive,
    /// It may not count again.
    Forget,
    /// The call does not want it any more.
    Cancel,
}

impl AttemptState {
    /// An INVITE has gone out.
    pub const NEW: AttemptState = AttemptState::Calling { spared: false };

    /// One step. True: CANCEL is to be sent now.
    #[must_use]
    pub fn on(&mut self, event: AttemptEvent) -> bool {
        use AttemptEvent as E;
        use AttemptState::{Calling, Cancelling, Done, PassedOver, Proceeding};
        let (next, cancel) = match (*self, event) {
            (Calling { .. }, E::Provisional(status)) => (Proceeding { rang: status > 100 }, false),
            (Proceeding { rang }, E::Provisional(status)) => (Proceeding { rang: rang || status > 100 }, false),
            (PassedOver | Cancelling { sent: false }, E::Provisional(_)) => (Cancelling { sent: true }, true),

            (state, E::Final) => (Done { wanted: state.is_wanted() }, false),
            (_, E::Again) => (Calling { spared: false }, false),

            (Calling { .. }, E::PassOver) => (PassedOver, false),
            (Calling { .. }, E::Spare) | (PassedOver, E::Revive) => (Calling { spared: true }, false),

            (Proceeding { .. }, E::Cancel) => (Cancelling { sent: true }, true),
            (Calling { .. } | PassedOver, E::Cancel) | (PassedOver, E::Forget) => (Cancelling { sent: false }, false),
            (Done { .. }, E::Cancel) => (Done { wanted: false }, false),

            (state, _) => (state, false),
        };
        *self = next;
        cancel
    }

    /// A step after which no CANCEL is due.
    pub fn note(&mut self, event: AttemptEvent) {
        let cancel = self.on(event);
        debug_assert!(!cancel, "{event:?} sends no CANCEL");
    }

    /// True unless it was cancelled or passed over.
    pub fn is_wanted(self) -> bool {
        matches!(self, AttemptState::Calling { .. } | AttemptState::Proceeding { .. } | AttemptState::Done { wanted: true })
    }

    /// True while it may have the call: wanted, and without a final response.
    pub fn is_open(self) -> bool {
        matches!(self, AttemptState::Calling { .. } | AttemptState::Proceeding { .. })
    }

    /// True once nothing more is to come.
    pub fn is_done(self) -> bool {
        matches!(self, AttemptState::Done { .. })
    }
}

#[cfg(test)]
mod tests {
    use super::AttemptEvent as E;
    use super::AttemptState::{self, Calling, Cancelling, Done, PassedOver, Proceeding};

    const STATES: [AttemptState; 9] = [
        Calling { spared: false },
        Calling { spared: true },
        Proceeding { rang: false },
        Proceeding { rang: true },
        PassedOver,
        Cancelling { sent: false },
        Cancelling { sent: true },
        Done { wanted: true },
        Done { wanted: false },
    ];
    const EVENTS: [E; 9] =
        [E::Provisional(100), E::Provisional(180), E::Final, E::Again, E::PassOver, E::Spare, E::Revive, E::Forget, E::Cancel];

    /// A row each state, in the order of STATES; a column each event, in that of EVENTS. `!`: CANCEL goes out.
    const TABLE: &str = "
        p  r  W a o s c  c  u
        p  r  W a o s cs cs u
        p  r  W a p p p  p  x!
        r  r  W a r r r  r  x!
        x! x! D a o o cs u  u
        x! x! D a u u u  u  u
        x  x  D a x x x  x  x
        W  W  W a W W W  W  D
        D  D  D a D D D  D  D";

    fn letter(state: AttemptState) -> &'static str {
        match state {
            Calling { spared: false } => "a",
            Calling { spared: true } => "cs",
            Proceeding { rang: false } => "p",
            Proceeding { rang: true } => "r",
            PassedOver => "o",
            Cancelling { sent: false } => "u",
            Cancelling { sent: true } => "x",
            Done { wanted: true } => "W",
            Done { wanted: false } => "D",
        }
    }

    #[test]
    fn every_state_and_event() {
        let rows: Vec<Vec<&str>> =
            TABLE.lines().map(|l| l.split_whitespace().collect()).filter(|r: &Vec<_>| !r.is_empty()).collect();
        assert_eq!(rows.len(), STATES.len());
        for (state, row) in STATES.into_iter().zip(rows) {
            assert_eq!(row.len(), EVENTS.len());
            for (event, expected) in EVENTS.into_iter().zip(row) {
                let mut next = state;
                let cancel = next.on(event);
                // What a state does not heed leaves it as it is: written as "c" where that is Calling itself, "s" where it is spared.
                let expected = match expected {
                    "c" => letter(state).to_owned(),
                    "s" => "cs".to_owned(),
                    other => other.to_owned(),
                };
                let said = format!("{}{}", letter(next), if cancel { "!" } else { "" });
                assert_eq!(said, expected, "{state:?} on {event:?}");
            }
        }
    }

    #[test]
    fn cancel_goes_out_once_and_never_before_a_response() {
        // RFC 3261 §9.1, over all ways of length five.
        let mut ways: Vec<(AttemptState, bool, u32)> = vec![(AttemptState::NEW, false, 0)];
        for _ in 0..5 {
            let mut longer = Vec::new();
            for (state, answered, sent) in ways {
                for event in EVENTS.into_iter().filter(|e| *e != E::Again) {
                    let mut next = state;
                    let cancel = next.on(event);
                    let answered = answered || matches!(event, E::Provisional(_));
                    assert!(!cancel || answered, "{state:?} on {event:?}");
                    let sent = sent + u32::from(cancel);
                    assert!(sent <= 1, "{state:?} on {event:?}");
                    longer.push((next, answered, sent));
                }
            }
            ways = longer;
        }
    }
}
