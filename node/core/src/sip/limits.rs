//! Limits of what one message may be. Beyond them the sender gets 400, 413, 414 or 513, or loses its connection.

/// Start line and header fields, with the empty line. Emergency calls with long Geolocation, Identity and History-Info fields
/// stay far below; more than this fits no datagram anyway.
pub const MAX_HEAD: usize = 64 * 1024;
/// Header fields of one message besides Content-Length: bounds the span list.
pub const MAX_HEADERS: usize = 256;
/// One header field with its folded lines: a chain of PASSporTs (RFC 8224) takes a few KiB.
pub const MAX_LINE: usize = 16 * 1024;
/// Request-URI: 414 beyond. Longest seen in the field are routes of a few hundred octets.
pub const MAX_URI: usize = 4 * 1024;
/// Body: SDP, PIDF-LO, eCall MSD and additional data (RFC 7852) in one multipart.
pub const MAX_BODY: usize = 256 * 1024;
/// Session description.
pub const MAX_SDP: usize = 64 * 1024;
/// m-lines of a session description, each of which may cost two port pairs.
pub const MAX_MEDIA: usize = 32;
