//! Logic: how many fragments there are, and how many rebuild the data (P11, P12).

/// How data are cut for a cluster: any `needed` of `total` fragments rebuild them, and each node holds one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Code {
    /// Fragments that rebuild the data (k). With 1 every fragment is a copy of the whole.
    pub needed: usize,
    /// Different fragments (m).
    pub total: usize,
}

/// Different fragments for each neighbour that a node may have. More make encoding dear and copies of one's own
/// fragment rare; fewer make neighbours clash. Simulated with 100 nodes of degree 8: with 16 fragments 0.27 of the data
/// move for each node that leaves and one that joins, with 24 it is 0.24.
const FRAGMENTS_PER_NEIGHBOUR: usize = 3;

/// Neighbours that may hold what another one holds already, from this degree on, and twice as many from twice of it on.
/// Without this slack the choice of fragments is a puzzle, and nodes would fetch new ones at every change.
const SLACK_DEGREE: usize = 8;

/// A catastrophe is to leave the data if it leaves one of so many nodes, as far as each holds another fragment.
const LEFT_OF_ALL: usize = 3;

/// What codes over a field of 256 elements allow.
const FRAGMENTS_MAX: usize = 255;

impl Code {
    /// For a cluster of so many nodes, each with at most `degree` neighbours, so that what a closed neighbourhood holds
    /// survives the loss of any `tolerance` nodes of it.
    ///
    /// Where everyone is everyone's neighbour there is nothing to gain that is worth a node's being unable to go on
    /// by itself: every node holds a copy. The same holds where the degree is too small for two fragments.
    #[must_use]
    pub fn for_cluster(nodes: usize, degree: usize, tolerance: usize) -> Self {
        let whole = Self { needed: 1, total: 1 };
        if nodes <= degree + 1 {
            return whole;
        }
        let slack = 1 + degree / SLACK_DEGREE;
        match (degree + 1).saturating_sub(tolerance + slack).min(nodes / LEFT_OF_ALL) {
            0 | 1 => whole,
            needed => Self { needed, total: (FRAGMENTS_PER_NEIGHBOUR * degree).min(FRAGMENTS_MAX) },
        }
    }

    /// Whether every fragment is a copy of the whole.
    #[must_use]
    pub fn is_whole(self) -> bool {
        self.needed == 1
    }

    /// The share of the data that a node stores.
    #[must_use]
    pub fn share(self) -> f64 {
        1.0 / self.needed as f64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn small_clusters_hold_copies() {
        for nodes in 1..=9 {
            assert!(Code::for_cluster(nodes, 8, 1).is_whole());
        }
        assert_eq!(Code::for_cluster(10, 8, 1), Code { needed: 3, total: 24 });
        assert_eq!(Code::for_cluster(18, 8, 1), Code { needed: 6, total: 24 });
        assert_eq!(Code::for_cluster(100, 8, 2), Code { needed: 5, total: 24 });
        assert_eq!(Code::for_cluster(100, 16, 2), Code { needed: 12, total: 48 });
        assert!(Code::for_cluster(100, 8, 7).is_whole(), "only copies survive that");
        assert!(Code::for_cluster(100, 2, 1).is_whole());
        assert_eq!(Code::for_cluster(1_000, 200, 1).total, 255);
    }
}
