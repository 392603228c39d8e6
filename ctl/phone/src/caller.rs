//! The test caller: one call, its ladder, its RTP.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::sync::{Notify, mpsc, watch};
use tokio::task::JoinHandle;
use tokio::time::timeout;

use crate::body::Location;
use crate::dialog::Dialog;
use crate::endpoint::{CallError, Endpoint, Incoming, Reply};
use crate::ladder::{Ladder, LadderLine};
use crate::message::{self, Message};
use crate::rtp::{RtpMode, RtpSession, RtpStats};
use crate::sdp::{Direction, LocalSdp, RemoteSdp};
use crate::{TIMEOUT, lock, unique};

/// RFC 3261 §16.6 asks a proxy for more than 3 minutes; a caller waits as long.
const RING: Duration = Duration::from_secs(180);

/// What to call, and how.
#[derive(Clone, Debug)]
pub struct CallOptions {
    /// Where the INVITE goes: an anycast address.
    pub target: SocketAddr,
    /// Request-URI and To, such as `sip:112@198.18.112.112` or `urn:service:sos`.
    pub uri: String,
    /// User part of From and Contact.
    pub user: String,
    /// Send RTP; otherwise only offer it.
    pub rtp: bool,
    /// Behave as equipment that ignores Contact: all requests go to `target`.
    pub ignore_contact: bool,
    /// Further header fields of the INVITE.
    pub headers: Vec<(String, String)>,
    /// Where the caller is; goes with the INVITE.
    pub location: Option<Location>,
    /// How long to let it ring.
    pub ring: Duration,
}

impl CallOptions {
    /// A call with RTP that does as the RFC says.
    pub fn new(target: SocketAddr, uri: &str) -> CallOptions {
        let (uri, user) = (uri.to_owned(), "caller".to_owned());
        CallOptions { target, uri, user, rtp: true, ignore_contact: false, headers: Vec::new(), location: None, ring: RING }
    }
}

/// Where a call is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// No answer at all.
    Calling,
    /// The last provisional response.
    Proceeding(u16),
    /// 2xx, acknowledged.
    Answered,
    /// 3xx-6xx or an error.
    Failed,
    /// BYE, by either.
    Ended,
}

/// Places calls from one address.
#[derive(Clone, Copy, Debug)]
pub struct Caller {
    ip: IpAddr,
}

impl Caller {
    /// Calls leave from `ip`, each from a port of its own.
    pub fn new(ip: IpAddr) -> Caller {
        Caller { ip }
    }

    /// Sends the INVITE and returns at once; see [`CallHandle::answered`].
    ///
    /// # Errors
    /// No socket on that address.
    pub async fn invite(&self, options: CallOptions) -> Result<CallHandle, CallError> {
        let ladder = Arc::new(Ladder::new());
        let (endpoint, requests, reader) = Endpoint::start(SocketAddr::new(self.ip, 0), Some(Arc::clone(&ladder))).await?;
        let rtp = RtpSession::start(self.ip, if options.rtp { RtpMode::Talk } else { RtpMode::Listen }).await;
        let rtp = rtp.inspect_err(|_| reader.abort())?;
        let mut sdp = LocalSdp::new(rtp.local()?);
        let contact = endpoint.contact(&options.user);
        let invite = first_invite(&endpoint, &options, &contact, &sdp.offer(Direction::SendRecv));
        let call = Arc::new(Call {
            endpoint,
            ladder,
            options,
            contact,
            invite,
            phase: watch::channel(Phase::Calling).0,
            result: Mutex::default(),
            dialog: Mutex::default(),
            sdp: Mutex::new(sdp),
            rtp,
            cancelled: Notify::new(),
            offering: AtomicBool::new(false),
        });
        let tasks = vec![reader, tokio::spawn(Arc::clone(&call).serve(requests)), tokio::spawn(Arc::clone(&call).establish())];
        Ok(CallHandle { call, tasks })
    }
}

