//! Which versions of the wire two nodes speak, and what the handshake calls them.
//!
//! A node speaks the newest version and the one before it, once there are two. The protocol names of a connection
//! (ALPN) carry lane and version; both ends take the greatest version that both speak. Where there is none they agree
//! on [`VERSIONS_ALPN`], a connection on which each only says what it speaks.

use super::{Lane, Message, Request};

/// The newest version of the wire that this build speaks. `CONTRIBUTING.md` says when it is raised.
pub const WIRE_VERSION: u16 = 3;

/// The oldest version that this build speaks: the first one that was released, or the one before [`WIRE_VERSION`].
pub const WIRE_VERSION_MIN: u16 = 3;

/// The first version that was released: what has been there from the beginning is in every version.
const FIRST: u16 = 3;

/// What the handshake agrees on where two nodes have no version in common. It never changes.
pub const VERSIONS_ALPN: &[u8] = b"sustain-versions";

/// The versions that a node speaks, without gaps.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Versions {
    least: u16,
    greatest: u16,
}

impl Default for Versions {
    fn default() -> Self {
        Self { least: WIRE_VERSION_MIN, greatest: WIRE_VERSION }
    }
}

impl Versions {
    /// From one version to another one; none if the first is greater, or there are more than two.
    #[must_use]
    pub const fn new(least: u16, greatest: u16) -> Option<Self> {
        if least <= greatest && greatest - least <= 1 { Some(Self { least, greatest }) } else { None }
    }

    /// The least one.
    #[must_use]
    pub const fn least(self) -> u16 {
        self.least
    }

    /// The protocol names of a lane, the greatest version first.
    pub fn alpns(self, lane: Lane) -> impl Iterator<Item = Vec<u8>> {
        (self.least..=self.greatest).rev().map(move |version| lane.alpn(version))
    }

    /// The greatest version that both speak.
    #[must_use]
    pub fn common(self, other: Self) -> Option<u16> {
        let greatest = self.greatest.min(other.greatest);
        (greatest >= self.least.max(other.least)).then_some(greatest)
    }

    /// What is told where there is no common version: the two numbers in decimal.
    #[must_use]
    pub fn to_text(self) -> String {
        format!("{}-{}", self.least, self.greatest)
    }

    /// Reads what another node has told. It may speak more versions than this build would.
    #[must_use]
    pub fn from_text(text: &[u8]) -> Option<Self> {
        let (least, greatest) = std::str::from_utf8(text).ok()?.split_once('-')?;
        let (least, greatest) = (number(least)?, number(greatest)?);
        (least <= greatest).then_some(Self { least, greatest })
    }

    /// Why these two can't talk, as this node's people are told.
    #[must_use]
    pub fn mismatch(self, other: Self) -> String {
        let advice = if other.greatest < self.least { "upgrade it first" } else { "upgrade this one" };
        format!("speaks {other}, this node {self}; {advice}")
    }
}

impl std::fmt::Display for Versions {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { least, greatest } = self;
        match greatest - least {
            0 => write!(f, "version {least} of the wire"),
            1 => write!(f, "versions {least} and {greatest} of the wire"),
            _ => write!(f, "versions {least} to {greatest} of the wire"),
        }
    }
}

/// A number as [`Versions::to_text`] and [`Lane::alpn`] write it, and in no other form.
fn number(digits: &str) -> Option<u16> {
    let is_plain = digits.bytes().all(|digit| digit.is_ascii_digit()) && !digits.starts_with('0');
    digits.parse().ok().filter(|_| is_plain)
}

impl Lane {
    const fn word(self) -> &'static str {
        match self {
            Self::Control => "control",
            Self::Bulk => "bulk",
            Self::Forward => "forward",
        }
    }

    /// The lane's protocol name in the handshake, at a version.
    #[must_use]
    pub fn alpn(self, version: u16) -> Vec<u8> {
        format!("sustain-{}/{version}", self.word()).into_bytes()
    }

    /// The lane and the version that a protocol name stands for.
    #[must_use]
    pub fn of_alpn(name: &[u8]) -> Option<(Self, u16)> {
        let (word, version) = std::str::from_utf8(name).ok()?.strip_prefix("sustain-")?.split_once('/')?;
        let lane = Self::ALL.into_iter().find(|lane| lane.word() == word)?;
        Some((lane, number(version)?))
    }
}

// Each kind is named, so that a new one is not added without saying since when it is there.
impl Message {
    /// The first version of the wire that has it; to a peer that speaks an older one it is not sent.
    #[must_use]
    pub const fn since(&self) -> u16 {
        match self {
            Self::Probe { .. } | Self::ProbeReply { .. } | Self::Heartbeat(_) | Self::Roster { .. } => FIRST,
        }
    }
}

impl Request {
    /// The first version of the wire that has it; to a peer that speaks an older one it is not sent.
    #[must_use]
    pub const fn since(&self) -> u16 {
        match self {
            Self::Poll { .. }
            | Self::Claim { .. }
            | Self::Snapshots { .. }
            | Self::GetManifest { .. }
            | Self::HavePacks { .. }
            | Self::GetPack { .. }
            | Self::Connect { .. }
            | Self::GetGroups { .. }
            | Self::GetRanges { .. }
            | Self::Roster { .. }
            | Self::Ask(_)
            | Self::HaveFragments { .. }
            | Self::GetSheets { .. } => FIRST,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn versions(least: u16, greatest: u16) -> Versions {
        Versions::new(least, greatest).unwrap()
    }

    #[test]
    fn the_greatest_common_version_is_taken() {
        assert_eq!(versions(3, 4).common(versions(4, 5)), Some(4));
        assert_eq!(versions(3, 4).common(versions(3, 4)), Some(4));
        assert_eq!(versions(3, 3).common(versions(3, 4)), Some(3));
        assert_eq!(versions(2, 3).common(versions(4, 5)), None);
        assert!(Versions::new(3, 5).is_none() && Versions::new(4, 3).is_none());
    }

    #[test]
    fn names_carry_lane_and_version_and_nothing_else_is_one() {
        for lane in Lane::ALL {
            let names: Vec<Vec<u8>> = versions(9, 10).alpns(lane).collect();
            assert_eq!(
                names.iter().filter_map(|name| Lane::of_alpn(name)).collect::<Vec<_>>(),
                [(lane, 10), (lane, 9)]
            );
        }
        assert_eq!(Lane::Bulk.alpn(3), b"sustain-bulk/3");
        for other in [
            &b"sustain-bulk"[..],
            b"sustain-bulk/",
            b"sustain-bulk/03",
            b"sustain-bulk/+3",
            b"sustain-bulk/99999",
            b"sustain-join/2",
            b"h3",
            b"\xff",
            VERSIONS_ALPN,
        ] {
            assert_eq!(Lane::of_alpn(other), None);
        }
    }

    #[test]
    fn a_mismatch_is_told_with_what_to_do() {
        let (old, new) = (versions(2, 2), versions(3, 4));
        let expected =
            "speaks version 2 of the wire, this node versions 3 and 4 of the wire; upgrade it first";
        assert_eq!(new.mismatch(old), expected);
        assert!(old.mismatch(new).ends_with("upgrade this one"));
        for each in [old, new] {
            assert_eq!(Versions::from_text(each.to_text().as_bytes()), Some(each));
        }
        for wrong in ["", "3", "4-3", "3-", "-3", "3-4-5", "03-04"] {
            assert_eq!(Versions::from_text(wrong.as_bytes()), None, "{wrong}");
        }
    }
}
