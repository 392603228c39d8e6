//! What failed at the called side, and what the caller is told of it (RFC 3261 §8.1.3.4, §16.7).

use crate::sip::Message;

/// What failed, the best so far: what the caller is told if nothing succeeds.
#[derive(Clone, Debug)]
pub(super) struct Failure {
    /// Status toward the caller.
    pub(super) status: u16,
    /// What the called side sent; `None`: our own finding.
    pub(super) response: Option<Message>,
}

/// Of all that failed, what tells most.
#[derive(Debug, Default)]
pub(super) struct Failures(Option<Failure>);

impl Failures {
    /// Notes a failure, if it tells more than what failed before. One that the called side sent tells more than one of ours.
    pub(super) fn note(&mut self, status: u16, response: Option<&Message>) {
        let worth = |status: u16, real: bool| (!real, rank(status));
        let known = self.0.as_ref().map(|f| worth(f.status, f.response.is_some()));
        if known.is_none_or(|known| worth(status, response.is_some()) < known) {
            self.0 = Some(Failure { status, response: response.cloned() });
        }
    }

    pub(super) fn take(&mut self) -> Option<Failure> {
        self.0.take()
    }
}

/// How much a status tells the caller, the least first (RFC 3261 §16.7 step 6): a 6xx before all, else the lowest class, and in it
/// first what the caller can do something about.
fn rank(status: u16) -> (u16, u16) {
    let class = if status >= 600 { 0 } else { status / 100 };
    let helps = matches!(status, 401 | 407 | 415 | 420 | 484);
    (class, u16::from(!helps))
}

/// What a caller is told of a failure. RFC 3261 §16.7 step 6, §21.5.4: by a 503 an upstream element takes the address that said it out of
/// service, which here is the address of all nodes, for as long as Retry-After says; but it was one target that cannot. 500 is the
/// same for this call: who has another way tries it (RFC 3263 §4.3 for a 5xx in general; in the telephone network cause 41,
/// temporary failure, as 503 is: RFC 3398 §8.2.6.1). 480 would be the user's answer there (cause 18), after which nobody tries another way;
/// so emergency calls get 500 too. 503 is for our own overload and for rule G.
pub fn upstream(status: u16) -> u16 {
    if status == 503 { 500 } else { status }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_best_of_failures() {
        let mut order = [503, 486, 404, 401, 302, 603, 480, 500, 407, 484, 408];
        order.sort_by_key(|s| rank(*s));
        assert_eq!(order, [603, 302, 401, 407, 484, 486, 404, 480, 408, 503, 500]);
    }
}
