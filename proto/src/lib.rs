//! The gRPC interfaces of the cluster, generated from the .proto files beside this crate's source.
//!
//! Module paths follow the protobuf packages below `sbc`, so that generated code finds its neighbours: `sbc.v1` is
//! [`v1`], `sbc.peer.v1` is [`peer`].

/// Control, for people and dispatch systems.
pub mod v1 {
    #![allow(missing_docs, unreachable_pub, unused_qualifications, clippy::all)]
    include!(concat!(env!("OUT_DIR"), "/sbc.v1.rs"));
}

/// Node to node.
pub mod peer {
    /// The package `sbc.peer.v1`.
    pub mod v1 {
        #![allow(missing_docs, unreachable_pub, unused_qualifications, clippy::all)]
        include!(concat!(env!("OUT_DIR"), "/sbc.peer.v1.rs"));
    }
    #[allow(unused_imports, unreachable_pub)]
    pub use v1::*;
}

/// Encoded `google.protobuf.FileDescriptorSet` of `sbc.v1` with its imports and options: for gRPC reflection, for
/// proto JSON, and for reading the permission of an RPC.
pub const FILE_DESCRIPTOR_SET: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/descriptors.bin"));
