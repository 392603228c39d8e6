//! The node's core as one value: inputs in, outputs out.
//!
//! `handle_input` never waits and never fails; what it decided is polled until there is nothing left. The output of
//! `poll_timeout` may change with every input.

mod applied;
mod calls;
mod cancel;
mod commands;
mod crowd;
mod doubt;
mod explain;
mod gate;
mod held_invites;
mod initial;
mod memory;
mod options;
mod outcome;
mod place;
mod receive;
mod refuse;
mod relay;
mod send_for;
mod standalone;
mod takeover;
mod urgency;
mod whose;

use std::sync::{Arc, RwLock};
use std::time::Duration;

use crate::call::{Call, CallTimer, ClaimEvent, Context, Lane, TimerUser};
use crate::farewell::Farewells;
use crate::ids::{CallUid, LocalId, MediaId, NodeId, PacketKey};
use crate::io::{Input, NodeView, Output, View};
use crate::local::LocalConfig;
use crate::message::Messages;
use crate::neighbours::Neighbours;
use crate::policy::ClusterConfig;
use crate::probe::Probes;
use crate::replica::Replica;
use crate::subscription::Subscriptions;
use crate::time::{Instant, Now};
use crate::token::ClusterKey;
use crate::transaction::TxOutput;

pub use urgency::Urgency;

use calls::Calls;
use cancel::Holds;
use memory::Recent;

/// Timers of calls that fire at one input, of each lane: what comes in meanwhile may be what the next ones wait for, and a thousand of them
/// at once would keep an emergency call's answer waiting for as long.
const TIMERS_AT_ONCE: usize = 64;
/// The same of transactions: cheaper ones, and more of them, for a message that comes in sets several.
const TRANSACTION_TIMERS_AT_ONCE: usize = 256;
/// How often bounded memories are swept.
const SWEEP_EVERY: Duration = Duration::from_secs(10);

/// One node's core.
pub struct Sbc {
    cx: Context,
    calls: Calls,
    holds: Holds,
    held_invites: held_invites::HeldInvites,
    /// CANCELs that came before their INVITE (AC-07).
    tombstones: Recent<PacketKey>,
    redirects: relay::RedirectedOnce,
    gate: gate::Gate,
    /// Emergency calls by the trunk that they go to.
    crowds: crowd::Crowds,
    doubted: doubt::Doubted,
    retention: applied::Retention,
    messages: Messages,
    subscriptions: Subscriptions,
    farewells: Farewells,
    takeovers: takeover::Takeovers,
    probes: Probes,
    neighbours: Neighbours,
}

impl Sbc {
    /// A core that knows nobody yet: hand it a view and a configuration. `now` is the origin of its timers.
    pub fn new(now: Now, local: LocalConfig, key: ClusterKey, config: Arc<ClusterConfig>, replica: Arc<RwLock<Replica>>) -> Sbc {
        let mut cx = Context::new(now, local, key, config, replica);
        cx.start_timer(SWEEP_EVERY, TimerUser::Sweep);
        let mut sbc = Sbc {
            cx,
            calls: Calls::default(),
            holds: Holds::default(),
            held_invites: Default::default(),
            tombstones: Recent::default(),
            redirects: Default::default(),
            gate: Default::default(),
            crowds: Default::default(),
            doubted: Default::default(),
            retention: Default::default(),
            messages: Default::default(),
            subscriptions: Default::default(),
            farewells: Default::default(),
            takeovers: Default::default(),
            probes: Default::default(),
            neighbours: Default::default(),
        };
        sbc.probes.plan(&mut sbc.cx);
        sbc.gate.bans.read(&sbc.cx);
        sbc
    }