fn first_invite(endpoint: &Endpoint, options: &CallOptions, contact: &str, offer: &[u8]) -> Message {
    let mut invite = Message::request("INVITE", &options.uri);
    invite.add("Via", endpoint.via());
    invite.add("From", message::tagged(&options.user, endpoint.local, &unique("")));
    invite.add("To", format!("<{}>", options.uri));
    invite.add("Call-ID", format!("{}@{}", unique(""), endpoint.local.ip()));
    invite.add("CSeq", message::cseq(1, "INVITE"));
    invite.add("Max-Forwards", "70");
    invite.add("Contact", contact);
    invite.add("Allow", "INVITE, ACK, CANCEL, BYE, OPTIONS, INFO, UPDATE");
    for (name, value) in &options.headers {
        invite.add(name, value.clone());
    }
    match &options.location {
        Some(location) => {
            location.attach(&mut invite, offer);
            invite
        }
        None => invite.with_sdp(offer.to_vec()),
    }
}

fn destination(dialog: &Dialog) -> Result<SocketAddr, CallError> {
    dialog.destination().ok_or_else(|| CallError::NoAddress(dialog.routes.first().unwrap_or(&dialog.target).clone()))
}

#[derive(Debug)]
struct Call {
    endpoint: Arc<Endpoint>,
    ladder: Arc<Ladder>,
    options: CallOptions,
    contact: String,
    invite: Message,
    phase: watch::Sender<Phase>,
    /// What became of the INVITE.
    result: Mutex<Option<Result<Reply, CallError>>>,
    dialog: Mutex<Option<Dialog>>,
    sdp: Mutex<LocalSdp>,
    rtp: RtpSession,
    cancelled: Notify,
    /// A re-INVITE of ours is open.
    offering: AtomicBool,
}

impl Call {
    async fn establish(self: Arc<Call>) {
        let on_provisional = |response: &Incoming| {
            self.phase.send_replace(Phase::Proceeding(response.message.status()));
        };
        let (to, ring) = (self.options.target, self.options.ring);
        let mut result = self.endpoint.invite(&self.invite, to, ring, &self.cancelled, on_provisional).await;
        if let Ok(reply) = &result
            && reply.is_success()
            && let Err(e) = self.on_answer(reply).await
        {
            result = Err(e);
        }
        let phase = match &result {
            Ok(reply) if reply.is_success() => Phase::Answered,
            _ => Phase::Failed,
        };
        *lock(&self.result) = Some(result);
        self.phase.send_replace(phase);
    }

    async fn on_answer(&self, reply: &Reply) -> Result<(), CallError> {
        let dialog = Dialog::of_caller(&self.invite, &reply.message, self.endpoint.local, "UDP").with_contact(&self.contact);
        let dialog = dialog.whole().ok_or(CallError::State("the 2xx has no To-tag or no Contact"))?;
        let ack = dialog.ack(self.invite.cseq().0);
        let to = self.destination(&dialog, None);
        *lock(&self.dialog) = Some(dialog);
        self.endpoint.acknowledge(&self.invite, ack, to?).await?;
        self.apply(&reply.message);
        Ok(())
    }

    fn destination(&self, dialog: &Dialog, to: Option<SocketAddr>) -> Result<SocketAddr, CallError> {
        match to {
            Some(to) => Ok(to),
            None if self.options.ignore_contact => Ok(self.options.target),
            None => destination(dialog),
        }
    }

    /// Follows the far end's description; none, or one without our stream, stops the RTP.
    fn apply(&self, message: &Message) {
        let remote = message.description().and_then(RemoteSdp::parse);
        let audio = remote.as_ref().and_then(RemoteSdp::audio);
        let ours = lock(&self.sdp).direction.sends();
        self.rtp.set(audio.and_then(|a| a.target), ours && audio.is_some_and(|a| a.direction.answer().sends()));
    }

    fn end(&self) {
        self.rtp.set(None, false);
        self.phase.send_replace(Phase::Ended);
    }

    async fn serve(self: Arc<Call>, mut requests: mpsc::Receiver<Incoming>) {
        while let Some(request) = requests.recv().await {
            self.on_request(request).await;
        }
    }

    async fn on_request(self: &Arc<Call>, request: Incoming) {
        let method = request.message.method().to_owned();
        if method == "ACK" {
            return;
        }
        let in_order = {
            let mut dialog = lock(&self.dialog);
            match dialog.as_mut().filter(|d| d.matches(&request.message)) {
                Some(dialog) => Some(dialog.accept_cseq(&request.message)),
                None => None,
            }
        };
        let (code, reason) = match (method.as_str(), in_order) {
            ("OPTIONS", None) => (200, "OK"),
            ("INVITE", None) if request.message.tag("To").is_empty() => (486, "Busy Here"),
            (_, None) => (481, "Call/Transaction Does Not Exist"),
            (_, Some(false)) => (500, "CSeq Out of Order"),
            _ if *self.phase.borrow() == Phase::Ended && method != "BYE" => (481, "Call/Transaction Does Not Exist"),
            ("INVITE" | "UPDATE", Some(true)) => return self.on_offer(request, method == "INVITE").await,
            ("BYE", Some(true)) => {
                self.end();
                (200, "OK")
            }
            ("OPTIONS" | "INFO" | "MESSAGE" | "NOTIFY", Some(true)) => (200, "OK"),
            _ => (501, "Not Implemented"),
        };
        let response = request.response(code, reason, &unique("")).with("Contact", &self.contact);
        self.endpoint.respond(&request, response).await;
    }

