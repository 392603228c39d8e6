//! Between the core's messages and their frames.

use std::time::Duration;

use super::delay;
use sbc_core::ids::{CallUid, FlowId, NodeId, PacketKey, SendId};
use sbc_core::io::{AddressRole, ClaimStage, Envelope, Path, PeerMessage, SendFailure, Transmit, Transport};
use sbc_proto::peer as pb;
use sbc_proto::peer::peer_frame::Kind;

pub(super) fn to_frame(message: &PeerMessage) -> pb::PeerFrame {
    let kind = match message {
        PeerMessage::Relay(envelope) => Kind::Relay(pb::Relay {
            ingress: u32::from(envelope.ingress.0),
            path: Some(path_to(&envelope.path)),
            payload: envelope.payload.clone(),
            age_us: u64::try_from(envelope.age.as_micros()).unwrap_or(u64::MAX),
            sent_us: delay::sender_us(),
        }),
        PeerMessage::SendFor(transmit) => Kind::SendFor(pb::SendFor {
            path: Some(path_to(&transmit.path)),
            tls_name: transmit.tls_name.as_deref().map(str::to_owned),
            payload: transmit.payload.clone(),
            id: transmit.id.0,
            reopen: transmit.reopen.map(|at| at.to_string()),
        }),
        PeerMessage::SendForFailed { id, reason } => Kind::SendForFailed(pb::SendForFailed {
            id: id.0,
            reason: match reason {
                SendFailure::Refused => pb::SendFailure::Refused,
                SendFailure::TimedOut => pb::SendFailure::TimedOut,
                SendFailure::Congested => pb::SendFailure::Congested,
            }
            .into(),
        }),
        PeerMessage::AskClaim { key } => Kind::AskClaim(pb::AskClaim { key: key.to_vec().into() }),
        PeerMessage::Cancelled { key, packet_key } => {
            Kind::Cancelled(pb::Cancelled { key: key.to_vec().into(), packet_key: packet_key.0.to_vec().into() })
        }
        PeerMessage::ClaimIs { key, call } => Kind::ClaimIs(pb::ClaimIs {
            key: key.to_vec().into(),
            call: call.map(|(c, _)| c.to_bytes().to_vec().into()),
            stage: call.map_or(pb::ClaimStage::Unspecified, |(_, stage)| stage_to(stage)).into(),
        }),
    };
    pb::PeerFrame { kind: Some(kind) }
}

/// `None`: not a message of this version, or damaged.
pub(super) fn from_kind(from: NodeId, kind: Kind) -> Option<PeerMessage> {
    match kind {
        Kind::Relay(relay) => {
            let path = path_from(relay.path.as_ref()?)?;
            // Whoever speaks is the ingress: what it says about a third node is not believed.
            Some(PeerMessage::Relay(Envelope {
                ingress: from,
                path,
                payload: relay.payload,
                age: Duration::from_micros(relay.age_us),
            }))
        }
        Kind::SendFor(wanted) => Some(PeerMessage::SendFor(Transmit {
            path: path_from(wanted.path.as_ref()?)?,
            tls_name: wanted.tls_name.map(Into::into),
            payload: wanted.payload,
            id: SendId(wanted.id),
            reopen: match wanted.reopen {
                Some(at) => Some(at.parse().ok()?),
                None => None,
            },
        })),
        Kind::SendForFailed(failed) => Some(PeerMessage::SendForFailed {
            id: SendId(failed.id),
            reason: match failed.reason() {
                pb::SendFailure::TimedOut => SendFailure::TimedOut,
                pb::SendFailure::Congested => SendFailure::Congested,
                pb::SendFailure::Refused | pb::SendFailure::Unspecified => SendFailure::Refused,
            },
        }),
        Kind::AskClaim(ask) => Some(PeerMessage::AskClaim { key: ask.key[..].try_into().ok()? }),
        Kind::Cancelled(cancelled) => Some(PeerMessage::Cancelled {
            key: cancelled.key[..].try_into().ok()?,
            packet_key: PacketKey(cancelled.packet_key[..].try_into().ok()?),
        }),
        Kind::ClaimIs(is) => {
            let call = match &is.call {
                Some(bytes) => Some((CallUid::from_bytes(bytes)?, stage_from(is.stage()))),
                None => None,
            };
            Some(PeerMessage::ClaimIs { key: is.key[..].try_into().ok()?, call })
        }
        Kind::Hello(_) | Kind::Ping(_) | Kind::Pong(_) => None,
    }
}

