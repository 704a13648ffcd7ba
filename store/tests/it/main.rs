//! Tests of the store through its public interface, in one program so that they link once.

mod common;
mod replication;
mod round_trip;