    /// A re-INVITE or UPDATE of the far end.
    async fn on_offer(self: &Arc<Call>, request: Incoming, is_invite: bool) {
        let offer = request.message.description().and_then(RemoteSdp::parse);
        let body = {
            let mut sdp = lock(&self.sdp);
            match &offer {
                Some(offer) => sdp.answer(offer),
                None if is_invite => Some(sdp.offer(Direction::SendRecv)),
                None => Some(Vec::new()),
            }
        };
        let (code, reason) = match &body {
            // RFC 3261 §14.2
            _ if self.offering.load(Ordering::Acquire) => (491, "Request Pending"),
            Some(_) => (200, "OK"),
            None => (488, "Not Acceptable Here"),
        };
        let mut response = request.response(code, reason, "").with("Contact", &self.contact);
        if code == 200 {
            if let Some(dialog) = lock(&self.dialog).as_mut() {
                dialog.refresh(&request.message);
            }
            if offer.is_some() {
                self.apply(&request.message);
            }
            if let Some(body) = body.filter(|b| !b.is_empty()) {
                response = response.with_sdp(body);
            }
        }
        if is_invite {
            let call = Arc::clone(self);
            // Ends by itself: at the ACK, or after 32 s.
            tokio::spawn(async move { call.endpoint.respond_until_ack(&request, response).await });
        } else {
            self.endpoint.respond(&request, response).await;
        }
    }

    fn in_dialog(&self, method: &str, to: Option<SocketAddr>) -> Result<(Message, SocketAddr), CallError> {
        let mut dialog = lock(&self.dialog);
        let dialog = dialog.as_mut().ok_or(CallError::State("the call is not answered"))?;
        let to = self.destination(dialog, to)?;
        Ok((dialog.request(method), to))
    }
}

/// One call. Dropped, it falls silent without a BYE.
#[derive(Debug)]
pub struct CallHandle {
    call: Arc<Call>,
    tasks: Vec<JoinHandle<()>>,
}

impl Drop for CallHandle {
    fn drop(&mut self) {
        for task in &self.tasks {
            task.abort();
        }
    }
}

impl CallHandle {
    /// Its Call-ID.
    pub fn call_id(&self) -> &str {
        self.call.invite.header("Call-ID")
    }

    /// Our own address and port.
    pub fn local(&self) -> SocketAddr {
        self.call.endpoint.local
    }

    /// Where it is now.
    pub fn phase(&self) -> Phase {
        *self.call.phase.borrow()
    }

    /// All messages so far.
    pub fn ladder(&self) -> Vec<LadderLine> {
        self.call.ladder.lines()
    }

    /// What was sent, and what returned.
    pub fn rtp_stats(&self) -> RtpStats {
        self.call.rtp.stats()
    }

    /// The URI that in-dialog requests go to: the far end's last Contact. `None` before the answer.
    pub fn remote_target(&self) -> Option<Result<SocketAddr, CallError>> {
        lock(&self.call.dialog).as_ref().map(destination)
    }

    /// Waits for a phase that `wanted` likes, at most `limit`; the phase then.
    pub async fn wait_for(&self, limit: Duration, wanted: impl FnMut(&Phase) -> bool) -> Option<Phase> {
        let mut phase = self.call.phase.subscribe();
        // The sender lives in self.call: only time can end the wait.
        timeout(limit, phase.wait_for(wanted)).await.ok()?.ok().map(|p| *p)
    }

    /// Waits for the INVITE's final response, whatever its code.
    ///
    /// # Errors
    /// None within 32 s, or within the ring limit after a provisional one; or an answer that makes no dialog.
    pub async fn answered(&self) -> Result<Reply, CallError> {
        let mut phase = self.call.phase.subscribe();
        // The sender lives in self.call: the wait ends with a phase.
        let _ = phase.wait_for(|p| matches!(p, Phase::Answered | Phase::Failed | Phase::Ended)).await.map(drop);
        lock(&self.call.result).clone().unwrap_or(Err(CallError::State("the phone was shut down")))
    }

