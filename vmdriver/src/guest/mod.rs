//! What can be said to a guest, and what it can say: two serial ports that every VM has.
//!
//! ```text
//! ports ........ plugs both ports into QEMU       agent ..... the agent's client: run a program
//! channel ...... carries org.sustain.0's lines    wake ...... sets a guest right after a restore
//! command ...... what can be run                  handle .... all of it, for the VM's owner
//! ```
//!
//! Both are socket pairs of which QEMU holds one end: no name in any file system leads to them, and they
//! end with QEMU. QEMU saves in its device state which ports the guest has open, so a guest that talks to
//! a port before a snapshot goes on talking to it after the restore, without noticing that the other side
//! is another process on another host.

mod agent;
mod channel;
mod command;
mod handle;
mod ports;
mod wake;

pub use channel::{CHANNEL_PORT, ChannelEnd, ChannelInput, ChannelLink};
pub use command::{GuestAgent, GuestCommand, GuestError, GuestExit};
pub use wake::{WakeReport, WakeStep};

pub(crate) use handle::Guest;
pub(crate) use ports::DEVICES;
