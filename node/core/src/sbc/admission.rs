//! What is judged by its source before it costs anything: the access list, what is answered without state, and the source of requests
//! within a call.

use std::net::IpAddr;

use super::Sbc;
use crate::dialog::named_addresses;
use crate::ids::{CallUid, LocalId};
use crate::io::{Counter, Path, ReturnPath, Side};
use crate::policy::{AclAction, Standing, acl_of, standing};
use crate::sip::{HeaderId, Message, Method};

/// Requests a second of one source that are relayed for calls of others, or of which nothing is known yet.
const STRANGER_RATE: u32 = 20;

/// Which ordinary calls go when a node has more to do than it can (AC-44).
#[derive(Debug, Default)]
pub(super) struct Shedding {
    /// Percent, as measured last.
    pub(super) load: u8,
    /// Hundredths of a call that are still to be refused.
    due: u32,
}

impl Shedding {
    /// Whether this call is refused: of a hundred so many as the load is on its way from `at` to 100. They are spread evenly, so that
    /// the load settles in between instead of swinging from all to none. `at` 0: never.
    fn sheds(&mut self, at: u8) -> bool {
        if at == 0 || self.load < at {
            self.due = 0;
            return false;
        }
        let room = u32::from(100u8.saturating_sub(at).max(1));
        self.due += (u32::from(self.load - at) * 100 / room).min(100);
        let sheds = self.due >= 100;
        self.due -= if sheds { 100 } else { 0 };
        sheds
    }
}

impl Sbc {
    /// True when the access list says that this packet was never here. Asked before parsing, at the node whose socket read it.
    pub(super) fn is_denied(&self, path: &Path) -> bool {
        self.acl(path) == Some(AclAction::Deny)
    }

    /// True when the access list refuses a request that begins something.
    pub(super) fn is_rejected(&self, path: &Path) -> bool {
        self.acl(path) == Some(AclAction::Reject)
    }

    fn acl(&self, path: &Path) -> Option<AclAction> {
        acl_of(&self.cx.config.acl, path.role.realm(), path.remote.ip()).map(|(_, action)| action)
    }

    /// Counts the rule that denied or rejected this packet.
    pub(super) fn count_acl(&mut self, path: &Path) {
        if let Some((rule, _)) = acl_of(&self.cx.config.acl, path.role.realm(), path.remote.ip()) {
            self.cx.count(Counter::Acl(u8::try_from(rule).unwrap_or(u8::MAX)));
        }
    }