    /// Sends the very same INVITE again, to any address (AC-01): a retransmission that BGP led elsewhere.
    ///
    /// # Errors
    /// The kernel refused.
    pub async fn repeat_invite(&self, to: SocketAddr) -> io::Result<()> {
        self.call.endpoint.send(&self.call.invite, to).await
    }

    /// Cancels (RFC 3261 §9.1), after the first provisional response; [`CallHandle::answered`] then gives the 487.
    ///
    /// # Errors
    /// No provisional response within 32 s, or none to the CANCEL.
    pub async fn cancel(&self, to: Option<SocketAddr>) -> Result<Reply, CallError> {
        let to = to.unwrap_or(self.call.options.target);
        match self.wait_for(TIMEOUT, |p| *p != Phase::Calling).await {
            Some(Phase::Proceeding(_)) => {}
            Some(_) => return Err(CallError::State("the call has its final response")),
            None => return Err(CallError::Timeout { method: "INVITE".to_owned(), to: self.call.options.target }),
        }
        self.call.cancelled.notify_one();
        self.call.endpoint.transact(&self.call.invite.cancel(), to).await
    }

    /// Offers anew: `SendOnly` or `Inactive` to hold, `SendRecv` to resume.
    ///
    /// # Errors
    /// Not answered, no final response, or one of our re-INVITEs is open.
    pub async fn reinvite(&self, direction: Direction, to: Option<SocketAddr>) -> Result<Reply, CallError> {
        let call = &self.call;
        if call.offering.swap(true, Ordering::AcqRel) {
            return Err(CallError::State("a re-INVITE is open already"));
        }
        let reply = self.offer(direction, to).await;
        call.offering.store(false, Ordering::Release);
        reply
    }

    async fn offer(&self, direction: Direction, to: Option<SocketAddr>) -> Result<Reply, CallError> {
        let call = &self.call;
        let (invite, address) = call.in_dialog("INVITE", to)?;
        let before = lock(&call.sdp).direction;
        let invite = invite.with_sdp(lock(&call.sdp).offer(direction));
        let reply = call.endpoint.invite(&invite, address, call.options.ring, &Notify::new(), |_| ()).await;
        let reply = match reply {
            Ok(reply) if reply.is_success() => reply,
            failed => {
                lock(&call.sdp).direction = before;
                return failed;
            }
        };
        let (ack, address) = {
            let mut dialog = lock(&call.dialog);
            let dialog = dialog.as_mut().ok_or(CallError::State("the call is not answered"))?;
            dialog.refresh(&reply.message);
            (dialog.ack(invite.cseq().0), call.destination(dialog, None)?)
        };
        call.endpoint.acknowledge(&invite, ack, address).await?;
        call.apply(&reply.message);
        Ok(reply)
    }

    /// Hangs up. The call is over when the far end agrees (2xx, 481, 408) or is silent; another answer (302, 503) leaves it.
    ///
    /// # Errors
    /// Not answered, or no final response.
    pub async fn bye(&self, to: Option<SocketAddr>) -> Result<Reply, CallError> {
        let (bye, to) = self.call.in_dialog("BYE", to)?;
        let reply = self.call.endpoint.transact(&bye, to).await;
        match &reply {
            Ok(reply) if !reply.is_success() && !matches!(reply.code, 408 | 481) => {}
            _ => self.call.end(),
        }
        reply
    }

    /// INFO with a body.
    ///
    /// # Errors
    /// Not answered, or no final response.
    pub async fn info(&self, content_type: &str, body: &str, to: Option<SocketAddr>) -> Result<Reply, CallError> {
        let (info, to) = self.call.in_dialog("INFO", to)?;
        self.call.endpoint.transact(&info.with_body(content_type, body), to).await
    }

    /// Any other request without a body, such as OPTIONS, UPDATE or MESSAGE.
    ///
    /// # Errors
    /// Not answered, or no final response.
    pub async fn request(&self, method: &str, to: Option<SocketAddr>) -> Result<Reply, CallError> {
        let (request, to) = self.call.in_dialog(method, to)?;
        self.call.endpoint.transact(&request, to).await
    }
}
