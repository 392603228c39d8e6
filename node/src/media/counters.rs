//! Counters that a media thread writes and anyone reads, without a lock between them.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use sbc_core::io::{MediaStats, Side, StreamStats};

/// Counters of one side of one session; written by its thread only.
#[derive(Debug, Default)]
pub(super) struct SideCounters {
    pub(super) rtp_packets: AtomicU64,
    pub(super) rtp_octets: AtomicU64,
    pub(super) rtcp_packets: AtomicU64,
    pub(super) dropped: AtomicU64,
}

impl SideCounters {
    /// Packets that were taken.
    pub(super) fn taken(&self) -> u64 {
        self.rtp_packets.load(Relaxed) + self.rtcp_packets.load(Relaxed)
    }

    fn read(&self) -> StreamStats {
        StreamStats {
            rtp_packets: self.rtp_packets.load(Relaxed),
            rtp_octets: self.rtp_octets.load(Relaxed),
            rtcp_packets: self.rtcp_packets.load(Relaxed),
            dropped: self.dropped.load(Relaxed),
        }
    }
}

/// Counters of one session, summed over its streams.
#[derive(Debug, Default)]
pub(super) struct SessionCounters {
    caller: SideCounters,
    callee: SideCounters,
}

impl SessionCounters {
    pub(super) fn side(&self, side: Side) -> &SideCounters {
        match side {
            Side::Caller => &self.caller,
            Side::Callee => &self.callee,
        }
    }

    /// The present values. Not one moment's: packets go on while it reads.
    pub(super) fn read(&self) -> MediaStats {
        MediaStats { caller: self.caller.read(), callee: self.callee.read() }
    }
}

/// Adds `n`; relaxed, because counters order nothing.
pub(super) fn add(counter: &AtomicU64, n: u64) {
    counter.fetch_add(n, Relaxed);
}

macro_rules! totals {
    ($($(#[$doc:meta])* $name:ident),* $(,)?) => {
        /// Counters of the whole engine since its start; `sessions` and `streams` are present numbers.
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
        pub struct MediaTotals {
            $($(#[$doc])* pub $name: u64,)*
        }

        impl MediaTotals {
            pub(super) fn add(&mut self, other: &MediaTotals) {
                $(self.$name += other.$name;)*
            }
        }

        /// One thread's part of [`MediaTotals`].
        #[derive(Debug, Default)]
        pub(super) struct ThreadTotals {
            $(pub(super) $name: AtomicU64,)*
        }

        impl ThreadTotals {
            pub(super) fn read(&self) -> MediaTotals {
                MediaTotals { $($name: self.$name.load(Relaxed),)* }
            }
        }
    };
}

totals! {
    /// Sessions open now.
    sessions,
    /// Streams open now.
    streams,
    /// RTP packets forwarded.
    rtp_forwarded,
    /// RTCP packets forwarded.
    rtcp_forwarded,
    /// Datagrams of other media forwarded, and what keys SRTP.
    other_forwarded,
    /// Dropped: from a source other than the latched one, or on a stream that is off.
    dropped_foreign,
    /// Dropped: neither RTP nor RTCP, or too long.
    dropped_invalid,
    /// Taken, but the other side has no address to send to: held, rejected or not yet signalled.
    unroutable,
    /// The kernel refused to send or to receive.
    socket_errors,
    /// `Open` orders that failed.
    open_failed,
    /// Those of them for which there were no ports or descriptors left.
    exhausted,
    /// `Remote` orders for a session or stream that is not open.
    remote_ignored,
    /// Orders refused because the queue was full or the thread down.
    commands_refused,
    /// `Latched` reports dropped because nobody read the event channel.
    events_dropped,
}
