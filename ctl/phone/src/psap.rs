//! The built-in PSAP: rings, answers, echoes, and counts how often it rang.

use std::collections::HashMap;
use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::sync::{Notify, broadcast, mpsc};
use tokio::task::{AbortHandle, JoinHandle};
use tokio::time::sleep;

use crate::dialog::Dialog;
use crate::endpoint::{CallError, Endpoint, Incoming, Recent, Reply};
use crate::message::Message;
use crate::psap_report::{Answer, PsapEvent, PsapOptions, PsapStats};
use crate::rtp::{RtpMode, RtpSession, RtpStats};
use crate::sdp::{Direction, LocalSdp, RemoteSdp};
use crate::{lock, unique};

/// Calls at once: each has two sockets and a buffer of 8 KiB; 20,000 descriptors are a common limit. More: 486.
const MAX_CALLS: usize = 4_000;
/// Calls whose rings are remembered, so that a process that runs for ever does not grow.
const REMEMBERED: usize = 20_000;
/// Events that a slow reader may be behind before it misses some.
const EVENTS: usize = 1_024;
/// How long it rings for a caller who neither cancels nor is answered (RFC 3261 §16.6, Timer C).
const MAX_RING: Duration = Duration::from_secs(180);
/// A call is hung up after this: its far end may have died without a BYE.
const MAX_CALL: Duration = Duration::from_secs(4 * 3600);

/// Starts a PSAP.
#[derive(Debug)]
pub struct Psap;

impl Psap {
    /// Listens on `bind` until [`PsapHandle::shutdown`] or the handle is dropped.
    ///
    /// # Errors
    /// The address is taken or not ours.
    pub async fn start(bind: SocketAddr, options: PsapOptions) -> io::Result<PsapHandle> {
        let (endpoint, requests, reader) = Endpoint::start(bind, None).await?;
        let inner = Arc::new(Inner {
            contact: endpoint.contact("psap"),
            endpoint,
            options,
            calls: Mutex::default(),
            rings: Mutex::new(Recent::new(REMEMBERED)),
            seen: Mutex::new(Recent::new(REMEMBERED)),
            events: broadcast::channel(EVENTS).0,
            invites: AtomicU64::new(0),
            merged: AtomicU64::new(0),
            past_rtp: Mutex::default(),
        });
        let server = tokio::spawn(Arc::clone(&inner).serve(requests));
        Ok(PsapHandle { inner, tasks: [reader, server] })
    }
}

/// Call-ID and From-tag.
type CallKey = (String, String);

#[derive(Debug)]
struct Inner {
    endpoint: Arc<Endpoint>,
    contact: String,
    options: PsapOptions,
    calls: Mutex<HashMap<CallKey, Arc<UasCall>>>,
    /// Distinct INVITEs of each call.
    rings: Mutex<Recent<CallKey, u64>>,
    /// INVITEs by call and CSeq number: for merged requests.
    seen: Mutex<Recent<(CallKey, u32), ()>>,
    events: broadcast::Sender<PsapEvent>,
    invites: AtomicU64,
    merged: AtomicU64,
    past_rtp: Mutex<RtpStats>,
}

#[derive(Debug)]
struct UasCall {
    key: CallKey,
    tag: String,
    invite: Incoming,
    dialog: Mutex<Dialog>,
    sdp: Mutex<LocalSdp>,
    rtp: RtpSession,
    progress: Mutex<Progress>,
    cancelled: Notify,
    task: Mutex<Option<AbortHandle>>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Progress {
    Ringing,
    /// 200 is out.
    Answered,
    /// Cancelled or refused.
    Over,
}

fn key_of(message: &Message) -> CallKey {
    (message.header("Call-ID").to_owned(), message.tag("From").to_owned())
}

impl Inner {
    async fn serve(self: Arc<Inner>, mut requests: mpsc::Receiver<Incoming>) {
        while let Some(request) = requests.recv().await {
            match request.message.method() {
                "ACK" => {} // the endpoint stops the retransmission
                "INVITE" if request.message.tag("To").is_empty() => self.on_invite(request).await,
                "CANCEL" => self.on_cancel(request).await,
                "OPTIONS" if request.message.tag("To").is_empty() => self.respond(&request, 200, "OK").await,
                _ => self.on_in_dialog(request).await,
            }
        }
    }

