//! How much one source, one trunk and all together may begin, and what is answered without state. Emergency calls are shed last (AC-44): the only
//! limit for them is one of their own, against a source that does nothing else.

use std::net::{IpAddr, SocketAddr};

use super::source::is_neighbour;
use super::{Entrance, Refusal, Why};
use crate::call::Context;
use crate::dialog::named_addresses;
use crate::ids::CallUid;
use crate::io::{Counter, DropReason, Limit, ReturnPath, Side};
use crate::policy::{Rates, SourceRates, SourceStanding, standing};
use crate::time::Instant;

/// Requests a second of one source that are relayed for calls of others, or of which nothing is known yet.
const STRANGER_RATE: u32 = 20;

/// Which ordinary calls go when a node has more to do than it can (AC-44).
#[derive(Debug, Default)]
struct Shedding {
    /// Percent, as measured last.
    load: u8,
    /// Hundredths of a call that are still to be refused.
    due: u32,
}

impl Shedding {
    /// What is due with one call more: of a hundred so many are refused as the load is on its way from `at` to 100. They are spread evenly, so
    /// that the load settles in between instead of swinging from all to none. `at` 0: never.
    fn due(&self, at: u8) -> u32 {
        if at == 0 || self.load < at {
            return 0;
        }
        let room = u32::from(100u8.saturating_sub(at).max(1));
        self.due + (u32::from(self.load - at) * 100 / room).min(100)
    }

    /// Whether the next call is refused.
    fn sheds(&self, at: u8) -> bool {
        self.due(at) >= 100
    }

    /// A call has come.
    fn take(&mut self, at: u8) {
        let due = self.due(at);
        self.due = if due >= 100 { due - 100 } else { due };
    }
}

/// What has been begun lately, and how busy the node is.
#[derive(Debug, Default)]
pub(in crate::sbc) struct RateLimits {
    rates: SourceRates,
    emergency_rates: SourceRates,
    /// Requests of strangers that go to other nodes.
    relay_rates: SourceRates,
    trunk_rates: Rates<Box<str>>,
    shedding: Shedding,
}

/// What looking whether one more may begin takes of the limits.
#[derive(Debug)]
pub(in crate::sbc) struct Taken {
    source: IpAddr,
    trunk: Box<str>,
    emergency: bool,
    /// The limit that it is over.
    over: Option<Limit>,
}

/// The limit that one more would be over.
pub(super) fn over_limit(at: &Entrance<'_>) -> Option<Refusal> {
    let (source, trunk, cx) = (at.source()?, at.trunk()?, at.sights.cx);
    let (limits, settings) = (&at.sights.gate.limits, &cx.config.settings);
    let (now, single) = (cx.now.mono, !is_neighbour(&cx.config, source.to_canonical()));
    let over = |calls: u64, most: u32| calls >= u64::from(most);
    let limit = if at.is_emergency() {
        let over = single && !limits.emergency_rates.has_room(now, source, settings.emergency_source_rate);
        return over.then(|| Why::Limit(Limit::EmergencySourceRate).into());
    } else if limits.shedding.sheds(settings.shed_at) {
        Limit::Load
    } else if cx.tx.is_half_full() {
        Limit::Transactions
    } else if over(at.sights.calls.active(), settings.max_calls) {
        Limit::MaxCalls
    } else if trunk.limits.max_calls > 0 && over(at.sights.calls.of_trunk(&trunk.name).into(), trunk.limits.max_calls) {
        Limit::TrunkMaxCalls
    } else if single && !limits.rates.has_room(now, source, settings.source_rate) {
        // The source first: what it is refused for is not taken from the others of its trunk.
        Limit::SourceRate
    } else if !limits.trunk_rates.has_room(now, &trunk.name, trunk.limits.max_rate) {
        Limit::TrunkMaxRate
    } else {
        return None;
    };
    Some(Why::Limit(limit).into())
}

impl Entrance<'_> {
    /// What it takes of the limits to have been looked at. `refused`: what came of it.
    pub(super) fn taken(&self, refused: Option<&Refusal>) -> Option<Taken> {
        let over = refused.and_then(|refusal| match refusal.why {
            Why::Limit(limit) => Some(limit),
            _ => None,
        });
        Some(Taken { source: self.source()?, trunk: self.trunk()?.name.clone(), emergency: self.is_emergency(), over })
    }
}

impl RateLimits {
    /// How busy the node is, in percent.
    pub(in crate::sbc) fn load(&self) -> u8 {
        self.shedding.load
    }

