//! Logic: the head of the region `device`: which machine its state belongs to, and whether another fits.
//!
//! ```text
//! magic (8) │ version (u32) │ bytes of the description (u32) │ description (JSON) │ QEMU's stream
//! ```
//! QEMU finds most mismatches itself, but by ending in the middle of loading, or not at all: a guest that finds its
//! processor poorer than it was crashes some time later. So what has to be the same is compared first.

use serde::{Deserialize, Serialize};

use crate::limits::DEVICE_HEADER_BYTES_MAX;

/// First bytes of the region.
const MAGIC: [u8; 8] = *b"SUSTDEVC";

/// The format's version.
const VERSION: u32 = 1;

/// Bytes before the description.
const FIXED_BYTES: usize = 16;

/// The machine that a state was saved on, or would be loaded into.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct MachineDescription {
    /// QEMU's machine type.
    pub(crate) machine: String,
    /// The processor model, as it was asked for.
    pub(crate) cpu: String,
    /// How instructions are run.
    pub(crate) accel: String,
    /// Virtual processors.
    pub(crate) cpus: u32,
    /// Bytes of memory.
    pub(crate) memory_bytes: u64,
    /// QEMU's version.
    pub(crate) qemu: String,
    /// What the guest finds its processor able to do.
    pub(crate) features: Vec<FeatureWord>,
}

/// One register of the processor's `CPUID` instruction.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct FeatureWord {
    /// The leaf.
    pub(crate) eax: u32,
    /// The leaf's part, if it has any.
    pub(crate) ecx: Option<u32>,
    /// The register's name.
    pub(crate) register: String,
    /// Its bits, one a feature.
    pub(crate) bits: u32,
}

/// What does not fit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Mismatch {
    pub(crate) what: &'static str,
    pub(crate) saved: String,
    pub(crate) here: String,
}

/// Why there is no description.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum HeaderError {
    /// Something else, or nothing.
    #[error("it does not begin as the state of a VM's devices does")]
    NotOurs,
    /// From the future, or the past.
    #[error("it has format version {found}, this program reads version {VERSION}")]
    Version {
        /// The version found.
        found: u32,
    },
    /// Cut off, too long, or no JSON.
    #[error("the description of its machine can't be read")]
    Damaged,
}

impl MachineDescription {
    /// The head of a region: the stream follows it.
    pub(crate) fn to_header(&self) -> Result<Vec<u8>, HeaderError> {
        let text = serde_json::to_vec(self).map_err(|_| HeaderError::Damaged)?;
        let bytes = u32::try_from(text.len()).map_err(|_| HeaderError::Damaged)?;
        if FIXED_BYTES + text.len() > DEVICE_HEADER_BYTES_MAX {
            return Err(HeaderError::Damaged);
        }
        Ok([MAGIC.as_slice(), &VERSION.to_le_bytes(), &bytes.to_le_bytes(), &text].concat())
    }

    /// Reads the head from a region's first [`DEVICE_HEADER_BYTES_MAX`] bytes, or all if it has fewer. Also
    /// returns where the stream begins.
    pub(crate) fn from_header(bytes: &[u8]) -> Result<(Self, u64), HeaderError> {
        let number = |at: usize| Some(u32::from_le_bytes(bytes.get(at..at + 4)?.try_into().ok()?));
        if bytes.get(..8) != Some(&MAGIC) {
            return Err(HeaderError::NotOurs);
        }
        match number(8) {
            Some(VERSION) => {}
            Some(found) => return Err(HeaderError::Version { found }),
            None => return Err(HeaderError::Damaged),
        }
        let length =
            number(12).and_then(|length| usize::try_from(length).ok()).ok_or(HeaderError::Damaged)?;
        let end = FIXED_BYTES.checked_add(length).filter(|end| *end <= DEVICE_HEADER_BYTES_MAX);
        let text = end.and_then(|end| bytes.get(FIXED_BYTES..end)).ok_or(HeaderError::Damaged)?;
        let description = serde_json::from_slice(text).map_err(|_| HeaderError::Damaged)?;
        Ok((description, (FIXED_BYTES + length) as u64))
    }

