//! Simulations that everybody runs.

use super::*;

#[test]
fn one() {
    let seed = std::env::var("SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or(4);
    let outcome = run(seed, Size::Tiny);
    for line in &outcome.last {
        eprintln!("{line}");
    }
    eprintln!("{:?}", outcome.scenario);
    eprintln!("{:?} events {} stored {:?}", outcome.violations, outcome.events, outcome.stored_bytes);
    assert!(outcome.violations.is_empty());
}
