//! Every limit of the engine, with its reason.

use std::time::Duration;

/// Streams (m-lines) of one session. An emergency call has audio, at times video and real-time text; more is an attack.
pub const MAX_STREAMS: u8 = 32;

/// Sessions of one thread: one address has 32,768 port pairs at the most, and each session needs one of each address.
pub const MAX_SESSIONS_PER_THREAD: usize = 32_768;

/// Threads: more than the cores of any machine that this runs on is a slip in the configuration.
pub const MAX_THREADS: usize = 256;

/// Orders that wait for one thread. A thread carries out tens of thousands a second; a longer queue would only hide that
/// it hangs. `Close` is taken beyond it (see `shard`), because a lost `Close` would leak ports.
pub const COMMAND_QUEUE: usize = 8_192;

/// Orders carried out between two looks at the sockets: an `Open` costs some 20 system calls, about 50 µs, and 32 of
/// them delay a packet by less than 2 ms.
pub(super) const COMMANDS_PER_WAKE: usize = 32;

/// Packets read from one socket before the next one's turn: a flood on one port must not delay the other calls by more
/// than about 0.1 ms a flooded socket.
pub(super) const PACKETS_PER_SOCKET: usize = 32;

/// Sockets that one poll reports; the others come with the next.
pub(super) const POLL_EVENTS: usize = 1_024;

/// The largest datagram forwarded. RTP stays under the path's MTU; jumbo frames carry no telephony.
pub(super) const MAX_DATAGRAM: usize = 2_048;

/// `Latched` reports that wait for room in the event channel; beyond it they are dropped and counted. Answers to orders
/// wait without a limit of their own: no order is carried out while one waits.
pub(super) const LATCHED_BACKLOG: usize = 4_096;

/// How soon a full event channel is tried again.
pub(super) const BACKLOG_RETRY: Duration = Duration::from_millis(5);

/// How long a released port pair rests: late packets of the old call (jitter buffers, retransmitted BYEs) must not reach
/// the next one. Two seconds of network delay and as many of a far end that has not seen its BYE.
pub(super) const PORT_REST: Duration = Duration::from_secs(4);

/// How many of the last port pairs and sockets are kept for emergency calls: an eighth, for there are few of them, and they come at once
/// when there is a reason.
pub(super) fn reserve_of(most: usize) -> usize {
    most / 8
}

/// Pairs tried for one side of one stream when other processes hold ports in the range.
pub(super) const BIND_TRIES: usize = 128;

/// How long the source that is heard must have been silent before another port of its host is heard (AC-54): ten lost packets in a row are
/// a lost path, and a speaker's pauses are longer, but who shares the host's address then is most likely the host itself.
pub(super) const RELATCH_SILENCE: Duration = Duration::from_millis(200);
