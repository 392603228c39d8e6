//! How many emergency calls go toward one trunk at once, and who waits when there are more.
//!
//! A PSAP has so many lines. When a flood has taken them, a caller from where nothing has come yet is still put through, twice as many in
//! all; a source that has calls there already waits, with a 100, in turn with the others, and for a bounded time. Only what finds no
//! room in that line, and what has waited to no end while other calls of its source are up, is refused: from the source with most of it
//! first. Each node counts its own calls.

use std::collections::HashMap;
use std::net::IpAddr;
use std::time::Duration;

use super::gate::source_weight;
use crate::call::{Context, TimerUser, server_key};
use crate::ids::{LocalId, PacketKey};
use crate::io::{Counter, Limit, Path, ReturnPath};
use crate::policy::{ClusterConfig, FairQueue, Prefix};
use crate::routing;
use crate::sip::{Message, Method, Uri};
use crate::time::Instant;
use crate::transaction::ServerUser;

/// INVITEs that wait for one trunk at the most.
const MOST_WAITING: usize = 256;
/// For how long: half of the time in which their caller gives up.
const LONGEST: Duration = Duration::from_secs(16);
/// How often it is looked whether there is room.
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// The crowds before each trunk.
#[derive(Debug, Default)]
pub(super) struct Crowds {
    by_trunk: HashMap<Box<str>, Crowd>,
    /// The calls that are counted, by id.
    counted: HashMap<LocalId, (Box<str>, IpAddr)>,
    waiting: HashMap<PacketKey, WaitingInvite>,
    /// The one whose wait is over.
    through: Option<PacketKey>,
    looking: bool,
}

#[derive(Debug)]
struct Crowd {
    calls: u32,
    by_source: HashMap<IpAddr, u32>,
    line: FairQueue<PacketKey>,
}

/// An INVITE that waits.
#[derive(Debug)]
pub(super) struct WaitingInvite {
    pub(super) path: Path,
    pub(super) back: ReturnPath,
    pub(super) message: Message,
    pub(super) arrived: Instant,
    source: IpAddr,
    weight: u32,
    until: Instant,
}

impl Default for Crowd {
    fn default() -> Crowd {
        Crowd { calls: 0, by_source: HashMap::new(), line: FairQueue::new(MOST_WAITING) }
    }
}

impl Crowd {
    /// Whether one more of this source may begin. `weight`: how many callers stand behind the source.
    fn has_room(&self, most: u32, source: IpAddr, weight: u32) -> bool {
        most == 0 || self.calls < most || (self.calls < most.saturating_mul(2) && self.is_new(source, weight))
    }

    fn is_new(&self, source: IpAddr, weight: u32) -> bool {
        self.by_source.get(&source).is_none_or(|calls| *calls < weight)
    }
}

impl Crowds {
    /// An emergency call began.
    pub(super) fn enter(&mut self, id: LocalId, trunk: Box<str>, source: IpAddr) {
        let source = Prefix::of_source(source).addr;
        let crowd = self.by_trunk.entry(trunk.clone()).or_default();
        crowd.calls += 1;
        *crowd.by_source.entry(source).or_default() += 1;
        self.counted.insert(id, (trunk, source));
    }

    /// It is over.
    pub(super) fn leave(&mut self, id: LocalId) {
        let Some((trunk, source)) = self.counted.remove(&id) else { return };
        let Some(crowd) = self.by_trunk.get_mut(&trunk) else { return };
        crowd.calls = crowd.calls.saturating_sub(1);
        if let Some(calls) = crowd.by_source.get_mut(&source) {
            *calls -= 1;
            if *calls == 0 {
                crowd.by_source.remove(&source);
            }
        }
        if crowd.calls == 0 && crowd.line.is_empty() {
            self.by_trunk.remove(&trunk);
        }
    }

    /// Those that may go on, or wait no longer: with whether they begin.
    fn due(&mut self, now: Instant, most: impl Fn(&str) -> u32) -> Vec<(PacketKey, WaitingInvite, bool)> {
        let mut due = Vec::new();
        for (trunk, crowd) in &mut self.by_trunk {
            // What begins is counted when it has begun.
            let mut room = most(trunk).saturating_sub(crowd.calls);
            let mut kept = Vec::new();
            while let Some(packet_key) = crowd.line.pop() {
                let Some(waiting) = self.waiting.remove(&packet_key) else { continue };
                let late = now >= waiting.until;
                let begins = room > 0 || most(trunk) == 0 || (late && crowd.is_new(waiting.source, waiting.weight));
                if begins || late {
                    room = room.saturating_sub(u32::from(begins));
                    due.push((packet_key, waiting, begins));
                } else {
                    kept.push((packet_key, waiting));
                }
            }
            for (packet_key, waiting) in kept {
                crowd.line.push(waiting.source, waiting.weight, true, packet_key);
                self.waiting.insert(packet_key, waiting);
            }
        }
        due
    }
}

