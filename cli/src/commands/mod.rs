//! The commands: one file each, with its arguments and what it does with them.

pub(crate) mod cat;
pub(crate) mod demo;
pub(crate) mod diff;
pub(crate) mod disk_server;
pub(crate) mod gather;
pub(crate) mod gc;
pub(crate) mod init;
pub(crate) mod invite;
pub(crate) mod join;
pub(crate) mod key;
pub(crate) mod log;
pub(crate) mod mount;
pub(crate) mod node;
pub(crate) mod pin;
pub(crate) mod plan;
pub(crate) mod push;
pub(crate) mod rebase;
pub(crate) mod remove;
pub(crate) mod service;
pub(crate) mod status;
pub(crate) mod verify;
mod wait;
