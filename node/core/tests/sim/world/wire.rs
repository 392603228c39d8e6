//! Packets between nodes and far ends, by datagram and connection, and the links of nodes.

use super::*;

impl World {
    pub(super) fn deliver(&mut self, from: SocketAddr, to: SocketAddr, bytes: Bytes) {
        if let Some(i) = self.phones.iter().position(|p| p.addr == to) {
            let now = self.now;
            self.phones[i].on_packet(now, from, &bytes);
            self.flush_phone(i);
            return;
        }
        // Port 5061 is TLS, of which the simulation knows no more than that.
        let transport = if to.port() == 5061 { Transport::Tls } else { Transport::Udp };
        let (asked, to) = (to, SocketAddr::new(to.ip(), 5060));
        let found = if ANYCAST.map(addr).contains(&to) {
            let stray = self.rng.per_mille(self.net.stray);
            let at = if stray { usize::try_from(self.rng.next() % self.nodes.len() as u64).expect("few") } else { self.route };
            Some((at, AddressRole::Anycast))
        } else {
            self.nodes.iter().enumerate().find_map(|(i, n)| {
                let role = |own: [SocketAddr; 2], role| own.contains(&to).then_some((i, role));
                role([n.unicast, n.unicast6], AddressRole::Unicast).or(role([n.core, n.core6], AddressRole::Core))
            })
        };
        let Some((i, role)) = found.filter(|(i, _)| !self.nodes[*i].dead) else { return };
        self.say(|| format!("    n{i} {role:?} reads {}", first_line(&bytes)));
        if role == AddressRole::Anycast && bytes.starts_with(b"INVITE ") {
            self.copy_elsewhere(i, from, asked, &bytes);
        }
        let path = Path { role, transport, local: asked, remote: from, flow: None };
        self.input(i, Input::Received(Received { path, payload: bytes, at: self.time().mono }));
    }

    /// An INVITE that begins a call, and has reached this node, reaches another one as well.
    fn copy_elsewhere(&mut self, node: usize, from: SocketAddr, to: SocketAddr, bytes: &Bytes) {
        let Some(delay) = self.copies else { return };
        if Message::parse(bytes.clone()).is_ok_and(|m| m.to_tag().is_none()) {
            let at = self.delay(delay);
            self.push(at, Event::Copy { read_by: node, from, to, bytes: bytes.clone() });
        }
    }

    /// The copy is there. It reaches the other part of a cluster that is cut in two; of one that is whole any other node.
    pub(super) fn copied(&mut self, read_by: usize, from: SocketAddr, to: SocketAddr, bytes: Bytes) {
        let takes_part = |n: &Node| !n.dead && n.frozen <= self.now;
        let others = || (0..self.nodes.len()).filter(|n| *n != read_by && takes_part(&self.nodes[*n]));
        let there: Vec<usize> = others().filter(|n| self.nodes[*n].cut_log != self.nodes[read_by].cut_log).collect();
        let nodes: Vec<usize> = if there.is_empty() { others().collect() } else { there };
        if nodes.is_empty() {
            return;
        }
        let i = self.rng.pick(&nodes);
        self.say(|| format!("    n{i} reads a copy of {}", first_line(&bytes)));
        let path = Path { role: AddressRole::Anycast, transport: Transport::Udp, local: to, remote: from, flow: None };
        self.input(i, Input::Received(Received { path, payload: bytes, at: self.time().mono }));
    }

