//! One service on this node: the task that drives its state machine, the thread that owns its VM, and the
//! port where its clients come in.

mod actions;
mod cancel;
mod client;
mod driver;
mod durable;
mod fill;
mod forward;
#[cfg(test)]
mod forward_tests;
mod generation;
mod guest_channel;
mod handle;
mod lag;
mod mend;
mod rebasing;
#[cfg(test)]
mod rebasing_tests;
mod rest;
mod status;
mod trouble;
mod vm_running;
mod vm_thread;

pub(crate) use handle::ServiceHandle;
pub(crate) use mend::Mender;
pub use status::ServiceStatus;
pub use trouble::Problem;

pub(crate) use driver::{Commands, ServiceParts, start};
pub(crate) use forward::{ClientPort, serve_clients, serve_forwarded};
pub(crate) use vm_thread::VmSettings;
