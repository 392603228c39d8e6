//! Reliable provisional responses (RFC 3262), by trunk.

/// Whether a called trunk is offered 100rel that the caller does not.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum PrackPolicy {
    /// We offer it with an INVITE that has an offer, and acknowledge what comes of it.
    #[default]
    Offer,
    /// It hears what the caller says.
    Pass,
}
