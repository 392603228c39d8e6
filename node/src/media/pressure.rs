//! When to say that media ports run out.

use std::time::{Duration, Instant};

use super::engine::MediaRoom;
use super::limits::reserve_of;

/// How long there must have been room again before the alarm ends: a flood has pauses.
const CALM: Duration = Duration::from_secs(10);

/// Watches the room that is left, and remembers what was said of it.
#[derive(Debug, Default)]
pub struct PortsWatch {
    /// Sessions without ports so far.
    refused: u64,
    /// When it was last tight; `None`: not since the alarm ended.
    tight: Option<Instant>,
}

impl PortsWatch {
    /// Looks again. `Some`: the alarm is on, with what is wrong in words.
    pub fn look(&mut self, room: &MediaRoom, now: Instant) -> Option<String> {
        let refused = room.refused - self.refused.min(room.refused);
        self.refused = room.refused;
        let few = |(most, free): (usize, usize)| most > 0 && free <= reserve_of(most);
        if refused > 0 || few(room.pairs) || few(room.sockets) {
            self.tight = Some(now);
        } else if self.tight.is_some_and(|at| now.saturating_duration_since(at) >= CALM) {
            self.tight = None;
        }
        self.tight?;
        let ((pairs, free), (sockets, left)) = (room.pairs, room.sockets);
        Some(format!(
            "{free} of {pairs} media port pairs and {left} of {sockets} media sockets are free; {} calls had none",
            room.refused
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn on_while_it_is_tight_and_a_while_after() {
        let start = Instant::now();
        let mut watch = PortsWatch::default();
        let mut at = |secs, pairs, sockets, refused| {
            let room = MediaRoom { pairs: (800, pairs), sockets: (3_200, sockets), refused };
            watch.look(&room, start + Duration::from_secs(secs)).is_some()
        };
        // (second, free pairs, free sockets, refused so far): alarm
        let table = [
            ((0, 800, 3_200, 0), false),
            ((1, 101, 3_200, 0), false),
            ((2, 100, 3_200, 0), true),
            ((3, 500, 3_200, 0), true),
            ((11, 500, 3_200, 0), true),
            ((12, 500, 3_200, 0), false),
            ((13, 500, 400, 0), true),
            ((23, 500, 401, 0), false),
            ((24, 500, 3_200, 1), true),
            ((33, 500, 3_200, 1), true),
            ((33, 500, 3_200, 2), true),
            ((42, 500, 3_200, 2), true),
            ((43, 500, 3_200, 2), false),
        ];
        for ((secs, pairs, sockets, refused), on) in table {
            assert_eq!(at(secs, pairs, sockets, refused), on, "at {secs} s");
        }
        let none = MediaRoom { pairs: (0, 0), sockets: (0, 0), refused: 0 };
        assert_eq!(PortsWatch::default().look(&none, start), None, "an engine that is off");
    }
}
