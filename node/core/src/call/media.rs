//! A call's media as the call sees it: which ports it has, and what each far end said.

use std::net::IpAddr;

use bytes::Bytes;

use super::context::Context;
use super::hearing::Hearing;
use super::leg::Leg;
use super::remote::{DescriptionFacts, remote_of};
use crate::dialog::Half;
use crate::ids::{Epoch, MediaId};
use crate::io::{MediaCommand, MediaStats, Output, Realm, Side, SideHeard, StreamPorts, StreamRemote};
use crate::policy::{PastUs, latches};
use crate::sip::{Carrier, LineRewrite, MediaLine, Sdp, SdpRewrite};
use crate::time::Instant;
use crate::timer::TimerId;

/// Streams of one call at the most; further m-lines are passed on without being anchored.
pub(super) const MAX_STREAMS: usize = 32;

/// How far apart the versions of descriptions are that two owners of a call write: more than one writes without a record.
const VERSIONS_OF_AN_OWNER: u64 = 16;

/// Where the far ends want media, by m-line: the caller, the called side.
pub(super) type Remotes = Vec<[Option<StreamRemote>; 2]>;

/// Where the session stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum MediaPhase {
    /// SDP passes untouched: no engine, or it failed.
    Off,
    /// Ports were asked for.
    Opening,
    /// All ports asked for are there.
    Open,
    /// Being closed.
    Closing,
    /// Closed, counters known.
    Closed,
}

/// The media of one call.
#[derive(Debug)]
pub struct CallMedia {
    /// The session.
    id: MediaId,
    /// Where it stands.
    phase: MediaPhase,
    /// Our ports, by m-line.
    ports: Vec<StreamPorts>,
    /// Last counters.
    stats: MediaStats,
    asked: usize,
    realms: [Realm; 2],
    /// Of an emergency call.
    urgent: bool,
    remotes: Remotes,
    /// How many descriptions of each side there were.
    descriptions: [u32; 2],
    /// An offer crosses with fewer ports than it has lines: its answer must find as many.
    short: bool,
    /// Sessions that were given up for one on other sides, and are not closed yet.
    left: u8,
    /// A target waits for the ports.
    awaited: bool,
    /// The engine has so long to close the session.
    pub(super) closing: Option<TimerId>,
    /// What was heard of the far ends.
    hearing: Hearing,
}

impl CallMedia {
    /// A session that has nothing yet.
    pub(super) fn new(cx: &mut Context, realms: [Realm; 2], urgent: bool) -> CallMedia {
        CallMedia {
            id: cx.mint_media(),
            phase: if cx.local.anchored { MediaPhase::Open } else { MediaPhase::Off },
            ports: Vec::new(),
            stats: MediaStats::default(),
            closing: None,
            asked: 0,
            realms,
            urgent,
            remotes: Vec::new(),
            descriptions: [0; 2],
            short: false,
            left: 0,
            awaited: false,
            hearing: Hearing::default(),
        }
    }

    /// The same with ports that it had before.
    pub(super) fn restored(self, ports: Vec<StreamPorts>) -> CallMedia {
        let phase = if ports.is_empty() { MediaPhase::Off } else { self.phase };
        CallMedia { phase, asked: ports.len(), ports, ..self }
    }

    /// The session.
    pub fn id(&self) -> MediaId {
        self.id
    }

    /// True while ports were asked for and are not there.
    pub(super) fn is_opening(&self) -> bool {
        self.phase == MediaPhase::Opening
    }

    /// True where descriptions pass untouched.
    pub(super) fn is_off(&self) -> bool {
        self.phase == MediaPhase::Off
    }

    /// True when it has ports.
    pub(super) fn has_ports(&self) -> bool {
        !self.ports.is_empty()
    }

    /// The counters, once it is closed.
    pub(super) fn stats(&self) -> MediaStats {
        self.stats
    }

    /// Asks the engine what it hears, where there is one.
    pub(super) fn ask(&self, cx: &mut Context) {
        if self.phase == MediaPhase::Open && self.has_ports() {
            cx.output(Output::Media(MediaCommand::Ask { media: self.id }));
        }
    }