    /// Nobody has to listen.
    fn report(&self, event: PsapEvent) {
        let _ = self.events.send(event);
    }

    async fn respond(&self, request: &Incoming, code: u16, reason: &str) {
        let response = request.response(code, reason, &unique("")).with("Contact", &self.contact);
        let response = response.with("Allow", "INVITE, ACK, CANCEL, BYE, OPTIONS, INFO, UPDATE");
        self.endpoint.respond(request, response).await;
    }

    async fn on_invite(self: &Arc<Inner>, request: Incoming) {
        let key = key_of(&request.message);
        let number = request.message.cseq().0;
        if lock(&self.seen).get(&(key.clone(), number)).is_some() {
            // RFC 3261 §8.2.2.2: another branch, or the endpoint would have answered.
            self.merged.fetch_add(1, Relaxed);
            self.report(PsapEvent::Merged { call: key.0, source: request.source });
            return self.respond(&request, 482, "Merged Request").await;
        }
        lock(&self.seen).insert((key.clone(), number), ());
        let rings = {
            let mut rings = lock(&self.rings);
            let count = rings.get(&key).copied().unwrap_or(0) + 1;
            rings.insert(key.clone(), count);
            count
        };
        self.invites.fetch_add(1, Relaxed);
        let from = request.message.header("From").to_owned();
        self.report(PsapEvent::InviteReceived { call: key.0.clone(), from, source: request.source, rings });
        // It rang; but a second INVITE of a call that is there cannot have a dialog of its own.
        let (known, full) = {
            let calls = lock(&self.calls);
            (calls.contains_key(&key), calls.len() >= MAX_CALLS)
        };
        if known || full {
            return self.respond(&request, 486, "Busy Here").await;
        }
        match self.new_call(key, request.clone()).await {
            Ok(call) => {
                lock(&self.calls).insert(call.key.clone(), Arc::clone(&call));
                let task = tokio::spawn(Arc::clone(self).run(Arc::clone(&call)));
                *lock(&call.task) = Some(task.abort_handle());
            }
            Err((code, reason)) => self.respond(&request, code, reason).await,
        }
    }

    async fn new_call(&self, key: CallKey, invite: Incoming) -> Result<Arc<UasCall>, (u16, &'static str)> {
        let trying = invite.response(100, "Trying", "");
        self.endpoint.respond(&invite, trying).await;
        let tag = unique("");
        let answer = invite.message.response(200, "OK", &tag);
        let dialog = Dialog::of_callee(&invite.message, &answer, self.endpoint.local).with_contact(&self.contact);
        let dialog = dialog.whole().ok_or((400, "No Contact or Tag"))?;
        let mode = if self.options.echo { RtpMode::Echo } else { RtpMode::Listen };
        let rtp = RtpSession::start(self.endpoint.local.ip(), mode).await.map_err(|_| (503, "No RTP Port"))?;
        let local = rtp.local().map_err(|_| (503, "No RTP Port"))?;
        Ok(Arc::new(UasCall {
            key,
            tag,
            invite,
            dialog: Mutex::new(dialog),
            sdp: Mutex::new(LocalSdp::new(local)),
            rtp,
            progress: Mutex::new(Progress::Ringing),
            cancelled: Notify::new(),
            task: Mutex::default(),
        }))
    }

