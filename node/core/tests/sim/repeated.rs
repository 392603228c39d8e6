//! One INVITE by several ways, or again after a refusal, with a called side by hand: who is served, and who is told that it was asked already.

use crate::rig::far::{Far, wait};
use crate::rig::{CALLER, Rig};
use crate::world::{MS, World, addr};
use sbc_core::io::Transport;
use sbc_core::sip::{HeaderId, Method};
use std::collections::BTreeSet;

/// A scene with a called side by hand: the caller's INVITE is refused by it with `status`.
fn refused(status: u16) -> (World, Far, Far) {
    let Rig { mut w, caller, mut psap, .. } = Rig::build(3, Far::at(CALLER), |_| ());
    let anycast = w.anycast;
    caller.put(&mut w, &mut by_branch(&caller, "first"), anycast, &[]);
    wait(&mut w, 50);
    let request = psap.request(&w, &Method::Invite);
    psap.answer(&mut w, &request, status, &[]);
    wait(&mut w, 50);
    (w, caller, psap)
}

/// The caller's INVITE by another way.
fn by_branch(caller: &Far, branch: &str) -> sbc_core::sip::Draft {
    let mut draft = caller.initial(&Method::Invite, "sip:112@198.18.112.112", "again", 1);
    draft.set(HeaderId::Via, format!("SIP/2.0/UDP {};branch=z9hG4bK{branch};rport", caller.addr));
    draft
}

#[test]
fn ac_47_a_caller_that_was_told_503_is_served_by_each_node() {
    let (mut w, mut caller, mut psap) = refused(503);
    let first = caller.response(&w, &Method::Invite);
    assert_eq!(first.status(), Some(500), "a target's 503 is no word of ours");
    let mut seen = BTreeSet::new();
    for (branch, node) in [("second", 2), ("third", 1), ("fourth", 3)] {
        caller.put(&mut w, &mut by_branch(&caller, branch), addr(&format!("198.18.0.{node}:5060")), &[]);
        wait(&mut w, 400);
        let request = psap.request(&w, &Method::Invite);
        assert!(seen.insert(request.0.call_id().to_owned()), "a leg of its own each time");
        psap.answer(&mut w, &request, 503, &[]);
        wait(&mut w, 50);
        assert_eq!(caller.response(&w, &Method::Invite).status(), Some(500));
    }
}

#[test]
fn ac_28_the_users_answer_stays() {
    let (mut w, mut caller, mut psap) = refused(486);
    assert_eq!(caller.response(&w, &Method::Invite).status(), Some(486));
    psap.inbox(&w);
    for (branch, node) in [("second", 2), ("third", 1)] {
        caller.put(&mut w, &mut by_branch(&caller, branch), addr(&format!("198.18.0.{node}:5060")), &[]);
        wait(&mut w, 400);
        assert_eq!(caller.response(&w, &Method::Invite).status(), Some(482));
    }
    assert!(psap.inbox(&w).iter().all(|(m, _)| m.method() != &Method::Invite));
}

#[test]
fn ac_45_a_loop_behind_us_still_ends() {
    let (mut w, mut caller, mut psap) = refused(482);
    assert!(caller.inbox(&w).iter().all(|(m, _)| m.status() != Some(482)));
    let request = psap.request(&w, &Method::Invite);
    psap.answer(&mut w, &request, 482, &[]);
    wait(&mut w, 50);
    assert_eq!(caller.response(&w, &Method::Invite).status(), Some(482));
}

/// One request by two ways at two nodes, while the log is slow by this much, the second one so much later: how each ended, by branch.
fn forked(log_ms: u64, later_ms: u64, nodes: [usize; 2]) -> [Option<u16>; 2] {
    let mut s = Rig::by(Transport::Udp);
    s.w.net.commit = (log_ms * MS, log_ms * MS + 1);
    let unicast = nodes.map(|n| s.w.nodes[n].unicast);
    let send = |s: &mut Rig, at: usize| {
        let mut invite = s.invite_draft();
        invite.replace_first(HeaderId::Via, s.caller.via(["first", "second"][at]));
        let bytes = invite.encode().expect("well formed");
        s.w.inject(s.caller.addr, unicast[at], bytes);
    };
    send(&mut s, 0);
    s.advance(later_ms);
    send(&mut s, 1);
    let mut ended = [None; 2];
    for _ in 0..400 {
        s.advance(5);
        for invite in s.psap.inbox(&s.w).into_iter().filter(|(m, _)| m.method() == &Method::Invite && m.is_request()) {
            s.psap.answer(&mut s.w, &(invite.0, (invite.1.ip(), 5060).into()), 180, &[]);
        }
        for (response, _) in s.got() {
            let status = response.status().filter(|status| *status >= 200 && response.method() == &Method::Invite);
            let branch = response.top_via().branch().unwrap_or_default().to_owned();
            let at = usize::from(branch.ends_with("second"));
            ended[at] = ended[at].or(status);
        }
    }
    ended
}

/// Both branches of a proxy's fork reach the cluster: one of them is refused at most, however slow the log is and whoever is first.
#[test]
fn ac_28_of_two_ways_one_is_served() {
    for log in [2, 60, 120, 149, 151, 200, 300, 600, 1500] {
        for later in [0, 1, 3, 30, 49, 51, 100, 149, 160, 250] {
            for nodes in [[0, 1], [1, 0], [2, 1], [0, 2]] {
                let ended = forked(log, later, nodes);
                assert!(ended.contains(&None), "log {log} ms, {later} ms later, at {nodes:?}: {ended:?}");
            }
        }
    }
}
