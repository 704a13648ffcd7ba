//! Invitations of this node: which are open, kept in a file, as hashes, so that who reads it can't join.

use std::path::PathBuf;
use std::sync::Mutex;

use ring::rand::{SecureRandom, SystemRandom};
use serde::{Deserialize, Serialize};
use sustain_proto::join::JoinRefusal;
use sustain_proto::{Format, NodeId};

use crate::error::{MembershipError, StartError};
use crate::limits;
use crate::roster_file::{self, RosterFileError};
use crate::transport::links::lock;

const FORMAT: Format = Format {
    name: "list of invitations",
    magic: *b"SURi",
    version: 1,
    bytes_max: limits::INVITATIONS_FILE_BYTES_MAX,
};

/// One that was made.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Invitation {
    hash: [u8; 32],
    /// By the system's clock.
    expires_ms: u64,
    /// Whether the node is to hold data only, and gets no secret.
    holder: bool,
    /// Who has joined with it. That one may ask again: the answer may not have reached it.
    used_by: Option<NodeId>,
}

/// All that have not expired.
pub(crate) struct Invitations {
    list: Mutex<Vec<Invitation>>,
    file: Option<PathBuf>,
}

impl Invitations {
    /// Those in a file, if there is one.
    pub(crate) fn load(file: Option<PathBuf>) -> Result<Self, RosterFileError> {
        let bytes = file.as_deref().map(|path| roster_file::read(path, limits::INVITATIONS_FILE_BYTES_MAX));
        let list = match (bytes.transpose()?.flatten(), &file) {
            (Some(bytes), Some(path)) => sustain_proto::decode(FORMAT, &bytes)
                .map_err(|source| RosterFileError::Damaged { path: path.clone(), source })?,
            _ => Vec::new(),
        };
        Ok(Self { list: Mutex::new(list), file })
    }

    /// Makes one. Blocks on the disk.
    pub(crate) fn make(
        &self,
        holder: bool,
        now_ms: u64,
        expires_ms: u64,
    ) -> Result<[u8; 16], MembershipError> {
        let mut secret = [0; 16];
        SystemRandom::new().fill(&mut secret).map_err(|_| StartError::Random)?;
        let mut list = lock(&self.list);
        list.retain(|it| it.expires_ms > now_ms);
        if list.len() >= limits::INVITATIONS_MAX {
            return Err(MembershipError::TooManyInvitations { max: limits::INVITATIONS_MAX });
        }
        list.push(Invitation { hash: hash(&secret), expires_ms, holder, used_by: None });
        self.save(&list)?;
        Ok(secret)
    }

    /// Whether somebody may come with one.
    pub(crate) fn any_open(&self, now_ms: u64) -> bool {
        lock(&self.list).iter().any(|it| it.used_by.is_none() && it.expires_ms > now_ms)
    }

    /// Whether this node may join with one.
    pub(crate) fn look(&self, secret: &[u8; 16], node: NodeId, now_ms: u64) -> Result<(), JoinRefusal> {
        let hash = hash(secret);
        let list = lock(&self.list);
        let found = list.iter().find(|it| it.hash == hash && it.expires_ms > now_ms);
        match found.ok_or(JoinRefusal::Unknown)?.used_by {
            Some(by) if by != node => Err(JoinRefusal::Used),
            _ => Ok(()),
        }
    }

    /// Uses one up, for this node. Whether it is to hold data only. Blocks on the disk.
    pub(crate) fn redeem(&self, secret: &[u8; 16], node: NodeId, now_ms: u64) -> Result<bool, JoinRefusal> {
        let mut list = lock(&self.list);
        let hash = hash(secret);
        let found = list.iter_mut().find(|it| it.hash == hash && it.expires_ms > now_ms);
        let invitation = found.ok_or(JoinRefusal::Unknown)?;
        let holder = invitation.holder;
        match invitation.used_by {
            Some(by) if by == node => return Ok(holder),
            Some(_) => return Err(JoinRefusal::Used),
            None => invitation.used_by = Some(node),
        }
        match self.save(&list) {
            Ok(()) => Ok(holder),
            Err(error) => {
                // It counts as used until the next start; nobody was let in with it.
                Err(JoinRefusal::Other { reason: sustain_store::error_chain(&error) })
            }
        }
    }

    fn save(&self, list: &Vec<Invitation>) -> Result<(), RosterFileError> {
        let Some(path) = &self.file else { return Ok(()) };
        let bytes = sustain_proto::encode(FORMAT, list)
            .map_err(|source| RosterFileError::Damaged { path: path.clone(), source })?;
        roster_file::replace(path, &bytes)
    }
}

fn hash(secret: &[u8; 16]) -> [u8; 32] {
    blake3::derive_key("sustain 2026 invitation v1", secret)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_invitation_works_once_for_one_node_also_after_a_restart() {
        let folder = tempfile::tempdir().unwrap();
        let file = Some(folder.path().join("node.invitations"));
        let (one, other) = (NodeId::from_bytes([1; 32]), NodeId::from_bytes([2; 32]));
        let invitations = Invitations::load(file.clone()).unwrap();
        assert!(!invitations.any_open(0));
        let secret = invitations.make(true, 0, 1_000).unwrap();
        let bytes = std::fs::read(file.as_ref().unwrap()).unwrap();
        assert!(!bytes.windows(16).any(|window| window == secret), "the file does not let anybody join");
        assert_eq!(invitations.redeem(&[0; 16], one, 5), Err(JoinRefusal::Unknown));
        let again = Invitations::load(file.clone()).unwrap();
        assert!(again.any_open(5));
        assert_eq!(again.look(&secret, other, 5), Ok(()));
        assert_eq!(again.redeem(&secret, one, 5), Ok(true));
        assert_eq!(again.look(&secret, other, 5), Err(JoinRefusal::Used));
        assert!(!again.any_open(5));
        let again = Invitations::load(file).unwrap();
        assert_eq!(again.redeem(&secret, other, 6), Err(JoinRefusal::Used));
        assert_eq!(again.redeem(&secret, one, 6), Ok(true), "whose answer was lost");
        assert_eq!(again.redeem(&secret, one, 1_000), Err(JoinRefusal::Unknown), "expired");
    }

    #[test]
    fn there_are_only_so_many() {
        let invitations = Invitations::load(None).unwrap();
        for _ in 0..limits::INVITATIONS_MAX {
            invitations.make(false, 0, 1_000).unwrap();
        }
        assert!(invitations.make(false, 0, 1_000).is_err());
        invitations.make(false, 1_000, 2_000).unwrap();
    }
}