    /// A call from 180 to its end.
    async fn run(self: Arc<Inner>, call: Arc<UasCall>) {
        let id = call.key.0.clone();
        self.endpoint.respond(&call.invite, self.of_call(&call, &call.invite, 180, "Ringing")).await;
        let ring = if self.options.answer == Answer::Never { MAX_RING } else { self.options.ring };
        tokio::select! {
            biased;
            () = call.cancelled.notified() => {}
            () = sleep(ring) => {}
        }
        let body = Self::body_of(&call, &call.invite);
        let cancelled = {
            let mut progress = lock(&call.progress);
            let cancelled = *progress == Progress::Over;
            let accepts = !cancelled && self.options.answer == Answer::Accept && body.is_some();
            *progress = if accepts { Progress::Answered } else { Progress::Over };
            cancelled
        };
        let (code, reason) = match self.options.answer {
            _ if cancelled => (487, "Request Terminated"),
            Answer::Reject(code) => (code, "Refused"),
            Answer::Never => (480, "Temporarily Unavailable"),
            Answer::Accept if body.is_none() => (488, "Not Acceptable Here"),
            Answer::Accept => (200, "OK"),
        };
        let mut response = self.of_call(&call, &call.invite, code, reason);
        if code != 200 {
            let event = match cancelled {
                true => PsapEvent::Cancelled { call: id },
                false => PsapEvent::Refused { call: id, code },
            };
            self.report(event);
            self.endpoint.respond_until_ack(&call.invite, response).await;
            return self.remove(&call);
        }
        response = response.with_sdp(body.unwrap_or_default());
        self.report(PsapEvent::Answered { call: id.clone() });
        if self.endpoint.respond_until_ack(&call.invite, response).await {
            self.report(PsapEvent::Acked { call: id });
            sleep(MAX_CALL).await;
        } else {
            self.report(PsapEvent::AckMissing { call: id });
        }
        // Its outcome changes nothing here: the call is over.
        let _ = self.hang_up(&call).await;
    }

    fn of_call(&self, call: &UasCall, request: &Incoming, code: u16, reason: &str) -> Message {
        request.response(code, reason, &call.tag).with("Contact", &self.contact)
    }

    /// Our description for an INVITE: the answer to its offer, or an offer if it has none. `None`: nothing in common.
    fn body_of(call: &UasCall, request: &Incoming) -> Option<Vec<u8>> {
        let mut sdp = lock(&call.sdp);
        let body = match request.message.description() {
            None => sdp.offer(Direction::SendRecv),
            Some(offer) => sdp.answer(&RemoteSdp::parse(offer)?)?,
        };
        call.rtp.set(None, sdp.direction.sends());
        Some(body)
    }

    async fn on_cancel(&self, request: Incoming) {
        let via = request.message.via();
        let calls = || lock(&self.calls).values().cloned().collect::<Vec<_>>();
        let call = calls().into_iter().find(|c| c.invite.message.via() == via);
        let Some(call) = call else {
            return self.respond(&request, 481, "Call/Transaction Does Not Exist").await;
        };
        self.endpoint.respond(&request, self.of_call(&call, &request, 200, "OK")).await;
        let mut progress = lock(&call.progress);
        // RFC 3261 §9.2: no effect after a final response.
        if *progress == Progress::Ringing {
            *progress = Progress::Over;
            call.cancelled.notify_one();
        }
    }

    async fn on_in_dialog(self: &Arc<Inner>, request: Incoming) {
        let call = lock(&self.calls).get(&key_of(&request.message)).cloned();
        let call = call.filter(|c| lock(&c.dialog).matches(&request.message));
        let Some(call) = call else {
            return self.respond(&request, 481, "Call/Transaction Does Not Exist").await;
        };
        let id = call.key.0.clone();
        let in_order = lock(&call.dialog).accept_cseq(&request.message);
        let (code, reason) = match request.message.method() {
            _ if !in_order => (500, "CSeq Out of Order"),
            "INVITE" | "UPDATE" => return self.on_offer(&call, request).await,
            "BYE" => {
                self.report(PsapEvent::ByeReceived { call: id, source: request.source });
                self.remove(&call);
                (200, "OK")
            }
            "INFO" => {
                let body = String::from_utf8_lossy(&request.message.body).into_owned();
                self.report(PsapEvent::Info { call: id, body });
                (200, "OK")
            }
            "OPTIONS" | "MESSAGE" | "NOTIFY" => (200, "OK"),
            _ => (501, "Not Implemented"),
        };
        self.endpoint.respond(&request, self.of_call(&call, &request, code, reason)).await;
    }