    /// It was measured.
    pub(in crate::sbc) fn on_load(&mut self, percent: u8) {
        self.shedding.load = percent;
    }

    /// Forgets who was silent for long.
    pub(super) fn sweep(&mut self, now: Instant) {
        self.rates.sweep(now);
        self.emergency_rates.sweep(now);
        self.relay_rates.sweep(now);
        self.trunk_rates.sweep(now);
    }

    /// One more has begun, or was refused for a limit: takes what it takes of each that was reached.
    pub(in crate::sbc) fn take(&mut self, cx: &Context, taken: Taken) {
        let (now, settings) = (cx.now.mono, &cx.config.settings);
        let Taken { source, trunk, emergency, over } = taken;
        let single = !is_neighbour(&cx.config, source.to_canonical());
        if emergency {
            _ = single && self.emergency_rates.admit(now, source, settings.emergency_source_rate);
        } else {
            self.shedding.take(settings.shed_at);
            if matches!(over, None | Some(Limit::TrunkMaxRate | Limit::SourceRate)) && single {
                self.rates.admit(now, source, settings.source_rate);
            }
            if matches!(over, None | Some(Limit::TrunkMaxRate)) {
                let rate = cx.config.trunk(&trunk).map_or(0, |t| t.limits.max_rate);
                self.trunk_rates.admit(now, trunk, rate);
            }
        }
    }

    /// Whether this source may have one more answer that costs nothing but the answer. It takes of what the source may begin
    /// (`source_rate`); over it, silence: a sender that means well asks again. What a peer relayed was judged there. A neighbour is
    /// always answered: by its OPTIONS it judges whether we live, and one that forged its address would have us looked at as dead,
    /// while an answer no longer than the request is nothing to reflect.
    pub(in crate::sbc) fn may_answer(&mut self, cx: &mut Context, back: &ReturnPath) -> bool {
        let (rate, source) = (cx.config.settings.source_rate, back.path.remote.ip().to_canonical());
        if rate == 0 || back.ingress.is_some() || is_neighbour(&cx.config, source) || self.rates.admit(cx.now.mono, source, rate)
        {
            return true;
        }
        cx.count(Counter::Dropped(DropReason::SourceRate));
        false
    }

    /// True for a request that another node would judge, where it comes neither from where that far end was last seen nor from its
    /// trunk's addresses, and more of the kind came from there than a far end that moved would send: what is relayed is work for
    /// two nodes, and tags can be overheard (AC-52). The owner decides about the others.
    pub(in crate::sbc) fn over_relay_rate(&mut self, cx: &Context, uid: CallUid, side: Side, source: IpAddr) -> bool {
        !is_known(cx, uid, side, source) && !self.relay_rates.admit(cx.now.mono, source, STRANGER_RATE)
    }
}

/// The source is the far end of that leg, by what the log has of the call.
fn is_known(cx: &Context, uid: CallUid, side: Side, source: IpAddr) -> bool {
    let replica = cx.replica();
    let leg = replica.call(uid).and_then(|entry| match side {
        Side::Caller => entry.caller(),
        Side::Callee => entry.callee(),
    });
    leg.is_some_and(|leg| {
        let seen = leg.path.as_ref().and_then(|path| path.remote.parse::<SocketAddr>().ok());
        let named = named_addresses(&leg.remote_target, leg.route_set.first().map(String::as_str));
        seen.is_some_and(|seen| standing(cx.config.trunk(&leg.trunk), seen.ip(), &named, source) == SourceStanding::Known)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Of a hundred calls.
    fn shed(load: u8, at: u8) -> usize {
        let mut shedding = Shedding { load, due: 0 };
        (0..100).filter(|_| next(&mut shedding, at)).count()
    }

    fn next(shedding: &mut Shedding, at: u8) -> bool {
        let sheds = shedding.sheds(at);
        shedding.take(at);
        sheds
    }

    #[test]
    fn more_are_refused_the_busier_it_is() {
        for (load, at, refused) in [
            (0, 90, 0),
            (89, 90, 0),
            (90, 90, 0),
            (91, 90, 10),
            (95, 90, 50),
            (100, 90, 100),
            (100, 0, 0),
            (99, 99, 0),
            (100, 99, 100),
        ] {
            assert_eq!(shed(load, at), refused, "{load} {at}");
        }
        let mut shedding = Shedding { load: 95, due: 0 };
        let pattern: Vec<bool> = (0..6).map(|_| next(&mut shedding, 90)).collect();
        assert_eq!(pattern, [false, true, false, true, false, true], "evenly");
    }
}
