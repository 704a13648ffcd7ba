//! Layers above each other, over a base: which of them has a byte.

use std::io;
use std::ops::Range;
use std::sync::Arc;

use super::layer::Layer;
use super::map::Unit;

/// Layers with units of one size, the top one first. What none of them has is the base's.
#[derive(Debug, Clone)]
pub(crate) struct View {
    pub(crate) layers: Vec<Arc<Layer>>,
}

/// Where a run of bytes is to be had.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Place<'a> {
    Layer(&'a Arc<Layer>),
    Zero,
    Base,
}

impl View {
    fn place(&self, unit: u64) -> Place<'_> {
        for layer in &self.layers {
            match layer.map().get(unit) {
                Unit::Absent => {}
                Unit::Data => return Place::Layer(layer),
                Unit::Zero => return Place::Zero,
            }
        }
        Place::Base
    }

    /// The range cut into runs that come from one place each, at most so many.
    pub(crate) fn runs(&self, range: Range<u64>, runs_max: usize) -> Vec<(Range<u64>, Place<'_>)> {
        let mut runs: Vec<(Range<u64>, Place<'_>)> = Vec::new();
        let unit_bytes = self.layers.first().map_or(u64::MAX, |layer| layer.unit_bytes());
        let mut at = range.start;
        while at < range.end {
            let unit = at / unit_bytes;
            let end = range.end.min((unit + 1).saturating_mul(unit_bytes));
            let place = self.place(unit);
            let is_full = runs.len() == runs_max;
            match runs.last_mut() {
                Some((last, of)) if is_same(of, &place) => last.end = end,
                _ if is_full => return runs,
                _ => runs.push((at..end, place)),
            }
            at = end;
        }
        runs
    }

    /// Fills the buffer; `base` reads what no layer has.
    pub(crate) fn read(
        &self,
        offset: u64,
        buffer: &mut [u8],
        mut base: impl FnMut(u64, &mut [u8]) -> io::Result<()>,
    ) -> io::Result<()> {
        let end = offset + buffer.len() as u64;
        for (range, place) in self.runs(offset..end, usize::MAX) {
            // Within the buffer, so it fits.
            let part = &mut buffer[(range.start - offset) as usize..(range.end - offset) as usize];
            match place {
                Place::Layer(layer) => layer.read(range.start, part)?,
                Place::Zero => part.fill(0),
                Place::Base => base(range.start, part)?,
            }
        }
        Ok(())
    }
}

fn is_same(one: &Place<'_>, other: &Place<'_>) -> bool {
    match (one, other) {
        (Place::Zero, Place::Zero) | (Place::Base, Place::Base) => true,
        (Place::Layer(one), Place::Layer(other)) => Arc::ptr_eq(one, other),
        _ => false,
    }
}