    /// A re-INVITE or UPDATE.
    async fn on_offer(self: &Arc<Inner>, call: &Arc<UasCall>, request: Incoming) {
        let is_invite = request.message.method() == "INVITE";
        let bare_update = !is_invite && request.message.description().is_none();
        let body = if bare_update { Some(Vec::new()) } else { Self::body_of(call, &request) };
        let Some(body) = body else {
            let refusal = self.of_call(call, &request, 488, "Not Acceptable Here");
            return self.endpoint.respond(&request, refusal).await;
        };
        lock(&call.dialog).refresh(&request.message);
        let mut response = self.of_call(call, &request, 200, "OK");
        if !body.is_empty() {
            response = response.with_sdp(body);
        }
        if !is_invite {
            return self.endpoint.respond(&request, response).await;
        }
        let direction = lock(&call.sdp).direction.answer();
        self.report(PsapEvent::ReInvite { call: call.key.0.clone(), direction, source: request.source });
        let inner = Arc::clone(self);
        let call = Arc::clone(call);
        // Ends by itself: at the ACK, or after 32 s.
        tokio::spawn(async move {
            if !inner.endpoint.respond_until_ack(&request, response).await && lock(&inner.calls).contains_key(&call.key) {
                inner.report(PsapEvent::AckMissing { call: call.key.0.clone() });
            }
        });
    }

    async fn hang_up(&self, call: &UasCall) -> Result<Reply, CallError> {
        let (bye, to) = {
            let mut dialog = lock(&call.dialog);
            // A Contact that is a name: back to where the INVITE came from.
            let to = dialog.destination().unwrap_or(call.invite.source);
            (dialog.request("BYE"), to)
        };
        self.report(PsapEvent::HungUp { call: call.key.0.clone() });
        let reply = self.endpoint.transact(&bye, to).await;
        self.remove(call);
        reply
    }

    fn remove(&self, call: &UasCall) {
        if lock(&self.calls).remove(&call.key).is_some() {
            lock(&self.past_rtp).absorb(&call.rtp.stats());
        }
        // Last: it may be this very task, which then ends at its next wait.
        if let Some(task) = lock(&call.task).take() {
            task.abort();
        }
    }
}

/// A running PSAP.
#[derive(Debug)]
pub struct PsapHandle {
    inner: Arc<Inner>,
    tasks: [JoinHandle<()>; 2],
}

impl PsapHandle {
    /// Where it listens (the port, if `bind` named none).
    pub fn local(&self) -> SocketAddr {
        self.inner.endpoint.local
    }

    /// Events from now on. A reader that is more than 1,024 behind misses the oldest and is told so.
    pub fn events(&self) -> broadcast::Receiver<PsapEvent> {
        self.inner.events.subscribe()
    }

    /// How often calls of that Call-ID rang, the From-tags summed.
    pub fn rings(&self, call_id: &str) -> u64 {
        lock(&self.inner.rings).map.iter().filter(|((id, _), _)| id == call_id).map(|(_, n)| n).sum()
    }

    /// Call-IDs of the calls now.
    pub fn calls(&self) -> Vec<String> {
        lock(&self.inner.calls).keys().map(|(id, _)| id.clone()).collect()
    }

    /// Sends BYE.
    ///
    /// # Errors
    /// No such answered call, or no final response in 32 s (the call is over all the same).
    pub async fn hangup(&self, call_id: &str) -> Result<Reply, CallError> {
        let call = lock(&self.inner.calls).values().find(|c| c.key.0 == call_id).cloned();
        let call = call.filter(|c| *lock(&c.progress) == Progress::Answered);
        let call = call.ok_or(CallError::State("no such call"))?;
        self.inner.hang_up(&call).await
    }

    /// The counters.
    pub fn stats(&self) -> PsapStats {
        let mut rtp = *lock(&self.inner.past_rtp);
        let calls = lock(&self.inner.calls);
        for call in calls.values() {
            rtp.absorb(&call.rtp.stats());
        }
        PsapStats {
            invites: self.inner.invites.load(Relaxed),
            retransmissions: self.inner.endpoint.retransmissions(),
            merged: self.inner.merged.load(Relaxed),
            calls: calls.len() as u64,
            rtp,
        }
    }

    /// Ends: nothing is answered any more, and calls get no BYE, as if the power failed.
    pub fn shutdown(self) {
        drop(self);
    }
}

impl Drop for PsapHandle {
    fn drop(&mut self) {
        for task in &self.tasks {
            task.abort();
        }
        let calls: Vec<_> = lock(&self.inner.calls).drain().map(|(_, call)| call).collect();
        for call in calls {
            if let Some(task) = lock(&call.task).take() {
                task.abort();
            }
        }
    }
}
