//! When things happened in a call, by the owner's monotonic clock: its records say how long it rang and lasted, whatever is done to the
//! wall clock meanwhile.

use std::time::Duration;

use crate::time::Instant;

/// The moments that records count from.
#[derive(Clone, Copy, Debug)]
pub(super) struct Course {
    began: Instant,
    answered: Option<Instant>,
    over: Option<Instant>,
}

impl Course {
    /// The first INVITE came.
    pub(super) fn begun(now: Instant) -> Course {
        Course { began: now, answered: None, over: None }
    }

    /// It has begun and was answered so long ago.
    pub(super) fn resumed(now: Instant, began: Duration, answered: Duration) -> Course {
        let at = |ago: Duration| now - ago;
        Course { began: at(began), answered: Some(at(answered)), over: None }
    }

    /// The called side has answered.
    pub(super) fn answer(&mut self, now: Instant) {
        self.answered.get_or_insert(now);
    }

    /// Both far ends are told that it is over.
    pub(super) fn end(&mut self, now: Instant) {
        self.over.get_or_insert(now);
    }

    /// Milliseconds since the first INVITE; of a call that is over, until its end.
    pub(super) fn after_ms(&self, now: Instant) -> u64 {
        ms(self.began, self.over.unwrap_or(now))
    }

    /// Milliseconds since the answer; of a call that is over, until its end. `None`: there was no answer.
    pub(super) fn duration_ms(&self, now: Instant) -> Option<u64> {
        self.answered.map(|answered| ms(answered, self.over.unwrap_or(now)))
    }
}

fn ms(from: Instant, to: Instant) -> u64 {
    u64::try_from(to.since(from).as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn counts_from_the_invite_and_from_the_answer_until_the_end() {
        let at = |ms| Instant::from_micros(5_000_000) + Duration::from_millis(ms);
        let mut course = Course::begun(at(0));
        assert_eq!((course.after_ms(at(7)), course.duration_ms(at(7))), (7, None));
        course.answer(at(100));
        course.answer(at(200));
        assert_eq!((course.after_ms(at(300)), course.duration_ms(at(300))), (300, Some(200)));
        course.end(at(1000));
        course.end(at(2000));
        assert_eq!((course.after_ms(at(9000)), course.duration_ms(at(9000))), (1000, Some(900)));
    }
}