    /// The engine has said what it hears, of the caller's side first.
    pub(super) fn on_heard(&mut self, now: Instant, sides: [SideHeard; 2]) {
        self.hearing.note(now, sides);
    }

    /// What the engine has said last of a side.
    pub(super) fn last_heard(&self, side: Side) -> SideHeard {
        self.hearing.last(side)
    }

    /// Media came from that side lately. `None`: nobody can tell, for they do not pass here.
    pub(super) fn is_heard(&self, now: Instant, side: Side) -> Option<bool> {
        (!self.is_off()).then(|| self.hearing.lately(now, side))
    }

    /// On which side the called party will be, as far as one knows before anything is asked for.
    pub(super) fn expect_callee_in(&mut self, realm: Realm) {
        self.realms[1] = realm;
    }

    /// The called party is to be reached in `realm`. False: the ports are on another side; they are given up for others, and
    /// whoever asks has to wait.
    pub(super) fn reach(&mut self, cx: &mut Context, realm: Realm) -> bool {
        if self.realms[1] == realm || self.phase != MediaPhase::Open || self.asked == 0 {
            self.realms[1] = realm;
            return true;
        }
        self.realms[1] = realm;
        let streams = std::mem::take(&mut self.asked);
        self.short = false;
        (self.ports, self.remotes) = (Vec::new(), Vec::new());
        self.left += 1;
        cx.output(Output::Media(MediaCommand::Close { media: self.id }));
        self.awaited = !self.ensure(cx, streams);
        !self.awaited
    }

    /// Asks for ports until there are `streams`. True when there are, or when there is no engine.
    pub(super) fn ensure(&mut self, cx: &mut Context, streams: usize) -> bool {
        let wanted = if self.short { self.asked } else { streams.min(MAX_STREAMS) };
        if self.phase == MediaPhase::Open && wanted > self.asked {
            let first = u8::try_from(self.asked).expect("below MAX_STREAMS");
            let count = u8::try_from(wanted - self.asked).expect("below MAX_STREAMS");
            self.asked = wanted;
            self.phase = MediaPhase::Opening;
            let (media, realms, urgent) = (self.id, self.realms, self.urgent);
            cx.output(Output::Media(MediaCommand::Open { media, first, count, realms, urgent }));
        }
        self.phase != MediaPhase::Opening
    }

    /// A new offer: what there were no ports for may have some now.
    pub(super) fn on_offer(&mut self) {
        self.short = false;
    }

    /// A description has crossed that leads past us: so do all others.
    pub(super) fn give_up(&mut self, cx: &mut Context) {
        if std::mem::take(&mut self.asked) > 0 {
            self.left += 1;
            cx.output(Output::Media(MediaCommand::Close { media: self.id }));
        }
        self.phase = MediaPhase::Off;
        (self.ports, self.remotes) = (Vec::new(), Vec::new());
    }

    /// The engine has ports.
    pub(super) fn on_opened(&mut self, first: u8, ports: &[StreamPorts]) {
        if usize::from(first) == self.ports.len() && self.phase == MediaPhase::Opening {
            self.ports.extend_from_slice(ports);
        }
        if self.phase == MediaPhase::Opening && self.ports.len() >= self.asked {
            self.phase = MediaPhase::Open;
        }
    }

    /// The engine has none: the call goes on with what it has. Without any port its SDP passes untouched, which is
    /// better than no call.
    pub(super) fn on_open_failed(&mut self) {
        if self.phase == MediaPhase::Opening {
            self.asked = self.ports.len();
            self.short = true;
            self.phase = if self.ports.is_empty() { MediaPhase::Off } else { MediaPhase::Open };
        }
    }

    /// The far end of `leg` described its media: tells the engine what changed. `offer`: what it answers.
    pub(super) fn on_remote_sdp(&mut self, cx: &mut Context, (leg, half): (&Leg, &Half), sdp: &Sdp, offer: Option<&Sdp>) {
        let side = leg.side;
        if half.remote_sdp != sdp.raw() {
            let count = &mut self.descriptions[index(side)];
            *count = count.wrapping_add(1);
        }
        let said = DescriptionFacts {
            description: self.descriptions[index(side)],
            latching: latches(cx.config.trunk(&leg.trunk), leg.realm),
        };
        let mut remotes = self.remotes();
        for (i, sides) in remotes.iter_mut().enumerate() {
            // Lines that are missing are refused, as near as one can tell (RFC 3264 §6, §8).
            let line = sdp.media().get(i).filter(|_| stands(offer, i));
            sides[index(side)] = line.and_then(|line| remote_of(line, said));
        }
        self.set_remotes(cx, remotes);
    }

