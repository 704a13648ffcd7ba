//! A node of sustain: the state machine of P2 (pure logic) and the daemon that wires it to gossip, store and
//! vmdriver.

pub mod logic;
