//! Logic: the inodes that the kernel knows of, each for as long as it does.

use std::collections::HashMap;

use super::node::{Node, ROOT};
use crate::limits;

#[derive(Debug)]
struct Known {
    node: Node,
    key: String,
    /// How often the kernel was told of it and has not forgotten that yet.
    lookups: u64,
}

/// Inodes by number.
#[derive(Debug, Default)]
pub(crate) struct Inodes {
    known: HashMap<u64, Known>,
}

/// Why the kernel can't be told of an inode.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum InodeFault {
    /// It knows of too many.
    TooMany,
    /// Another key has the same number, which happens once in the age of the universe.
    Collision,
}

impl Inodes {
    /// What a number stands for.
    pub(crate) fn get(&self, number: u64) -> Option<Node> {
        if number == ROOT {
            return Some(Node::Root);
        }
        self.known.get(&number).map(|known| known.node.clone())
    }

    /// Notes that the kernel is told of a node; its number, and what is known under it.
    pub(crate) fn tell(&mut self, node: Node) -> Result<(u64, Node), InodeFault> {
        let (number, key) = (node.number(), node.key());
        if let Some(known) = self.known.get_mut(&number) {
            if known.key != key {
                return Err(InodeFault::Collision);
            }
            known.lookups += 1;
            return Ok((number, known.node.clone()));
        }
        if self.known.len() >= limits::INODES_MAX {
            return Err(InodeFault::TooMany);
        }
        self.known.insert(number, Known { node: node.clone(), key, lookups: 1 });
        Ok((number, node))
    }

    /// The kernel forgets so many of the times that it was told.
    pub(crate) fn forget(&mut self, number: u64, times: u64) {
        if let Some(known) = self.known.get_mut(&number) {
            known.lookups = known.lookups.saturating_sub(times);
            if known.lookups == 0 {
                self.known.remove(&number);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::node::LATEST;
    use super::*;
    use sustain_proto::ServiceName;

    #[test]
    fn an_inode_is_known_until_it_was_forgotten_as_often_as_told() {
        let mut inodes = Inodes::default();
        let node = Node::Service(ServiceName::new("mail").unwrap());
        let (number, _) = inodes.tell(node.clone()).unwrap();
        assert_eq!(inodes.tell(node).unwrap().0, number);
        inodes.forget(number, 1);
        assert!(inodes.get(number).is_some());
        inodes.forget(number, 1);
        assert!(inodes.get(number).is_none());
        inodes.forget(number, 1);
        inodes.forget(ROOT, 5);
        assert!(matches!(inodes.get(ROOT), Some(Node::Root)));
    }

    /// A former id once stayed the folder that it had been, and showed a snapshot that was no longer in the store.
    #[test]
    fn a_link_in_the_place_of_a_folder_is_another_inode() {
        let service = ServiceName::new("mail").unwrap();
        let (folder, link) = (Node::Latest(service.clone()), Node::Alias(service, LATEST.to_owned()));
        assert_eq!(folder.path(), link.path());
        assert_ne!(folder.number(), link.number());
    }

    #[test]
    fn the_number_of_inodes_is_bounded() {
        let mut inodes = Inodes::default();
        let alias = |number: usize| Node::Alias(ServiceName::new("s").unwrap(), format!("{number:08x}"));
        for number in 0..limits::INODES_MAX {
            inodes.tell(alias(number)).unwrap();
        }
        assert_eq!(inodes.tell(alias(limits::INODES_MAX)).unwrap_err(), InodeFault::TooMany);
        inodes.tell(alias(0)).unwrap();
    }
}