    /// Takes one input, with the time it happened at. Time never goes back.
    pub fn handle_input(&mut self, now: Now, input: Input) {
        (self.cx.now, self.cx.arrived) = (now, now.mono);
        // Timers fire by an input of their own: what has come in already, and may be what a timer waits for, is dealt with before.
        let timeout = matches!(input, Input::Timeout);
        match input {
            Input::Received(received) => {
                received.path.flow.into_iter().for_each(|flow| self.cx.flow_opened(flow));
                self.cx.arrived = received.at.min(now.mono);
                self.on_message(received.path, None, received.payload);
            }
            Input::Peer { from, message } => self.on_peer(from, message),
            Input::Resolved { id, result } => {
                if let Some(user) = self.cx.resolved(id) {
                    self.on_resolved(user, id, result);
                }
            }
            Input::Media(event) => self.on_media(&event),
            Input::Applied { index, entry } => self.on_applied(index, &entry),
            Input::StateReplaced => self.on_state_replaced(),
            Input::ProposeFailed { id } => {
                let id = LocalId(id.0);
                self.with_call(id, |call, cx| {
                    call.records.journal.on_failed(cx);
                    call.tell_claim(cx, ClaimEvent::ProposeFailed)
                });
                self.calls.with_unrecorded(&mut self.cx, id, |ended, cx| ended.journal.on_failed(cx));
            }
            Input::ViewChanged(view) => self.on_view(view),
            Input::SendFailed { id, reason } => send_for::on_send_failed(&mut self.cx, id, reason),
            Input::FlowProved { flow, names } => self.gate.on_proved(flow, names),
            Input::FlowClosed(flow) => {
                self.cx.flow_closed(flow);
                self.gate.on_closed(flow);
            }
            Input::Reconfigured(config) => {
                self.cx.config = config;
                self.probes.plan(&mut self.cx);
            }
            Input::Command { id, command } => self.on_command(id, command),
            Input::Load(percent) => self.gate.limits.on_load(percent),
            Input::Timeout => {}
        }
        self.cx.arrived = now.mono;
        if timeout {
            self.fire_timers();
        }
        self.drain_transactions();
        self.calls.file(&mut self.cx);
    }

    fn on_view(&mut self, view: View) {
        let down = |view: &View| -> Vec<NodeId> { view.nodes.iter().filter(|n| n.down).map(|n| n.id).collect() };
        let before = down(&self.cx.view);
        let gone: Vec<NodeId> = down(&view).into_iter().filter(|n| !before.contains(n)).collect();
        let linked = |n: &&NodeView| n.alive && self.cx.view.node(n.id).is_some_and(|before| !before.alive);
        for node in view.nodes.iter().filter(linked) {
            self.cx.inquiries.on_link(self.cx.now.mono, node.id);
        }
        let had_lease = self.cx.has_lease();
        self.cx.view = view;
        if !had_lease && self.cx.has_lease() {
            self.calls.on_lease(&mut self.cx);
        }
        for node in gone {
            self.cx.tx.on_node_gone(self.cx.now.mono, node);
        }
        self.neighbours.plan(&mut self.cx);
        self.farewells.look_for_orphans(&mut self.cx);
        self.takeovers.look(&mut self.cx);
    }

    /// The next output, to be carried out in order; `None` until the next input.
    pub fn poll_output(&mut self) -> Option<Output> {
        self.cx.poll_output()
    }

    /// When to send `Input::Timeout` at the latest.
    pub fn poll_timeout(&self) -> Option<Instant> {
        match (self.cx.timers.next_deadline(), self.cx.tx.poll_timeout()) {
            (Some(a), Some(b)) => Some(a.min(b)),
            (a, b) => a.or(b),
        }
    }

    /// Calls that this node owns, in any state.
    pub fn call_count(&self) -> usize {
        self.calls.count().0
    }

    /// Of those, the ones that are over and wait for the log: only their records are kept.
    pub fn unrecorded_count(&self) -> usize {
        self.calls.count().1
    }

    /// The media session of a call, where this node owns it.
    pub fn media_of(&self, uid: CallUid) -> Option<MediaId> {
        self.calls.own(&self.cx, uid).map(|call| call.media.id())
    }

    /// Subscriptions that this node holds.
    pub fn subscription_count(&self) -> usize {
        self.subscriptions.len()
    }

    /// Transactions that live here.
    pub fn transaction_count(&self) -> usize {
        self.cx.tx.len()
    }

    /// This node (tests).
    pub fn local(&self) -> &LocalConfig {
        &self.cx.local
    }

    /// Takes an answered call as the log has it in place of whatever this node has of it; nothing is sent. False: the log has no such call,
    /// or it is not answered.
    pub fn restore_call(&mut self, now: Now, uid: CallUid) -> bool {
        self.cx.now = now;
        let entry = self.cx.replica().call(uid).cloned();
        let known = self.calls.place(&self.cx, uid);
        let Some(entry) = entry else { return false };
        let id = known.unwrap_or_else(|| self.cx.local_id());
        let Some(call) = Call::restore(&mut self.cx, id, &entry, false) else { return false };
        self.calls.insert(&self.cx, call);
        true
    }

    /// Works on a call, and forgets it when it is done.
    fn with_call<R: Default>(&mut self, id: LocalId, f: impl FnOnce(&mut Call, &mut Context) -> R) -> R {
        let Some((result, left)) = self.calls.with(&mut self.cx, id, f) else { return R::default() };
        if left.over {
            self.crowds.leave(id);
        }
        if let Some(usage) = left.usage {
            self.subscriptions.keep_usage(&mut self.cx, id, usage);
        }
        result
    }