fn stage_to(stage: ClaimStage) -> pb::ClaimStage {
    match stage {
        ClaimStage::Preparing => pb::ClaimStage::Preparing,
        ClaimStage::Dialling => pb::ClaimStage::Dialling,
        ClaimStage::Won => pb::ClaimStage::Won,
        ClaimStage::Answered => pb::ClaimStage::Answered,
    }
}

fn stage_from(stage: pb::ClaimStage) -> ClaimStage {
    match stage {
        pb::ClaimStage::Preparing => ClaimStage::Preparing,
        // A version that does not say may have asked the called side.
        pb::ClaimStage::Dialling | pb::ClaimStage::Unspecified => ClaimStage::Dialling,
        pb::ClaimStage::Won => ClaimStage::Won,
        pb::ClaimStage::Answered => ClaimStage::Answered,
    }
}

fn path_to(path: &Path) -> pb::Path {
    pb::Path {
        role: match path.role {
            AddressRole::Anycast => pb::AddressRole::Anycast,
            AddressRole::Unicast => pb::AddressRole::Unicast,
            AddressRole::Core => pb::AddressRole::Core,
        }
        .into(),
        transport: match path.transport {
            Transport::Udp => pb::Transport::Udp,
            Transport::Tcp => pb::Transport::Tcp,
            Transport::Tls => pb::Transport::Tls,
        }
        .into(),
        local: path.local.to_string(),
        remote: path.remote.to_string(),
        flow: path.flow.map(|f| f.0),
    }
}

fn path_from(path: &pb::Path) -> Option<Path> {
    Some(Path {
        role: match path.role() {
            pb::AddressRole::Anycast => AddressRole::Anycast,
            pb::AddressRole::Unicast => AddressRole::Unicast,
            pb::AddressRole::Core => AddressRole::Core,
            pb::AddressRole::Unspecified => return None,
        },
        transport: match path.transport() {
            pb::Transport::Udp => Transport::Udp,
            pb::Transport::Tcp => Transport::Tcp,
            pb::Transport::Tls => Transport::Tls,
            pb::Transport::Unspecified => return None,
        },
        local: path.local.parse().ok()?,
        remote: path.remote.parse().ok()?,
        flow: path.flow.map(FlowId),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;
    use sbc_core::ids::Incarnation;

    fn path() -> Path {
        Path {
            role: AddressRole::Anycast,
            transport: Transport::Tls,
            local: "127.0.0.100:5061".parse().unwrap(),
            remote: "[2001:db8::1]:4000".parse().unwrap(),
            flow: Some(FlowId(7)),
        }
    }

    #[test]
    fn every_message_survives_the_link() {
        let from = NodeId(3);
        let call = CallUid { node: NodeId(2), incarnation: Incarnation(4), serial: 9 };
        for message in [
            PeerMessage::Relay(Envelope {
                ingress: from,
                path: path(),
                payload: Bytes::from_static(b"x"),
                age: Duration::from_millis(1700),
            }),
            PeerMessage::SendFor(Transmit {
                path: Path { flow: None, ..path() },
                tls_name: Some("a.b".into()),
                payload: Bytes::from_static(b"y"),
                id: SendId(1 << 63 | 5),
                reopen: Some("[2001:db8::1]:5061".parse().unwrap()),
            }),
            PeerMessage::SendForFailed { id: SendId(7), reason: SendFailure::TimedOut },
            PeerMessage::AskClaim { key: [1; 16] },
            PeerMessage::ClaimIs { key: [2; 16], call: Some((call, ClaimStage::Preparing)) },
            PeerMessage::ClaimIs { key: [2; 16], call: Some((call, ClaimStage::Dialling)) },
            PeerMessage::ClaimIs { key: [2; 16], call: Some((call, ClaimStage::Won)) },
            PeerMessage::ClaimIs { key: [2; 16], call: Some((call, ClaimStage::Answered)) },
            PeerMessage::ClaimIs { key: [2; 16], call: None },
        ] {
            assert_eq!(from_kind(from, to_frame(&message).kind.unwrap()), Some(message));
        }
    }

    #[test]
    fn damage_is_no_message() {
        let bad = pb::Path { role: 9, ..path_to(&path()) };
        let relay = pb::Relay { ingress: 1, path: Some(bad), ..Default::default() };
        assert_eq!(from_kind(NodeId(1), Kind::Relay(relay)), None);
        assert_eq!(from_kind(NodeId(1), Kind::AskClaim(pb::AskClaim { key: Bytes::from_static(b"short") })), None);
    }
}
