//! The log, and what nodes know of each other: quorum, lease, views, entries applied.

use super::*;

impl World {
    pub(super) fn has_quorum(&self, node: usize) -> bool {
        let part = |n: &&Node| !n.cut_log && !n.dead;
        let connected = if part(&&self.nodes[node]) { self.nodes.iter().filter(part).count() } else { 1 };
        connected * 2 > self.nodes.len() && !self.no_quorum
    }

    pub(super) fn renew(&mut self, i: usize) {
        if self.has_quorum(i) && !self.nodes[i].dead {
            self.nodes[i].lease_until = self.now + 2000 * MS;
        }
        self.send_view(i);
        self.watch_lives(i);
        self.push(self.now + LEASE_TICK, Event::Lease(i));
    }

    /// The log as this version writes it, with all nodes in it.
    pub(crate) fn raise_level(&mut self) {
        self.raise_level_to(LEVEL);
    }

    /// The log as a version wrote it that knew formats up to this level, with all nodes in it.
    pub(crate) fn raise_level_to(&mut self, level: u32) {
        let nodes = 1..=u32::try_from(self.nodes.len()).expect("few nodes");
        let up = |node| store_pb::command::Kind::NodeUp(store_pb::NodeUp { node, incarnation: 1, ..Default::default() });
        let level = store_pb::command::Kind::Level(store_pb::Level { level });
        let level = store_pb::Command { unix_ms: self.unix_ms(), kind: Some(level) };
        let mut commands = vec![level];
        commands.extend(nodes.map(|node| store_pb::Command { unix_ms: self.unix_ms(), kind: Some(up(node)) }));
        // Not by `commit`, which throws dice: a seed's world is the same with it, but for the log.
        self.log.push(Arc::new(store_pb::Entry { version: ENTRY_VERSION, proposer: 1, incarnation: 1, commands }));
        for i in 0..self.nodes.len() {
            self.apply(i);
        }
    }

    /// Of the nodes that have the log the first one leads: it declares down what has neither links nor the log for too long. A node that
    /// is not dead and finds itself down says so.
    fn watch_lives(&mut self, i: usize) {
        if self.nodes[i].dead || !self.has_quorum(i) {
            return;
        }
        let (level, lives) = {
            let replica = self.nodes[i].replica.read().expect("one thread");
            let of = |j: usize| {
                let id = NodeId(u16::try_from(j + 1).expect("few nodes"));
                (replica.node_incarnation(id), replica.down_since(id).is_some())
            };
            (replica.level(), (0..self.nodes.len()).map(of).collect::<Vec<_>>())
        };
        if level < OWNER_LOST_LEVEL {
            return;
        }
        let life = self.nodes[i].life;
        let unix_ms = self.unix_ms();
        if lives[i] == (Some(Incarnation(life)), true) {
            let back = store_pb::NodeBack { node: u32::try_from(i + 1).expect("few nodes"), incarnation: life };
            let kind = Some(store_pb::command::Kind::NodeBack(back));
            self.commit(i, life, ProposalId(0), store_pb::Command { unix_ms, kind });
        }
        if (0..i).any(|j| !self.nodes[j].dead && !self.nodes[j].cut_log) {
            return;
        }
        for j in (0..self.nodes.len()).filter(|j| *j != i) {
            let silent = self.sees(i, j).1 && (self.nodes[j].dead || self.nodes[j].cut_log);
            if let (true, (Some(Incarnation(incarnation)), false)) = (silent, lives[j]) {
                let down = store_pb::NodeDown { node: u32::try_from(j + 1).expect("few nodes"), incarnation, unix_ms: 0 };
                let kind = Some(store_pb::command::Kind::NodeDown(down));
                self.commit(i, life, ProposalId(0), store_pb::Command { unix_ms, kind });
            }
        }
    }

    pub(super) fn send_views(&mut self) {
        for i in 0..self.nodes.len() {
            self.send_view(i);
        }
    }

    /// Whether `j` is reachable, or down, for `i`.
    pub(super) fn sees(&mut self, i: usize, j: usize) -> (bool, bool) {
        if self.linked(i, j) {
            self.nodes[i].unheard[j] = None;
            return (true, false);
        }
        let since = *self.nodes[i].unheard[j].get_or_insert(self.now);
        let down = self.now - since > DOWN_AFTER;
        self.was_down |= down;
        (false, down)
    }

    pub(super) fn send_view(&mut self, i: usize) {
        let seen: Vec<(bool, bool)> = (0..self.nodes.len()).map(|j| self.sees(i, j)).collect();
        let view = View {
            nodes: (0..self.nodes.len())
                .map(|j| NodeView {
                    id: NodeId(u16::try_from(j + 1).expect("few nodes")),
                    name: format!("n{j}").into(),
                    unicast: both(self.nodes[j].unicast, self.nodes[j].unicast6),
                    core: both(self.nodes[j].core, self.nodes[j].core6),
                    alive: seen[j].0,
                    down: seen[j].1,
                })
                .collect(),
            leader: Some(NodeId(1)),
            lease_until: Instant::from_micros(self.nodes[i].lease_until),
            caught_up: self.nodes[i].applied == self.log.len()
                || self.has_quorum(i) && self.nodes[i].applied + 1 >= self.log.len(),
            announced: self.route == i,
            draining: false,
            own: NodeState {
                healthy: true,
                quorum: self.now < self.nodes[i].lease_until,
                wants: true,
                announces: self.route == i,
                ..NodeState::default()
            },
        };
        self.input(i, Input::ViewChanged(view));
    }

    pub(super) fn commit(&mut self, node: usize, life: u32, id: ProposalId, command: store_pb::Command) {
        // What a node proposed before it died may be committed by the others.
        let at = if self.nodes[node].dead { self.alive_from(node) } else { node };
        if !self.has_quorum(at) {
            self.push(self.now + 2000 * MS, Event::ProposeFailed { node, life, id });
            return;
        }
        let entry = store_pb::Entry {
            version: ENTRY_VERSION,
            proposer: u32::try_from(node + 1).expect("few nodes"),
            incarnation: life,
            commands: vec![command],
        };
        self.log.push(Arc::new(entry));
        if self.rng.per_mille(self.net.false_failure) {
            self.push(self.now + 2000 * MS, Event::ProposeFailed { node, life, id });
        }
        for i in 0..self.nodes.len() {
            let at = self.delay(self.net.apply);
            self.push(at, Event::Apply(i));
        }
    }

    /// The leader's clock goes on for longer than the log remembers calls that are over.
    pub(crate) fn outlive(&mut self) {
        for _ in 0..8 {
            self.run_until(self.now / MS + 10_000);
            self.commit_all(store_pb::command::Kind::Tick(store_pb::Tick {}));
        }
    }

    /// What the control plane of the first node proposes: committed and applied everywhere at once.
    pub(crate) fn commit_all(&mut self, kind: store_pb::command::Kind) {
        let unix_ms = self.unix_ms();
        self.commit(0, 1, ProposalId(0), store_pb::Command { unix_ms, kind: Some(kind) });
        for i in 0..self.nodes.len() {
            self.apply(i);
        }
    }

    pub(super) fn apply(&mut self, i: usize) {
        while !self.nodes[i].cut_log && !self.nodes[i].dead && self.nodes[i].applied < self.log.len() {
            let entry = self.log[self.nodes[i].applied].clone();
            self.nodes[i].applied += 1;
            let index = self.nodes[i].applied as u64;
            self.input(i, Input::Applied { index, entry });
        }
    }
}
