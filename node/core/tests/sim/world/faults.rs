//! What goes wrong: nodes that die and start again, links and log cut apart.

use super::*;

impl World {
    pub(super) fn fault(&mut self, fault: Fault) {
        self.say(|| format!("*** {fault:?}"));
        match fault {
            Fault::Flip(i) => self.route = self.alive_from(i),
            Fault::Cut(i) => {
                self.was_cut = true;
                (self.nodes[i].cut_links, self.nodes[i].cut_log) = (true, true);
            }
            Fault::CutLinks(i) => (self.nodes[i].cut_links, self.was_cut) = (true, true),
            Fault::CutLog(i) => (self.nodes[i].cut_log, self.was_cut) = (true, true),
            Fault::Heal(i) => (self.nodes[i].cut_links, self.nodes[i].cut_log) = (false, false),
            Fault::HealLinks(i) => self.nodes[i].cut_links = false,
            Fault::HealLog(i) => self.nodes[i].cut_log = false,
            Fault::Leaderless => self.no_quorum = true,
            Fault::Elected => self.no_quorum = false,
            Fault::Kill(i) => self.kill(i),
            Fault::Restart(i) => self.restart(i),
        }
        if matches!(fault, Fault::Heal(_) | Fault::HealLog(_)) {
            for i in 0..self.nodes.len() {
                // One that is stopped finds it when it goes on.
                if self.nodes[i].frozen > self.now {
                    self.push(self.now, Event::Apply(i));
                } else {
                    self.apply(i);
                }
            }
        }
        self.note_apart();
        self.send_views();
    }

    /// A node died: its calls are nobody's, and phones that talk through it talk to a wall.
    pub(super) fn kill(&mut self, i: usize) {
        self.lose_answers(i);
        self.nodes[i].dead = true;
        self.killed_at.push(self.now);
        self.nodes[i].timer = None;
        self.route = self.alive_from(self.route);
        for phone in &self.phones {
            let open = |leg: usize| phone.clients.iter().any(|tx| tx.leg == leg && tx.finals.is_empty());
            let touched = phone.legs.iter().enumerate().filter(|(n, leg)| leg.state != LegState::Ended || open(*n));
            self.victims.extend(touched.map(|(_, leg)| leg.call));
        }
        let unknown = self.phones[0].legs.iter().filter(|leg| !self.is_claimed(&leg.call_id));
        let unknown: Vec<usize> = unknown.map(|leg| leg.call).collect();
        self.unrecorded.extend(unknown);
    }

    /// The log has a claim of the call.
    pub(super) fn is_claimed(&self, call_id: &str) -> bool {
        self.log.iter().flat_map(|entry| &entry.commands).any(|command| match &command.kind {
            Some(store_pb::command::Kind::Claim(c)) => c.parties.as_ref().is_some_and(|p| p.call_id == call_id),
            _ => false,
        })
    }

    /// The next node from `i` on that lives.
    pub(super) fn alive_from(&self, i: usize) -> usize {
        let count = self.nodes.len();
        (0..count).map(|n| (i + n) % count).find(|n| !self.nodes[*n].dead).unwrap_or(i)
    }

    pub(super) fn restart(&mut self, i: usize) {
        if !self.nodes[i].dead {
            return;
        }
        // A node without the log has what it had.
        let known = if self.nodes[i].cut_log { self.nodes[i].applied } else { self.log.len() };
        let mut replica = Replica::new();
        for (index, entry) in (1..).zip(&self.log[..known]) {
            replica.apply(index, entry).expect("it was applied before");
        }
        let replica = Arc::new(RwLock::new(replica));
        let local = LocalConfig { incarnation: Incarnation(self.nodes[i].life + 1), ..self.nodes[i].sbc.local().clone() };
        let sbc = Sbc::new(self.time(), local, self.key.clone(), Arc::clone(&self.config), Arc::clone(&replica));
        let (applied, up) = (known, self.now + 300 * MS);
        let node = &mut self.nodes[i];
        (node.sbc, node.replica, node.applied, node.early) = (sbc, replica, applied, EarlyCalls::default());
        (node.dead, node.lease_until, node.links_at, node.timer) = (false, 0, up, None);
        node.life += 1;
        node.told.clear();
        node.unheard = vec![None; node.unheard.len()];
        let life = node.life;
        self.push(up, Event::Started { node: i, life });
    }

    /// Links are up, and the log is told of the start, as often as it takes.
    pub(super) fn started(&mut self, node: usize, life: u32) {
        if self.nodes[node].life != life || self.nodes[node].dead {
            return;
        }
        self.note_apart();
        self.send_views();
        if !self.has_quorum(node) {
            self.push(self.now + 1000 * MS, Event::Started { node, life });
            return;
        }
        let up = store_pb::NodeUp { node: u32::try_from(node + 1).expect("few nodes"), incarnation: life, ..Default::default() };
        let kind = Some(store_pb::command::Kind::NodeUp(up));
        self.commit(node, life, ProposalId(0), store_pb::Command { unix_ms: self.unix_ms(), kind });
    }
}
