//! The disk's server: NBD, fixed newstyle, with structured replies and block status.
//!
//! ```text
//! handshake, request, reply, wire .. the protocol, as functions on bytes
//! server ........................... connections, at most so many
//! connection ....................... one client: a thread that reads, some that work
//! patient .......................... how long a client may take over what it began
//! places ........................... who is connected, and who has to make way
//! budget ........................... memory for requests in flight
//! ```

mod budget;
mod connection;
mod fuzzing;
mod handshake;
mod patient;
mod places;
mod reply;
mod request;
mod serve_request;
mod server;
mod wire;

pub(crate) use fuzzing::converse;
pub(crate) use reply::Extent;
pub(crate) use server::serve;