    pub(super) fn transmit(&mut self, i: usize, transmit: Transmit) {
        let (from, to, bytes) = (transmit.path.local, transmit.path.remote, transmit.payload.clone());
        let n = &self.nodes[i];
        let own = [addr(ANYCAST[0]), addr(ANYCAST[1]), n.unicast, n.unicast6, n.core, n.core6];
        // TLS has a port of its own.
        let is_own =
            own.contains(&from) || (transmit.path.transport == Transport::Tls && own.iter().any(|o| o.ip() == from.ip()));
        if !is_own || from.is_ipv4() != to.is_ipv4() {
            self.violations.push(format!("node {i} sends from {from} to {to}, which is not its address, or of another family"));
        }
        let ours = [(Realm::External, n.unicast), (Realm::External, n.unicast6), (Realm::Core, n.core), (Realm::Core, n.core6)];
        media_where_it_is_open::scan(&mut self.violations, &ours.map(|(realm, at)| (at.ip(), realm)), &bytes);
        self.scan_for_leaks(&bytes);
        self.note_answer(i, to, &bytes);
        if self.unreachable == Some(to) {
            return self.push(self.now + 1, Event::SendFailed { node: i, id: transmit.id });
        }
        if transmit.path.transport.is_reliable() {
            return self.send_stream(i, Transmit { payload: bytes, ..transmit });
        }
        self.wire(Some(i), from, to, bytes);
    }

    /// What the transport does: the connection that is named, for a response else one to where its sender listens.
    pub(super) fn send_stream(&mut self, i: usize, transmit: Transmit) {
        let Transmit { path, reopen, tls_name, payload: bytes, id } = transmit;
        let open = path.flow.filter(|flow| self.connections.get(&(i, *flow)) == Some(&path.remote));
        let response = bytes.starts_with(b"SIP/2.0 ");
        let to = reopen.filter(|_| open.is_none() && response).unwrap_or(path.remote);
        let fails = path.flow.is_some() && open.is_none() && !response;
        self.say(|| format!("{} => {to} {open:?} {}", path.local, first_line(&bytes)));
        if fails || (self.congested && open.is_some() && !response) || (open.is_none() && self.refusing.contains(&to)) {
            if id != SendId(0) {
                self.push(self.now + 1, Event::SendFailed { node: i, id });
            }
            return;
        }
        let stream = Some((path.transport, open, tls_name));
        if let Some(sent) = &mut self.sent {
            sent.push(Sent { from: path.local, to, bytes: bytes.clone(), node: Some(i), stream });
        }
        let at = self.delay(self.net.delay);
        self.push(at, Event::Packet { from: path.local, to, bytes });
    }

    pub(super) fn scan_for_leaks(&mut self, bytes: &Bytes) {
        for anycast in ANYCAST.map(addr) {
            no_anycast_leak::scan(&mut self.violations, anycast.ip(), bytes);
        }
    }

    pub(super) fn flush_phone(&mut self, i: usize) {
        let from = self.phones[i].addr;
        for (to, bytes) in std::mem::take(&mut self.phones[i].out) {
            self.wire(None, from, to, bytes);
        }
        self.arm_phone(i);
    }

    pub(super) fn wire(&mut self, node: Option<usize>, from: SocketAddr, to: SocketAddr, bytes: Bytes) {
        self.say(|| format!("{from} -> {to} {}", first_line(&bytes)));
        if let Some(sent) = &mut self.sent {
            sent.push(Sent { from, to, bytes: bytes.clone(), node, stream: None });
        }
        let of_a_node = |at: SocketAddr| self.nodes.iter().any(|n| [n.unicast, n.unicast6, n.core, n.core6].contains(&at));
        if self.sip_apart && of_a_node(from) && of_a_node(to) {
            return;
        }
        let copies = if self.rng.per_mille(self.net.duplicate) { 2 } else { 1 };
        for _ in 0..copies {
            if self.rng.per_mille(self.net.loss) {
                self.say(|| "    lost".to_owned());
                continue;
            }
            let mut at = self.delay(self.net.delay);
            if self.net.late.0 > 0 && self.rng.per_mille(self.net.late.0) {
                at += self.net.late.1;
            }
            self.push(at, Event::Packet { from, to, bytes: bytes.clone() });
        }
    }

    pub(super) fn linked(&self, i: usize, j: usize) -> bool {
        let up = |n: &Node| !n.dead && !n.cut_links && self.now >= n.links_at;
        i == j || up(&self.nodes[i]) && up(&self.nodes[j])
    }
}
