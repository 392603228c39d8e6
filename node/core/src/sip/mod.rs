//! The SIP wire layer: framing, scanning, editing and writing messages and session descriptions.
//!
//! Written by hand over received bytes. It keeps true: nothing that arrives panics or costs more than linear time and the
//! limits in [`limits`]; a header field that is not changed leaves as it came, in its order; a bad request still
//! yields what its stateless answer needs ([`ParseError::reply`]).

pub mod draft;
mod error;
pub mod header;
pub mod limits;
pub mod message;
pub mod method;
pub mod multipart;
pub mod name_addr;
mod octets;
pub mod parts;
mod scan;
pub mod sdp;
pub mod status;
pub mod stream;
mod text;
pub mod uri;
pub mod via;

pub use draft::{Draft, WriteError};
pub use error::{ParseError, ParseErrorKind};
pub use header::HeaderId;
pub use message::{Field, Message};
pub use method::Method;
pub use multipart::{Multipart, MultipartError};
pub use name_addr::{AddrError, NameAddr, is_star};
pub use octets::readable;
pub use sdp::{Carrier, Direction, LineRewrite, MediaLine, Sdp, SdpError, SdpOrigin, SdpRewrite};
pub use status::reason_phrase;
pub use stream::{Frame, FrameError, FrameErrorKind, StreamFramer, is_keepalive};
pub use text::{Params, is_token, params, quote, split_list, unquote};
pub use uri::{Scheme, Uri, UriError, unescape};
pub use via::{Via, ViaError};