    /// The limit that a new call is over; `None`: it may begin. Emergency calls are shed last (AC-44): the only limit for them is one
    /// of their own, against a source that does nothing else.
    pub(super) fn over_limit(&mut self, trunk: &str, source: IpAddr, emergency: bool) -> Option<&'static str> {
        let (now, config) = (self.cx.now.mono, self.cx.config.clone());
        let settings = &config.settings;
        let single = !self.is_neighbour(source.to_canonical());
        if emergency {
            return (single && !self.emergency_rates.admit(now, source, settings.emergency_source_rate))
                .then_some("emergency_source_rate");
        }
        if self.shedding.sheds(settings.shed_at) {
            return Some("load");
        }
        if self.cx.tx.is_half_full() {
            return Some("transactions");
        }
        let over = |calls: u64, most: u32| calls >= u64::from(most);
        let of_trunk = config.trunk(trunk);
        let (max_calls, max_rate) = of_trunk.map_or((0, 0), |t| (t.max_calls, t.max_rate));
        let held = u64::from(self.calls.of_trunk(trunk));
        if over(self.calls.active(), settings.max_calls) {
            return Some("max_calls");
        }
        if max_calls > 0 && over(held, max_calls) {
            return Some("trunk_max_calls");
        }
        // The source first: what it is refused for is not taken from the others of its trunk.
        if single && !self.rates.admit(now, source, settings.source_rate) {
            return Some("source_rate");
        }
        (!self.trunk_rates.admit(now, trunk.into(), max_rate)).then_some("trunk_max_rate")
    }

    /// Whether this source may have one more answer that costs nothing but the answer. It takes of what the source may begin
    /// (`source_rate`); over it, silence: a sender that means well asks again. What a peer relayed was judged there. A neighbour is
    /// always answered: by its OPTIONS it judges whether we live, and one that forged its address would have us looked at as dead,
    /// while an answer no longer than the request is nothing to reflect.
    pub(super) fn may_answer(&mut self, back: &ReturnPath) -> bool {
        let (rate, source) = (self.cx.config.settings.source_rate, back.path.remote.ip().to_canonical());
        if rate == 0 || back.ingress.is_some() || self.is_neighbour(source) || self.rates.admit(self.cx.now.mono, source, rate) {
            return true;
        }
        self.cx.count(Counter::Dropped("source_rate"));
        false
    }

    /// Refuses a request without state, as long as its source may be answered.
    pub(super) fn refuse(&mut self, back: ReturnPath, request: &Message, status: u16) {
        self.refuse_with(back, request, status, &[]);
    }

    /// The same with header fields that say why. A call for help hears what is wrong with it, whatever else its source sent.
    pub(super) fn refuse_with(&mut self, back: ReturnPath, request: &Message, status: u16, fields: &[(&str, String)]) {
        let urgent = request.method() == &Method::Invite && self.is_emergency(request);
        if urgent || self.may_answer(&back) {
            self.cx.reject_with(back, request, status, fields);
        }
    }

    /// True for a request that would begin something and says that a scanner sent it: it gets no answer, hence learns nothing.
    pub(super) fn is_scanner(&self, request: &Message) -> bool {
        let scanners = &self.cx.config.settings.scanners;
        let says = |agent: &str| {
            let agent = agent.to_ascii_lowercase();
            scanners.iter().any(|s| agent.contains(&**s))
        };
        !scanners.is_empty() && request.first(HeaderId::UserAgent).is_some_and(says) && !self.is_emergency(request)
    }

    /// True for a request that another node would judge, where it comes neither from where that far end was last seen nor from its
    /// trunk's addresses, and more of the kind came from there than a far end that moved would send: what is relayed is work for
    /// two nodes, and tags can be overheard (AC-52). The owner decides about the others.
    pub(super) fn over_relay_rate(&mut self, uid: CallUid, side: Side, source: IpAddr) -> bool {
        let known = {
            let replica = self.cx.replica.read().unwrap_or_else(std::sync::PoisonError::into_inner);
            let leg = replica.call(uid).and_then(|entry| match side {
                Side::Caller => entry.caller(),
                Side::Callee => entry.callee(),
            });
            leg.is_some_and(|leg| {
                let seen = leg.path.as_ref().and_then(|path| path.remote.parse::<std::net::SocketAddr>().ok());
                let named = named_addresses(&leg.remote_target, leg.route_set.first().map(String::as_str));
                seen.is_some_and(|seen| standing(self.cx.config.trunk(&leg.trunk), seen.ip(), &named, source) == Standing::Known)
            })
        };
        !known && !self.relay_rates.admit(self.cx.now.mono, source, STRANGER_RATE)
    }

    /// Whether a request of this source may act on this leg (AC-52). The source is the original one, also of a relayed request.
    pub(super) fn source_standing(&self, id: LocalId, side: Side, source: IpAddr, request: &Message) -> Standing {
        let Some(call) = self.calls.get(id) else { return Standing::Known };
        let leg = call.leg(side);
        let trunk = self.cx.config.trunks.iter().find(|t| t.name == leg.trunk);
        let dialog = call.dialog_for(side, request);
        let named = named_addresses(&dialog.remote_target, dialog.route_set.first().map(|route| &**route));
        standing(trunk, leg.path.remote.ip(), &named, source)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, RwLock};

    use super::*;
    use crate::ctx::LocalConfig;
    use crate::ids::{Incarnation, NodeId};
    use crate::io::{Realm, Transport};
    use crate::replica::Replica;
    use crate::time::Now;
    use crate::token::ClusterKey;
    use crate::transaction::{ServerKey, ServerUser};

    /// Of a hundred calls.
    fn shed(load: u8, at: u8) -> usize {
        let mut shedding = Shedding { load, due: 0 };
        (0..100).filter(|_| shedding.sheds(at)).count()
    }

    /// A flood of ordinary calls that are never ended must not take the room in which an emergency call begins and others end.
    #[test]
    fn ordinary_calls_leave_half_of_the_transactions() {
        let at = |n: u8| crate::io::Addresses::from(IpAddr::from([192, 0, 2, n]));
        let local = LocalConfig {
            node: NodeId(1),
            incarnation: Incarnation(1),
            name: "n1".into(),
            anycast: at(1),
            unicast: at(2),
            core: at(3),
            port: 5060,
            tls_port: 5061,
            anchored: false,
        };
        let (now, source) = (Now::default(), IpAddr::from([198, 51, 100, 1]));
        let replica = Arc::new(RwLock::new(Replica::new()));
        let mut sbc = Sbc::new(now, local, ClusterKey::new(&[7; 32], None), Arc::default(), replica);
        let path = sbc.cx.path_to(Realm::External, Transport::Udp, (source, 5060).into());
        assert_eq!(sbc.over_limit("", source, false), None);
        let mut n = 0u32;
        while !sbc.cx.tx.is_half_full() {
            n += 1;
            let key = ServerKey { branch: n.to_string().into(), sent_by: "".into(), method: "INVITE".into() };
            sbc.cx.create_server(ServerUser::Nobody, key, true, ReturnPath::here(path)).expect("there is room");
        }
        assert_eq!(sbc.over_limit("", source, false), Some("transactions"));
        assert_eq!(sbc.over_limit("", source, true), None, "an emergency call begins");
        assert!(!sbc.cx.tx.is_full());
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
        let pattern: Vec<bool> = (0..6).map(|_| shedding.sheds(90)).collect();
        assert_eq!(pattern, [false, true, false, true, false, true], "evenly");
    }
}
