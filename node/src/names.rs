//! What people call the nodes, as members come and go.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use sustain_proto::NodeId;

/// Names by id; clones share them.
#[derive(Debug, Clone, Default)]
pub(crate) struct Names {
    names: Arc<Mutex<BTreeMap<NodeId, String>>>,
}

impl Names {
    /// Adds names, or changes them. Those of nodes that are gone stay: logs still speak of them.
    pub(crate) fn learn(&self, names: impl IntoIterator<Item = (NodeId, String)>) {
        self.names.lock().unwrap_or_else(PoisonError::into_inner).extend(names);
    }

    /// A node's name; the beginning of its id if it has none.
    pub(crate) fn of(&self, node: &NodeId) -> String {
        let names = self.names.lock().unwrap_or_else(PoisonError::into_inner);
        names.get(node).cloned().unwrap_or_else(|| node.short())
    }
}
