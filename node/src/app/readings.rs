//! What transport and media count for themselves, as metrics.

use std::sync::Arc;

use crate::media::{MediaHandle, MediaTotals};
use crate::telemetry::Reading;
use crate::transport::{TransportHandle, TransportStats};

/// All of them.
pub(super) fn readings(transport: &TransportHandle, media: &MediaHandle) -> Vec<Reading> {
    let mut all = of_transport(&transport.stats());
    all.extend(of_media(media));
    all
}

/// Name, help, and which counter.
type Of<T> = (&'static str, &'static str, fn(&T) -> u64);

fn of_transport(stats: &Arc<TransportStats>) -> Vec<Reading> {
    let counters: [Of<TransportStats>; 20] = [
        ("transport_udp_received", "SIP datagrams received", |s| s.udp.received.get()),
        ("transport_udp_sent", "SIP datagrams sent", |s| s.udp.sent.get()),
        ("transport_tcp_received", "SIP messages received over TCP", |s| s.tcp.received.get()),
        ("transport_tcp_sent", "SIP messages sent over TCP", |s| s.tcp.sent.get()),
        ("transport_tls_received", "SIP messages received over TLS", |s| s.tls.received.get()),
        ("transport_tls_sent", "SIP messages sent over TLS", |s| s.tls.sent.get()),
        ("transport_udp_queue_full", "Datagrams dropped because the SIP loop's queue was full", |s| s.udp_queue_full.get()),
        ("transport_udp_send_errors", "Datagrams that the kernel would not send", |s| s.udp_send_errors.get()),
        ("transport_keep_alives", "Keep-alives answered or swallowed", |s| s.keep_alives.get()),
        ("transport_framing_errors", "Connections closed because their bytes are not SIP", |s| s.framing_errors.get()),
        ("transport_refused_total_limit", "Connections refused: too many in all", |s| s.refused_total.get()),
        ("transport_refused_source_limit", "Connections refused: too many from one source", |s| s.refused_source.get()),
        ("transport_refused_half_open", "Connections closed: too many unfinished messages of one source", |s| {
            s.refused_half_open.get()
        }),
        ("transport_timed_out", "Connections closed because nothing whole came in time", |s| s.timed_out.get()),
        ("transport_accept_errors", "Connections that the kernel did not hand over, for want of descriptors", |s| {
            s.accept_errors.get()
        }),
        ("transport_accepted", "Connections accepted", |s| s.accepted.get()),
        ("transport_opened", "Connections opened, working", |s| s.opened.get()),
        ("transport_connect_failures", "Connections that could not be opened", |s| s.connect_failures.get()),
        ("transport_write_queue_full", "Messages refused because a connection's queue was full", |s| s.write_queue_full.get()),
        ("transport_moved", "Messages sent over another connection because theirs broke", |s| s.moved.get()),
    ];
    let mut all: Vec<Reading> = counters.into_iter().map(|of| counter(of, stats)).collect();
    let open = Arc::clone(stats);
    all.push(Reading {
        name: "transport_connections",
        help: "Connections that exist, those in handshake included",
        counts: false,
        read: Box::new(move || open.flows_open.get()),
    });
    all
}

fn counter((name, help, of): Of<TransportStats>, stats: &Arc<TransportStats>) -> Reading {
    let stats = Arc::clone(stats);
    Reading { name, help, counts: true, read: Box::new(move || of(&stats)) }
}

fn of_media(media: &MediaHandle) -> Vec<Reading> {
    let counters: [Of<MediaTotals>; 10] = [
        ("rtp_packets_forwarded", "RTP packets forwarded", |t| t.rtp_forwarded),
        ("rtcp_packets_forwarded", "RTCP packets forwarded", |t| t.rtcp_forwarded),
        ("media_datagrams_forwarded", "Datagrams forwarded that are no RTP: DTLS, STUN, T.38, BFCP", |t| t.other_forwarded),
        ("rtp_dropped_foreign", "Media packets dropped: from another source than the stream's", |t| t.dropped_foreign),
        ("rtp_dropped_invalid", "Media packets dropped: neither RTP nor RTCP", |t| t.dropped_invalid),
        ("rtp_unroutable", "Media packets that the other side has no address for", |t| t.unroutable),
        ("rtp_socket_errors", "Media packets that the kernel refused", |t| t.socket_errors),
        ("media_ports_exhausted", "Sessions for which no media ports or descriptors were left", |t| t.exhausted),
        ("media_open_failed", "Media ports that could not be had", |t| t.open_failed),
        ("media_commands_refused", "Orders that a media thread did not take", |t| t.commands_refused),
    ];
    let reading = |(name, help, of): Of<MediaTotals>| {
        let media = media.clone();
        Reading { name, help, counts: true, read: Box::new(move || of(&media.totals())) }
    };
    let mut all: Vec<Reading> = counters.into_iter().map(reading).collect();
    let states: [Of<MediaHandle>; 5] = [
        ("rtp_streams", "Streams that are open", |m| m.totals().streams),
        ("media_port_pairs", "Media port pairs of the address with the fewest free", |m| number(m.room().pairs.0)),
        ("media_port_pairs_free", "Those of them that are free or rest", |m| number(m.room().pairs.1)),
        ("media_sockets", "Sockets that media may have, by their share of the descriptors", |m| number(m.room().sockets.0)),
        ("media_sockets_free", "Those of them that are free", |m| number(m.room().sockets.1)),
    ];
    all.extend(states.map(|(name, help, read)| {
        let media = media.clone();
        Reading { name, help, counts: false, read: Box::new(move || read(&media)) }
    }));
    all
}

fn number(n: usize) -> u64 {
    u64::try_from(n).unwrap_or(u64::MAX)
}
