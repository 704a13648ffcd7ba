//! Steps by which something comes from another store: packs, states, a partial opening; and packs that go bad.

use sustain_proto::PackId;
use sustain_proto::limits::GROUP_BYTES;
use sustain_store::{Partial, Store};

use super::line::Doubt;
use super::offer::{OFFER, bytes_of};
use super::{CHUNK, Failed, IMPORTED, World, failed, pack_path};
use crate::common::*;

impl World {
    pub(super) fn receive(&mut self, store: &Store, state: usize, without: usize) -> Result<(), Failed> {
        let state = &OFFER.states[state];
        let count = state.packs.len().saturating_sub(without);
        for id in &state.packs[..count] {
            if !store.has_pack(id) {
                self.received.insert(*id);
                receive(store, *id, &OFFER.packs[id])?;
                self.waiting.insert(*id);
            }
        }
        Ok(())
    }

    pub(super) fn open_partial(&mut self, store: &Store) -> Result<(), Failed> {
        let state = &OFFER.states[0];
        loop {
            let opened = store.open_partial(&state.manifests, &OFFER.partial, &[region("disk0")]);
            match opened.map_err(failed)? {
                Partial::Lacking(packs) => {
                    for pack in packs {
                        self.received.insert(pack.id);
                        receive(store, pack.id, &OFFER.packs[&pack.id])?;
                        self.waiting.insert(pack.id);
                    }
                }
                Partial::Open(reader) => {
                    let mut chunk = vec![0; CHUNK];
                    match reader.read_chunk(&region("ram"), 0, &mut chunk) {
                        Ok(_) => {}
                        // The pack came and went again: too many others did.
                        Err(error) => return Err(failed(error)),
                    }
                    assert!(chunk == state.content[&3]["ram"][..CHUNK]);
                    return Ok(());
                }
            }
        }
    }

    pub(super) fn import(&mut self, store: &Store, state: usize) -> Result<(), Failed> {
        self.receive(store, state, 0)?;
        let state = &OFFER.states[state];
        // Once a manifest lists them, which may be though this fails, what drops it drops them.
        self.waiting.retain(|id| !state.packs.contains(id));
        self.attempts += 1;
        let attempt = self.attempts;
        let line = self.line(IMPORTED);
        let missing = || state.content.iter().filter(|(seq, _)| !line.kept.contains_key(seq));
        let doubts: Vec<Doubt> =
            missing().map(|(seq, content)| Doubt { attempt, seq: *seq, content: content.clone() }).collect();
        line.doubtful.extend(doubts);
        store.import(&state.manifests).map_err(failed)?;
        line.doubtful.retain(|doubt| doubt.attempt != attempt);
        for (seq, content) in &state.content {
            line.kept.entry(*seq).or_insert((attempt, content.clone()));
        }
        Ok(())
    }

    pub(super) fn retire(&mut self, store: &Store) -> Result<(), Failed> {
        let state = &OFFER.states[1];
        if !self.list(IMPORTED).iter().any(|info| info.id == state.base) {
            return Ok(());
        }
        let line = self.line(IMPORTED);
        let kept = line.kept.split_off(&state.base_seq);
        let mut going = std::mem::replace(&mut line.kept, kept);
        match store.retire_superseded(state.base) {
            Ok(_) => {
                // What is durable waits for something durable that supersedes it, and its base with it.
                if !line.marks.is_empty() || !line.marks_doubtful.is_empty() {
                    line.dropped.extend(going.clone());
                }
                line.keep_durable(state.base_seq, going);
                Ok(())
            }
            Err(error) => {
                line.dropped.extend(going.clone());
                line.kept.append(&mut going);
                Err(failed(error))
            }
        }
    }

    pub(super) fn mend(&mut self, store: &Store, name: &'static str) -> Result<(), Failed> {
        let Some(newest) = self.list(name).pop() else { return Ok(()) };
        let pack = store.packs_needed(newest.id).map_err(failed)?.pop().unwrap();
        let bytes = bytes_of(store, pack.id).map_err(failed)?;
        self.damaged = Some((pack.id, bytes));
        self.disk.damage(&pack_path(pack.id), |bytes| bytes.iter_mut().step_by(7).for_each(|b| *b ^= 0x10));
        self.heal(store)
    }

    /// Replaces the pack that was damaged on purpose.
    pub(super) fn heal(&mut self, store: &Store) -> Result<(), Failed> {
        if let Some((id, bytes)) = &self.damaged {
            if store.set_aside_if_damaged(*id).map_err(failed)? {
                receive(store, *id, bytes)?;
            }
            self.damaged = None;
        }
        Ok(())
    }
}

/// In one go, or group by group in two goes: both ways of receiving see all faults.
fn receive(store: &Store, id: PackId, bytes: &[u8]) -> Result<(), Failed> {
    if id.as_bytes()[0] % 2 == 0 {
        return receive_groups(store, id, bytes);
    }
    let mut receiver = store.receive_pack(id, bytes.len() as u64).map_err(failed)?;
    for part in bytes.chunks(100_000) {
        receiver.write(part).map_err(failed)?;
    }
    receiver.finish().map_err(failed)?;
    Ok(())
}

fn receive_groups(store: &Store, id: PackId, bytes: &[u8]) -> Result<(), Failed> {
    let (pack, list) = crate::receive_groups::listed(id, bytes);
    let groups: Vec<&[u8]> = bytes.chunks(GROUP_BYTES as usize).collect();
    for go in 0..2 {
        let receiver = store.receive_groups(pack, list.clone()).map_err(failed)?;
        for (number, group) in
            groups.iter().enumerate().rev().filter(|(number, _)| go == 1 || number % 2 == 1)
        {
            receiver.write(number, group).map_err(failed)?;
        }
        if receiver.is_whole() {
            return store.keep_received(&[receiver]).map_err(failed);
        }
    }
    unreachable!("all groups were written");
}
