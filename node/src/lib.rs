//! The node's parts: what core decides, done with sockets, threads and clocks.

pub mod media;
