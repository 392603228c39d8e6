//! Before the answer: several early dialogs (RFC 3261 §12.1, §13.2.2.4), reliable provisional responses (RFC 3262), UPDATE
//! (RFC 3311), early media and delayed offers. Both far ends are driven by hand, by the letter of the RFCs.

mod bodies;
mod broken;
mod farewell;
mod forks;
mod ladder;
mod offers;
mod profiles;
mod realms;
mod refused;
mod reinvites;
mod reliable;
mod rules;
mod sessions;
mod transfer;

use std::collections::BTreeMap;
use std::net::SocketAddr;

use bytes::Bytes;
use sbc_core::io::{Counter, Side};
use sbc_core::sip::{Draft, HeaderId, Message, Method, NameAddr};

use crate::rig::{Far, RELIABLE, Rig, URI, anchored, made_by, methods, origin, sdp_of, statuses, text, uri_of};
use crate::world::{Fault, World};
