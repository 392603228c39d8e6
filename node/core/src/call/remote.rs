//! What a description says of one medium, in the engine's terms.

use crate::io::{Carries, Place, StreamRemote};
use crate::sip::{Carrier, MediaLine};

/// What all media of one description have in common.
#[derive(Clone, Copy, Debug)]
pub(super) struct DescriptionFacts {
    /// Which of the descriptions of its side.
    pub(super) description: u32,
    /// Where packets go.
    pub(super) latching: bool,
}

/// Where a far end wants one medium; `None`: refused, or nothing that is relayed.
pub(super) fn remote_of(line: &MediaLine, said: DescriptionFacts) -> Option<StreamRemote> {
    let carries = match line.carrier() {
        _ if line.port == 0 => return None,
        Carrier::Rtp => Carries::Rtp,
        Carrier::DtlsRtp => Carries::DtlsRtp,
        Carrier::Datagrams => Carries::Datagrams,
        Carrier::Other => return None,
    };
    let (rtcp_port, rtcp_ip) = line.rtcp.unwrap_or((line.port.saturating_add(1), None));
    Some(StreamRemote {
        rtp: Place::new(line.connection, line.port),
        rtcp: Place::new(rtcp_ip.or(line.connection), rtcp_port),
        rtcp_mux: line.rtcp_mux,
        carries,
        description: said.description,
        latching: said.latching,
    })
}
