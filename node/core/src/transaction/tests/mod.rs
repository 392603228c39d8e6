//! Scripted exchanges with time jumps, and random ones.

mod client;
mod random;
mod server;

use bytes::Bytes;

use super::*;
use crate::ids::{FlowId, NodeId};
use crate::io::{AddressRole, Path, ReturnPath, Transport};
use crate::time::Instant;

fn ms(ms: u64) -> Instant {
    Instant::from_micros(ms * 1000)
}

fn path(transport: Transport, remote: &str) -> Path {
    let flow = transport.is_reliable().then_some(FlowId(7));
    let local = "127.0.0.100:5060".parse().unwrap();
    Path { role: AddressRole::Anycast, transport, local, remote: remote.parse().unwrap(), flow }
}

fn new(branch: Box<str>, invite: bool, to: Path, tls_name: Option<Box<str>>, payload: Bytes) -> NewRequest {
    NewRequest { user: ClientUser::Probe, branch, invite, way: ReturnPath::here(to), tls_name, payload }
}

fn back(transport: Transport) -> ReturnPath {
    ReturnPath::here(path(transport, "127.0.3.1:5060"))
}

fn through(node: u16, transport: Transport) -> ReturnPath {
    ReturnPath { ingress: Some(NodeId(node)), ..back(transport) }
}

fn key(branch: &str, method: &str) -> ServerKey {
    ServerKey { branch: branch.into(), sent_by: "phone.example:5060".into(), method: method.into() }
}

fn text(s: &'static str) -> Bytes {
    Bytes::from_static(s.as_bytes())
}

/// Everything put out, in short: `payload`, `payload via node`, or the event.
fn said(t: &mut Transactions) -> Vec<String> {
    let mut all = Vec::new();
    while let Some(output) = t.poll_output() {
        all.push(match output {
            TxOutput::Transmit(x) => String::from_utf8(x.payload.to_vec()).unwrap(),
            TxOutput::SendFor { to, transmit } => {
                assert_eq!(transmit.id, crate::ids::SendId(0));
                format!("{} via {to}", String::from_utf8(transmit.payload.to_vec()).unwrap())
            }
            TxOutput::Event(event) => match event {
                TxEvent::ClientTimeout(_) => "client timeout".into(),
                TxEvent::ClientTransportError(_, why) => format!("client transport error {why:?}"),
                TxEvent::ServerTimeout(_) => "server timeout".into(),
                TxEvent::ServerTrying(_) => "server trying".into(),
                TxEvent::ServerTerminated(_) => "server terminated".into(),
                TxEvent::ClientTerminated(_) => "client terminated".into(),
            },
        });
    }
    all
}

/// Lets time run to `end` as a driver would; all that is put out, each with its millisecond.
fn run_until(t: &mut Transactions, end: Instant) -> Vec<(u64, String)> {
    let mut all: Vec<_> = said(t).into_iter().map(|s| (0, s)).collect();
    assert!(all.is_empty(), "not drained before: {all:?}");
    while let Some(at) = t.poll_timeout().filter(|&at| at <= end) {
        t.handle_timeout(at, usize::MAX);
        assert!(t.poll_timeout().is_none_or(|next| next > at));
        all.extend(said(t).into_iter().map(|s| (at.as_micros() / 1000, s)));
    }
    t.handle_timeout(end, usize::MAX);
    all.extend(said(t).into_iter().map(|s| (end.as_micros() / 1000, s)));
    all
}

/// `(time, text)` pairs to compare with.
fn script<const N: usize>(lines: [(u64, &str); N]) -> Vec<(u64, String)> {
    lines.into_iter().map(|(at, s)| (at, s.to_string())).collect()
}

fn assert_gone(t: &Transactions) {
    assert!(t.is_empty());
    assert_eq!(t.held(), (0, 0));
    assert_eq!(t.poll_timeout(), None);
}