    /// The caller of a claim has cancelled it, or has another node's answer: a call that this node has ceded is dialled by nobody any more.
    pub(super) fn on_caller_served(&mut self, key: &[u8; 16], packet_key: Option<&PacketKey>) {
        let Some(id) = self.calls.of_claim(key) else { return };
        if self.calls.get(id).is_some_and(|c| packet_key.is_none_or(|packet_key| c.about.packet_key == *packet_key)) {
            self.with_call(id, |call, cx| call.tell_claim(cx, ClaimEvent::CallerServed));
        }
    }

    fn on_media(&mut self, event: &crate::io::MediaEvent) {
        use crate::io::MediaEvent;
        let (MediaEvent::Opened { media, .. }
        | MediaEvent::OpenFailed { media, .. }
        | MediaEvent::Latched { media, .. }
        | MediaEvent::Heard { media, .. }
        | MediaEvent::Closed { media, .. }) = event;
        if let Some(id) = self.calls.of_media(*media) {
            self.with_call(id, |call, cx| call.on_media(cx, event));
        }
    }

    /// Fires some of what is due; what is left is due still, and [`Sbc::poll_timeout`] says so.
    fn fire_timers(&mut self) {
        let now = self.cx.now.mono;
        self.cx.tx.handle_timeout(now, TRANSACTION_TIMERS_AT_ONCE);
        for lane in [Lane::Urgent, Lane::Ordinary] {
            for _ in 0..TIMERS_AT_ONCE {
                let Some(timer) = self.cx.timers.pop_expired(lane, now) else { break };
                self.fire(timer);
            }
        }
    }

    fn fire(&mut self, timer: TimerUser) {
        let now = self.cx.now.mono;
        match timer {
            TimerUser::Call(id, timer) => {
                match timer {
                    CallTimer::Journal => {
                        self.calls.with_unrecorded(&mut self.cx, id, |ended, cx| ended.journal.on_retry(cx));
                    }
                    CallTimer::Early => self.calls.with_unrecorded(&mut self.cx, id, |ended, cx| ended.journal.on_early(cx)),
                    _ => {}
                }
                if let CallTimer::Doubt(side) = timer {
                    self.on_doubt_due(id, side);
                }
                self.with_call(id, |call, cx| call.on_timer(cx, timer));
            }
            TimerUser::Hold(id) => self.on_hold_over(id),
            TimerUser::HeldInvite(id) => self.on_held_invite(id),
            TimerUser::Crowd => self.on_crowd_tick(),
            TimerUser::Farewell => self.farewells.on_tick(&mut self.cx),
            TimerUser::Takeover => {
                let takeover::Ticked { late, served } = self.takeovers.on_tick(&mut self.cx, &self.calls, &self.neighbours);
                served.into_iter().for_each(|(back, message)| self.on_in_dialog(back.path, back, &message));
                late.into_iter().for_each(|(back, message)| self.cx.reject_stateless(back, &message, 503));
            }
            TimerUser::Probe => self.probes.on_tick(&mut self.cx),
            TimerUser::Neighbours => self.neighbours.on_tick(&mut self.cx),
            TimerUser::AbandonedInvite(tx) => self.cx.on_abandoned_invite(tx),
            TimerUser::Message(id) => self.messages.on_timer(&mut self.cx, &mut self.subscriptions, id),
            TimerUser::Subscription(id) => self.subscriptions.on_timer(&mut self.cx, id),
            TimerUser::SubscriptionKeepAlive(id) => self.subscriptions.on_keep_alive(&mut self.cx, id),
            TimerUser::SubscriptionSilent(id, tx) => self.subscriptions.on_silent(&mut self.cx, id, tx),
            TimerUser::Sweep => {
                self.tombstones.sweep(now);
                self.calls.sweep(now);
                self.cx.end_inquiries();
                self.redirects.sweep(now);
                self.gate.sweep(now);
                self.cx.health.sweep(now);
                self.cx.start_timer(SWEEP_EVERY, TimerUser::Sweep);
            }
        }
    }

    /// Hands on what transactions want, until they want nothing more.
    fn drain_transactions(&mut self) {
        while let Some(output) = self.cx.tx.poll_output() {
            match output {
                TxOutput::Transmit(transmit) => self.cx.output(Output::Transmit(transmit)),
                TxOutput::SendFor { to, transmit } => self.cx.send_for(to, transmit),
                TxOutput::Event(event) => self.on_tx_event(event),
            }
        }
    }
}