impl Crowds {
    /// Whether an emergency call toward this trunk may begin. If not, it waits, or was refused.
    pub(super) fn makes_room(
        &mut self,
        cx: &mut Context,
        trunk: &str,
        packet_key: PacketKey,
        path: Path,
        back: ReturnPath,
        message: &Message,
    ) -> bool {
        if self.through.take_if(|through| *through == packet_key).is_some() {
            return true;
        }
        if self.waiting.contains_key(&packet_key) {
            // A copy of one that waits.
            cx.answer_trying(back, message);
            return false;
        }
        let most = cx.config.trunk(trunk).map_or(0, |t| t.limits.max_emergency_calls);
        let source = Prefix::of_source(path.remote.ip()).addr;
        let weight = source_weight(&cx.config, path.remote.ip());
        let crowd = self.by_trunk.entry(trunk.into()).or_default();
        if crowd.has_room(most, source, weight) {
            return true;
        }
        cx.count(Counter::Limited(Limit::EmergencyWaits));
        cx.answer_trying(back, message);
        let (now, arrived) = (cx.now.mono, cx.arrived);
        let waiting = WaitingInvite { path, back, message: message.clone(), arrived, source, weight, until: now + LONGEST };
        let shed = crowd.line.push(source, weight, true, packet_key);
        self.waiting.insert(packet_key, waiting);
        if let Some(shed) = shed.and_then(|packet_key| self.waiting.remove(&packet_key)) {
            // There is no room to wait. Without a transaction: a flood must not fill their table, nor be answered with more than it brought.
            cx.count(Counter::Limited(Limit::EmergencyCrowd));
            cx.reject_stateless(shed.back, &shed.message, 503);
        }
        if !std::mem::replace(&mut self.looking, true) {
            cx.start_timer(LOOK_EVERY, TimerUser::Crowd);
        }
        false
    }

    /// Time to look who may go on: takes these out of the line, and refuses those that have waited to no end.
    pub(super) fn on_tick(&mut self, cx: &mut Context) -> Vec<(PacketKey, WaitingInvite)> {
        let config = cx.config.clone();
        let due = self.due(cx.now.mono, |trunk| config.trunk(trunk).map_or(0, |t| t.limits.max_emergency_calls));
        self.looking = !self.waiting.is_empty();
        if self.looking {
            cx.start_timer(LOOK_EVERY, TimerUser::Crowd);
        }
        let mut begin = Vec::new();
        for (packet_key, waiting, begins) in due {
            if begins {
                begin.push((packet_key, waiting));
            } else {
                cx.count(Counter::Limited(Limit::EmergencyCrowd));
                refuse_waiting(cx, waiting.back, &waiting.message, 503);
            }
        }
        begin
    }

    /// The one whose wait is over; `None`: none is put through at the moment.
    pub(super) fn let_through(&mut self, packet_key: Option<PacketKey>) {
        self.through = packet_key;
    }

    /// Takes one out of the line: its caller has given up.
    pub(super) fn leave_line(&mut self, packet_key: &PacketKey) -> Option<(ReturnPath, Message)> {
        // Its place in the line is cleared with the next look.
        self.waiting.remove(packet_key).map(|waiting| (waiting.back, waiting.message))
    }
}

/// Where an emergency call would go first: what it is counted for.
pub(super) fn crowd_of(config: &ClusterConfig, from: &str, service: Option<&str>, message: &Message) -> Option<Box<str>> {
    let uri = Uri::parse(message.request_uri()?).ok()?;
    let route = routing::route(config, &uri, service, from)?;
    routing::targets(config, route).first().map(|(trunk, _)| trunk.name.clone())
}

/// The end of an INVITE that has waited. Its sender has heard 100 and repeats nothing, so a transaction repeats this until it is acknowledged.
pub(super) fn refuse_waiting(cx: &mut Context, back: ReturnPath, invite: &Message, status: u16) {
    let Some(tx) = cx.create_server(ServerUser::Nobody, server_key(invite, &Method::Invite), true, back) else {
        return cx.reject_stateless(back, invite, status);
    };
    let tag = cx.stateless_tag(invite);
    cx.reject(tx, invite, status, &tag);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(n: u8) -> IpAddr {
        IpAddr::from([198, 51, 100, n])
    }

    #[test]
    fn a_new_source_finds_room_where_one_that_has_calls_waits() {
        let mut crowds = Crowds::default();
        let room = |crowds: &Crowds, most, source, weight| crowds.by_trunk["psap"].has_room(most, ip(source), weight);
        for id in 0..10 {
            crowds.enter(LocalId(id), "psap".into(), ip(1));
        }
        for (most, source, weight, expected) in [
            (0, 1, 1, true),
            (11, 1, 1, true),
            (10, 1, 1, false),
            (10, 2, 1, true),
            (6, 2, 1, true),
            (5, 2, 1, false),
            (10, 1, 64, true),
            (10, 1, 10, false),
        ] {
            assert_eq!(room(&crowds, most, source, weight), expected, "{most} {source} {weight}");
        }
        crowds.leave(LocalId(3));
        crowds.leave(LocalId(3));
        assert!(room(&crowds, 10, 1, 1));
        for id in 0..10 {
            crowds.leave(LocalId(id));
        }
        assert!(crowds.by_trunk.is_empty() && crowds.counted.is_empty(), "nothing is remembered");
    }
}