    /// Where media go, by m-line: of each that has ports.
    pub(super) fn remotes(&self) -> Remotes {
        let mut remotes = self.remotes.clone();
        remotes.resize(self.ports.len(), [None, None]);
        remotes
    }

    /// Tells the engine what is new.
    pub(super) fn set_remotes(&mut self, cx: &mut Context, mut remotes: Remotes) {
        if self.phase != MediaPhase::Open {
            return;
        }
        remotes.resize(self.ports.len(), [None, None]);
        let old = self.remotes();
        for (i, (old, new)) in old.iter().zip(&remotes).enumerate() {
            for side in [Side::Caller, Side::Callee] {
                let remote = new[index(side)];
                if old[index(side)] != remote {
                    let stream = u8::try_from(i).expect("below MAX_STREAMS");
                    cx.output(Output::Media(MediaCommand::Remote { media: self.id, stream, side, remote }));
                }
            }
        }
        self.remotes = remotes;
    }

    /// A description of one far end, as it goes to the far end of `leg`: our address, our ports, our `o=` line. `offer`: what it answers.
    pub(super) fn rewrite_for(
        &self,
        cx: &Context,
        (leg, half): (&Leg, &mut Half),
        (sdp, original): (&Sdp, &Bytes),
        offer: Option<&Sdp>,
        past: PastUs,
    ) -> Bytes {
        if self.phase == MediaPhase::Off {
            half.local_sdp = original.clone();
            return original.clone();
        }
        let mut rewrite = self.rewrite(cx, (leg, half), sdp, offer, past);
        // RFC 3264 §8: the version rises exactly when the description changes.
        let mut out = sdp.rewrite(&rewrite);
        if out != half.local_sdp {
            half.sdp_version += 1;
            rewrite.origin = Some(("sbc".into(), half.sdp_id, half.sdp_version));
            out = sdp.rewrite(&rewrite);
            half.local_sdp = out.clone();
        }
        out
    }

    /// The same for a description that neither offers nor answers: it changes nothing here.
    pub(super) fn rewrite_aside(&self, cx: &Context, to: (&Leg, &Half), (sdp, original): (&Sdp, &Bytes), past: PastUs) -> Bytes {
        if self.phase == MediaPhase::Off {
            return original.clone();
        }
        sdp.rewrite(&self.rewrite(cx, to, sdp, None, past))
    }

    /// What was last said to the far end of `half`, for a call that begins anew with other ports: with our address and ports where there are any, else
    /// as its other far end, `other`, describes itself. An earlier owner may have described more than its records say; each owner has versions of its
    /// own (RFC 3264 §8).
    pub(super) fn readdress(&self, cx: &Context, (leg, half): (&Leg, &mut Half), other: &Bytes, epoch: Epoch) {
        let text = if self.phase == MediaPhase::Off { other } else { &half.local_sdp };
        let Ok(sdp) = Sdp::parse(text) else { return };
        half.sdp_version = half.sdp_version.saturating_add(VERSIONS_OF_AN_OWNER * u64::from(epoch.0.saturating_sub(1)));
        let origin = Some(("sbc".into(), half.sdp_id, half.sdp_version));
        let line = |(i, line): (usize, &MediaLine)| match (line.carrier(), self.ports.get(i)) {
            (Carrier::Other, _) | (_, None) => LineRewrite::Direct,
            _ if line.port == 0 => LineRewrite::Keep,
            (_, Some(own)) => LineRewrite::Port(own.toward(leg.side)),
        };
        let lines = sdp.media().iter().enumerate().map(line).collect();
        half.local_sdp = match self.phase {
            MediaPhase::Off => sdp.with_origin("sbc", half.sdp_id, half.sdp_version),
            _ => sdp.rewrite(&SdpRewrite { origin, address: self.own_address(cx, leg), lines }),
        };
    }