    /// Whether a state that was saved on `self` can be loaded into another machine, as far as its spec tells.
    /// The version of QEMU may differ, and the features are compared once they are known.
    pub(crate) fn check_spec(&self, here: &Self) -> Result<(), Mismatch> {
        let rows = [
            ("machine type", self.machine.clone(), here.machine.clone()),
            ("processor model", self.cpu.clone(), here.cpu.clone()),
            ("accelerator", self.accel.clone(), here.accel.clone()),
            ("number of processors", self.cpus.to_string(), here.cpus.to_string()),
            ("memory size", self.memory_bytes.to_string(), here.memory_bytes.to_string()),
        ];
        match rows.into_iter().find(|(_, saved, here)| saved != here) {
            Some((what, saved, here)) => Err(Mismatch { what, saved, here }),
            None => Ok(()),
        }
    }

    /// Whether another processor can do all that this one could. More is no harm: the guest looked when it
    /// booted.
    pub(crate) fn check_features(&self, here: &[FeatureWord]) -> Result<(), Mismatch> {
        for saved in &self.features {
            let same = |word: &&FeatureWord| {
                (word.eax, word.ecx, &word.register) == (saved.eax, saved.ecx, &saved.register)
            };
            let found = here.iter().find(same).map_or(0, |word| word.bits);
            if saved.bits & !found != 0 {
                let leaf = format!("{:#x}", saved.eax);
                let part = saved.ecx.map_or(String::new(), |ecx| format!(".{ecx}"));
                let name = |bits: u32| format!("CPUID {leaf}{part} {} = {bits:#010x}", saved.register);
                let (what, here) = ("processor with the features", name(found));
                return Err(Mismatch { what, saved: name(saved.bits), here });
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn description() -> MachineDescription {
        let word = |eax, ecx, bits| FeatureWord { eax, ecx, register: "EDX".into(), bits };
        MachineDescription {
            machine: "pc-q35-7.2".into(),
            cpu: "qemu64".into(),
            accel: "tcg".into(),
            cpus: 2,
            memory_bytes: 256 << 20,
            qemu: "7.2.22".into(),
            features: vec![word(1, None, 0b1011), word(13, Some(1), 0)],
        }
    }

    #[test]
    fn a_header_survives_its_way_and_says_where_the_stream_begins() {
        let mut region = description().to_header().unwrap();
        let end = region.len() as u64;
        region.extend(b"QEVM...");
        assert_eq!(MachineDescription::from_header(&region).unwrap(), (description(), end));
    }

    #[test]
    fn what_is_no_header_is_refused_by_name() {
        let good = description().to_header().unwrap();
        let read = |bytes: &[u8]| MachineDescription::from_header(bytes).unwrap_err();
        assert_eq!(read(b""), HeaderError::NotOurs);
        assert_eq!(read(b"QEVM\0\0\0\x03 and so on, as QEMU writes it"), HeaderError::NotOurs);
        let mut other = good.clone();
        other[8] = 9;
        assert_eq!(read(&other).to_string(), "it has format version 9, this program reads version 1");
        for length in 8..good.len() {
            assert_eq!(read(&good[..length]), HeaderError::Damaged, "{length} bytes");
        }
        let mut long = good;
        long[12..16].copy_from_slice(&u32::MAX.to_le_bytes());
        assert_eq!(read(&long), HeaderError::Damaged);
    }

    #[test]
    fn another_machine_is_refused_and_another_version_of_qemu_is_not() {
        type Change = fn(&mut MachineDescription);
        let changes: [(&str, Change); 5] = [
            ("machine type", |m| m.machine = "pc-q35-8.0".into()),
            ("processor model", |m| m.cpu = "max".into()),
            ("accelerator", |m| m.accel = "kvm".into()),
            ("number of processors", |m| m.cpus = 1),
            ("memory size", |m| m.memory_bytes *= 2),
        ];
        for (what, change) in changes {
            let mut here = description();
            change(&mut here);
            assert_eq!(description().check_spec(&here).unwrap_err().what, what);
        }
        let mut newer = description();
        newer.qemu = "10.0.2".into();
        newer.features.clear();
        assert_eq!(description().check_spec(&newer), Ok(()));
    }

    #[test]
    fn a_processor_may_have_more_features_and_not_fewer() {
        let mut here = description().features;
        assert_eq!(description().check_features(&here), Ok(()));
        here[0].bits = 0b1111;
        assert_eq!(description().check_features(&here), Ok(()));
        here[0].bits = 0b0111;
        let mismatch = description().check_features(&here).unwrap_err();
        assert_eq!(mismatch.saved, "CPUID 0x1 EDX = 0x0000000b");
        assert_eq!(mismatch.here, "CPUID 0x1 EDX = 0x00000007");
        assert!(description().check_features(&[]).is_err());
        // The part belongs to the name.
        here = description().features;
        here[0].ecx = Some(0);
        assert!(description().check_features(&here).is_err());
    }
}
