//! All that leads into one VM's guest, as the VM's owner holds it.

use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Instant;

use crate::qmp::{Client, QmpError};

use super::agent::Agent;
use super::channel::ChannelEnd;
use super::command::{GuestAgent, GuestError};
use super::ports::{self, OpenPorts, Ports};
use super::wake::{WakeReport, WakeStep, wake};

/// A guest's agent and channel.
#[derive(Debug)]
pub(crate) struct Guest {
    agent: Agent,
    channel: Option<ChannelEnd>,
    woken: Arc<Mutex<Option<WakeReport>>>,
}

impl Guest {
    /// Plugs the ports into a QEMU whose guest stands, before any state is loaded into it.
    ///
    /// # Errors
    /// If QEMU refuses.
    pub(crate) fn plug(qmp: &mut Client) -> Result<Self, QmpError> {
        let ports = Ports::plug(qmp)?;
        let channel = Some(ChannelEnd { stream: ports.channel, waiting: false });
        Ok(Self { agent: Agent::new(ports.agent), channel, woken: Arc::default() })
    }

    /// To be called right after a restored guest goes on. What can't be done is reported, and never fails
    /// the restore; what takes the guest's help is done in the background.
    pub(crate) fn restored(&mut self, qmp: &mut Client) {
        let started = Instant::now();
        let network = WakeStep::of(ports::announce(qmp).map_err(Into::into), started);
        let open = ports::open_ports(qmp).unwrap_or_else(|error| {
            tracing::warn!(%error, "can't tell which ports the restored guest has open");
            OpenPorts { agent: true, channel: true }
        });
        if let Some(channel) = &mut self.channel {
            channel.waiting = open.channel;
        }
        let agent = open.agent.then(|| self.agent.clone());
        let woken = Arc::clone(&self.woken);
        let waking = move || {
            let report = wake(network, agent.as_ref());
            *woken.lock().unwrap_or_else(PoisonError::into_inner) = Some(report);
        };
        // It ends by itself: each of its steps has a deadline, and all fail when QEMU ends.
        if let Err(error) = thread::Builder::new().name("guest-wake".to_owned()).spawn(waking) {
            tracing::warn!(%error, "nothing is told to the restored guest");
        }
    }

    /// The way to run programs, if somebody in the guest listens.
    ///
    /// # Errors
    /// [`GuestError::Absent`] if nobody does.
    pub(crate) fn agent(&self, qmp: &mut Client) -> Result<Arc<dyn GuestAgent>, GuestError> {
        let open = ports::open_ports(qmp).map_err(|error| GuestError::Lost { source: error.into() })?;
        if open.agent { Ok(Arc::new(self.agent.clone())) } else { Err(GuestError::Absent) }
    }

    pub(crate) fn take_channel(&mut self) -> Option<ChannelEnd> {
        self.channel.take()
    }

    pub(crate) fn take_wake_report(&mut self) -> Option<WakeReport> {
        self.woken.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}
