//! stub
/// Where the secret comes from under which chunks are named.
#[derive(Clone, PartialEq, Eq)]
pub enum KeySource {
    /// The store's own file `key`, made on the first push.
    Own,
    /// Given from outside: the cluster's. The store keeps its fingerprint only.
    Given([u8; 32]),
}

impl std::fmt::Debug for KeySource {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Own => "Own",
            Self::Given(_) => "Given(..)",
        })
    }
}
