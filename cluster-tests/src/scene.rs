//! Calls put on stage: a caller and a PSAP, both in the test's hands, with the cluster between them.

use std::net::SocketAddr;

use crate::cluster::{Cluster, PSAP};
use crate::ladder;
use crate::message::{Dialog, Message, sdp};
use crate::phone::Phone;

/// Both phones.
#[derive(Debug)]
pub struct Scene {
    /// Calls from a free port of 127.0.3.1.
    pub caller: Phone,
    /// Answers at [`PSAP`].
    pub psap: Phone,
}

/// A call that both have answered and acknowledged.
#[derive(Debug)]
pub struct Call {
    /// What the caller sent.
    pub invite: Message,
    /// What the PSAP got.
    pub psap_invite: Message,
    /// The 200 as the caller got it.
    pub ok: Message,
    /// The caller's side.
    pub from_caller: Dialog,
    /// The PSAP's side.
    pub from_psap: Dialog,
}

/// To-tag of the PSAP.
const PSAP_TAG: &str = "psap";

impl Default for Scene {
    fn default() -> Scene {
        Scene::new()
    }
}

impl Scene {
    /// Both, at their addresses.
    pub fn new() -> Scene {
        Scene { caller: Phone::bind("127.0.3.1:0"), psap: Phone::bind(PSAP) }
    }

    /// An emergency call's INVITE from the caller, not sent yet.
    pub fn invite(&self) -> Message {
        Message::invite("sip:112@127.0.0.100", self.caller.at(), "UDP")
    }

    /// Sends an INVITE and lets the PSAP ring. Returns what the PSAP got.
    #[track_caller]
    pub fn ring(&mut self, invite: &Message, to: SocketAddr) -> (Message, SocketAddr) {
        self.caller.send(invite, to);
        // What a flood or an earlier test left is still repeated at the PSAP: only this caller's is rung for.
        let caller = invite.uri("From").to_owned();
        let ours = |m: &Message| m.method() == "INVITE" && m.uri("From") == caller;
        let (at_psap, from) = self.psap.expect("the INVITE of this caller", ours);
        self.psap.send(&at_psap.response(180, "Ringing", PSAP_TAG).with("Contact", &format!("<sip:psap@{PSAP}>")), from);
        self.caller.expect_response(180, "INVITE");
        (at_psap, from)
    }

    /// The 200 of the PSAP to what it got.
    pub fn answer(at_psap: &Message) -> Message {
        at_psap.response(200, "OK", PSAP_TAG).with("Contact", &format!("<sip:psap@{PSAP}>")).with_sdp(sdp(
            SocketAddr::new(PSAP.ip(), 42_000),
            1,
            "sendrecv",
        ))
    }

    /// A whole call up to the 200 at the caller; the ACK is left to the test.
    #[track_caller]
    pub fn answered(&mut self, to: SocketAddr) -> Call {
        let invite = self.invite();
        let (psap_invite, from) = self.ring(&invite, to);
        let psap_ok = Scene::answer(&psap_invite);
        self.psap.send(&psap_ok, from);
        let (ok, _) = self.caller.expect_response(200, "INVITE");
        let from_caller = Dialog::of_caller(&invite, &ok, self.caller.at(), "UDP");
        let from_psap = Dialog::of_callee(&psap_invite, &psap_ok, PSAP);
        Call { invite, psap_invite, ok, from_caller, from_psap }
    }

    /// A whole call, acknowledged to `to`.
    #[track_caller]
    pub fn established(&mut self, to: SocketAddr) -> Call {
        let call = self.answered(to);
        self.caller.send(&call.from_caller.ack(1), to);
        self.psap.expect_request("ACK");
        call
    }

    /// Hangs up from the caller with a BYE to `to`; the PSAP answers it. Returns the 200 and whence it came.
    #[track_caller]
    pub fn hang_up(&mut self, call: &mut Call, to: SocketAddr) -> (Message, SocketAddr) {
        self.caller.send(&call.from_caller.request("BYE"), to);
        self.psap_confirms("BYE");
        self.caller.expect_response(200, "BYE")
    }

    /// Nothing is left of the call with these INVITEs (the caller's, the PSAP's) but its record, the `records`-th, and its ladder is
    /// what both phones saw.
    ///
    /// # Panics
    /// That does not come to pass.
    #[track_caller]
    pub fn settled(&mut self, cluster: &Cluster, records: usize, (invite, psap_invite): (&Message, &Message)) {
        ladder::settled(cluster, records, (&mut self.caller, invite), (&mut self.psap, psap_invite));
    }

    /// The PSAP gets this request and answers 200.
    #[track_caller]
    pub fn psap_confirms(&mut self, method: &str) -> Message {
        let (request, from) = self.psap.expect_request(method);
        self.psap.send(&request.response(200, "OK", ""), from);
        request
    }
}