    /// What was last said to the far end of `half` was refused: `local` is what stands. RFC 3264 §8: its version is above that of the
    /// refused one, should it be said again.
    pub(super) fn restate(&self, half: &mut Half, local: Bytes) {
        if half.local_sdp == local {
            return;
        }
        half.local_sdp = match Sdp::parse(&local) {
            Ok(sdp) if self.phase != MediaPhase::Off => {
                half.sdp_version += 1;
                sdp.with_origin("sbc", half.sdp_id, half.sdp_version)
            }
            _ => local,
        };
    }

    fn rewrite(&self, cx: &Context, (leg, half): (&Leg, &Half), sdp: &Sdp, offer: Option<&Sdp>, past: PastUs) -> SdpRewrite {
        let rewritten = |(i, line): (usize, &MediaLine)| match (line.carrier(), self.ports.get(i)) {
            _ if line.port == 0 => LineRewrite::Keep,
            _ if !stands(offer, i) => LineRewrite::Refuse,
            (Carrier::Other, _) => match past {
                PastUs::All => LineRewrite::Direct,
                PastUs::Unnamed if !line.path => LineRewrite::Direct,
                PastUs::Unnamed | PastUs::Refused => LineRewrite::Refuse,
            },
            (_, Some(own)) => LineRewrite::Port(own.toward(leg.side)),
            // There were no ports for it, and perhaps it works without.
            (_, None) => LineRewrite::Direct,
        };
        let lines = sdp.media().iter().enumerate().map(rewritten).collect();
        SdpRewrite { origin: Some(("sbc".into(), half.sdp_id, half.sdp_version)), address: self.own_address(cx, leg), lines }
    }

    /// Our media address on a leg: of the family in which its far end described its media, before that in which it signals. The ports
    /// are open on both.
    fn own_address(&self, cx: &Context, leg: &Leg) -> IpAddr {
        let described = self.remotes.iter().find_map(|sides| sides[index(leg.side)]?.rtp.addr()).map(|addr| addr.ip());
        cx.local.own_address(leg.realm, described.unwrap_or(leg.path.remote.ip()))
    }

    /// Releases the ports. True when there is something to wait for.
    pub(super) fn close(&mut self, cx: &mut Context) -> bool {
        if matches!(self.phase, MediaPhase::Open | MediaPhase::Opening) && self.asked > 0 {
            self.phase = MediaPhase::Closing;
            cx.output(Output::Media(MediaCommand::Close { media: self.id }));
            return true;
        }
        if self.phase != MediaPhase::Closing {
            self.phase = MediaPhase::Closed;
        }
        self.phase == MediaPhase::Closing
    }

    /// The engine does not answer a close: it is over. False: it was over before.
    pub(super) fn give_up_closing(&mut self) -> bool {
        let closing = self.phase == MediaPhase::Closing;
        if closing {
            self.phase = MediaPhase::Closed;
        }
        closing
    }

    /// True once when the ports are decided that a target waits for.
    pub(super) fn is_awaited(&mut self) -> bool {
        self.phase != MediaPhase::Opening && std::mem::take(&mut self.awaited)
    }

    /// The engine closed it, or one that was given up before. True: it is over.
    pub(super) fn on_closed(&mut self, stats: MediaStats) -> bool {
        self.stats.add(&stats);
        if self.left > 0 {
            self.left -= 1;
            return false;
        }
        self.phase = MediaPhase::Closed;
        true
    }

    /// Our RTP ports toward a side, for the record.
    pub(super) fn ports_toward(&self, side: Side) -> Vec<u32> {
        self.ports.iter().map(|p| u32::from(p.toward(side))).collect()
    }
}

/// What an answer may not bring back: of lines that were not offered, or refused by the offer itself, there is nothing to answer
/// (RFC 3264 §6). `None`: it is an offer.
fn stands(offer: Option<&Sdp>, line: usize) -> bool {
    offer.is_none_or(|offer| offer.media().get(line).is_some_and(|offered| offered.port != 0))
}

fn index(side: Side) -> usize {
    match side {
        Side::Caller => 0,
        Side::Callee => 1,
    }
}
