//! What the transport counts: plain atomics, read by telemetry.

use std::sync::atomic::{AtomicU64, Ordering};

use sbc_core::io::Transport;

/// One counter or gauge.
#[derive(Debug, Default)]
pub struct Count(AtomicU64);

impl Count {
    /// Adds one.
    pub fn inc(&self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }

    /// Takes one away (gauges only).
    pub fn dec(&self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }

    /// The present value.
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// Messages of one transport.
#[derive(Debug, Default)]
pub struct MessageCounts {
    /// Messages read.
    pub received: Count,
    /// Messages handed to the kernel.
    pub sent: Count,
}

/// Counters of the transport since its start.
#[derive(Debug, Default)]
pub struct TransportStats {
    /// Datagrams.
    pub udp: MessageCounts,
    /// Messages over TCP.
    pub tcp: MessageCounts,
    /// Messages over TLS.
    pub tls: MessageCounts,
    /// Datagrams dropped because the driver's queue was full.
    pub udp_queue_full: Count,
    /// Datagrams that the kernel would not send.
    pub udp_send_errors: Count,
    /// Keep-alives answered or swallowed (RFC 5626 §3.5.1, §4.4.1).
    pub keep_alives: Count,
    /// Connections closed because their bytes are not SIP.
    pub framing_errors: Count,
    /// Connections refused: too many in all.
    pub refused_total: Count,
    /// Connections refused: too many from one source.
    pub refused_source: Count,
    /// Connections closed: too many of their source were in the middle of a message.
    pub refused_half_open: Count,
    /// Connections closed because a message did not become complete in time, or nothing came for long.
    pub timed_out: Count,
    /// Connections accepted.
    pub accepted: Count,
    /// Connections opened by us, working.
    pub opened: Count,
    /// Connections that could not be opened.
    pub connect_failures: Count,
    /// Gauge: connections that exist now, those in handshake included.
    pub flows_open: Count,
    /// Failed or timed-out TLS handshakes, either direction.
    pub tls_failures: Count,
    /// Messages refused because a connection's write queue was full.
    pub write_queue_full: Count,
    /// Messages moved to a new connection because theirs broke before they were written (RFC 3261 §18.2.2).
    pub moved: Count,
    /// Errors of `accept`, out of descriptors for the most part.
    pub accept_errors: Count,
}

impl TransportStats {
    /// The message counters of a transport.
    pub fn of(&self, transport: Transport) -> &MessageCounts {
        match transport {
            Transport::Udp => &self.udp,
            Transport::Tcp => &self.tcp,
            Transport::Tls => &self.tls,
        }
    }
}
