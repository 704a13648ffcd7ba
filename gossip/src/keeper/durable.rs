//! Logic: how many losses of nodes a pack survives.

/// How many losses of nodes leave a pack that any `needed` of its fragments rebuild, with so many nodes that hold
/// all of it, and so many others that hold fragments of different numbers. None if it can't be rebuilt even now.
///
/// Whoever wants it lost takes all that hold the whole pack first, and then fragments until one too few is left.
#[must_use]
pub fn level(needed: usize, whole: usize, fragments: usize) -> Option<usize> {
    let by_whole = whole.checked_sub(1);
    let by_fragments = if fragments >= needed { (whole + fragments).checked_sub(needed) } else { None };
    by_whole.max(by_fragments)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Tries every set of losses.
    fn level_by_trying(needed: usize, whole: usize, fragments: usize) -> Option<usize> {
        let nodes = whole + fragments;
        let survives = |lost: u32| {
            let left = |from: usize, to: usize| (from..to).filter(|node| lost >> node & 1 == 0).count();
            left(0, whole) > 0 || left(whole, nodes) >= needed
        };
        let all = |losses: usize| {
            (0..1_u32 << nodes).filter(|lost| lost.count_ones() as usize == losses).all(survives)
        };
        (0..nodes).take_while(|losses| all(*losses)).last()
    }

    #[test]
    fn it_is_what_trying_all_losses_finds() {
        for needed in 1..5 {
            for whole in 0..5 {
                for fragments in 0..7 {
                    let expected = level_by_trying(needed, whole, fragments);
                    assert_eq!(level(needed, whole, fragments), expected, "{needed} {whole} {fragments}");
                }
            }
        }
    }
}
