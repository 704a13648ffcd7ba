//! What placement costs and survives: storage of a node, bytes moved when one leaves and one joins, and what is left
//! after a catastrophe, against the size of the cluster, its degree and the losses that it is to survive; with
//! fragments, as nodes store, and with plain copies.
//!
//! Writes `placement.csv` and `survival.csv`, and draws them.

use std::path::{Path, PathBuf};

use clap::Parser;
use sustain_experiments::{Axis, Chart, Series, Table};
use sustain_gossip::{Answer, Question, Study};

/// Plays the placement's rules through and draws what they cost and survive.
#[derive(Debug, Parser)]
#[command(version)]
struct Options {
    /// Where the tables and pictures go.
    #[arg(long, default_value = "docs/simulation")]
    out: PathBuf,
    /// Where chance begins.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Clusters of up to 50 nodes, and few changes: shows that it works, and means nothing.
    #[arg(long)]
    quick: bool,
}

/// Cluster sizes along an axis.
const NODES: [usize; 12] = [10, 12, 15, 20, 30, 50, 70, 100, 200, 300, 500, 1_000];
/// Sizes that are drawn for what a catastrophe leaves.
const STRUCK: [usize; 3] = [12, 30, 100];
/// The size at which degrees and tolerances are compared.
const MIDDLE: usize = 100;
const DEGREES: [usize; 7] = [4, 6, 8, 10, 12, 16, 24];
const TOLERANCES: [usize; 4] = [1, 2, 3, 4];
const DEGREE: usize = 8;

/// What was asked, and what came of it.
struct Case {
    question: Question,
    study: Study,
}

fn main() -> anyhow::Result<()> {
    let options = Options::parse();
    std::fs::create_dir_all(&options.out)?;
    let cases = play(&options);
    save(&cases, &options.out)?;
    draw_costs(&cases, &options.out)?;
    draw_survival(&cases, &options.out)
}

/// Every combination that some picture shows.
fn play(options: &Options) -> Vec<Case> {
    let of_sizes = NODES.iter().flat_map(|nodes| [(*nodes, DEGREE, 1), (*nodes, 2 * DEGREE, 2)]);
    let of_degrees = DEGREES.iter().map(|degree| (MIDDLE, *degree, 1));
    let of_tolerances = TOLERANCES.iter().flat_map(|f| [(MIDDLE, DEGREE, *f), (MIDDLE, 2 * DEGREE, *f)]);
    let struck = STRUCK.iter().map(|nodes| (*nodes, DEGREE, 1));
    let mut all: Vec<_> = of_sizes.chain(of_degrees).chain(of_tolerances).chain(struck).collect();
    all.sort_unstable();
    all.dedup();
    all.retain(|(nodes, ..)| !options.quick || *nodes <= 50);
    let count = all.len();
    let ask = |(number, (nodes, degree, tolerance)): (usize, (usize, usize, usize))| {
        eprintln!("{} of {count}: {nodes} nodes, degree {degree}, {tolerance} losses", number + 1);
        let changes = if options.quick { 5 } else { (20_000 / nodes).clamp(30, 200) };
        let catastrophes = if options.quick { 20 } else { (50_000 / nodes).clamp(50, 1_000) };
        let question = Question { nodes, degree, tolerance, changes, catastrophes, seed: options.seed };
        Case { question, study: question.answer() }
    };
    all.into_iter().enumerate().map(ask).collect()
}

fn save(cases: &[Case], out: &Path) -> anyhow::Result<()> {
    let mut costs = Table::new(&[
        "nodes",
        "degree",
        "losses",
        "rule",
        "needed",
        "total",
        "stored",
        "stored_most",
        "moved",
        "moved_p95",
        "short",
        "changes",
        "seed",
    ]);
    let mut survival = Table::new(&[
        "nodes",
        "degree",
        "losses",
        "rule",
        "lost_percent",
        "everywhere",
        "nearby",
        "catastrophes",
        "seed",
    ]);
    for Case { question, study } in cases {
        let Question { nodes, degree, tolerance, changes, catastrophes, seed } = question;
        for (rule, answer) in [("fragments", &study.coded), ("copies", &study.copies)] {
            let Answer { stored, stored_most, moved, moved_p95, short, .. } = answer;
            let (needed, total) = if rule == "copies" { (1, 1) } else { (study.needed, study.total) };
            costs.row(&[
                nodes,
                degree,
                tolerance,
                &rule,
                &needed,
                &total,
                stored,
                stored_most,
                moved,
                moved_p95,
                short,
                changes,
                seed,
            ])?;
            for (tenths, (everywhere, nearby)) in
                answer.survived.iter().zip(&answer.survived_nearby).enumerate()
            {
                let lost = (tenths + 1) * 10;
                survival.row(&[
                    nodes,
                    degree,
                    tolerance,
                    &rule,
                    &lost,
                    everywhere,
                    nearby,
                    catastrophes,
                    seed,
                ])?;
            }
        }
    }
    costs.save(&out.join("placement.csv"))?;
    survival.save(&out.join("survival.csv"))
}

/// A line of what the cases with this degree and tolerance, or any that the filter lets through, have.
fn line(
    name: &str,
    cases: &[Case],
    is_of: impl Fn(&Question) -> bool,
    at: impl Fn(&Case) -> (f64, f64),
) -> Series {
    let points = cases.iter().filter(|case| is_of(&case.question)).map(at).collect();
    Series { name: name.to_owned(), points }
}

/// What a number of an answer is called, where it is drawn, and how to get at it.
struct Measure {
    file: &'static str,
    title: &'static str,
    label: &'static str,
    of: fn(&Answer) -> f64,
}

const MEASURES: [Measure; 2] = [
    Measure {
        file: "stored",
        title: "Storage of a node",
        label: "share of all data",
        of: |answer| answer.stored,
    },
    Measure {
        file: "moved",
        title: "Downloaded when one node leaves and one joins",
        label: "share of all data, by all nodes together",
        of: |answer| answer.moved,
    },
];

fn draw_costs(cases: &[Case], out: &Path) -> anyhow::Result<()> {
    for Measure { file, title, label, of } in MEASURES {
        let highest = cases.iter().flat_map(|case| [of(&case.study.coded), of(&case.study.copies)]);
        let top = (highest.fold(0.0, f64::max) * 1.05 * 10.0).ceil() / 10.0;
        let y = Axis { label: label.to_owned(), from: 0.0, to: top, is_logarithmic: false };
        let nodes = |case: &Case| case.question.nodes as f64;
        let largest = cases.iter().map(nodes).fold(20.0, f64::max);
        let like = |degree: usize, f: usize| {
            move |question: &Question| question.degree == degree && question.tolerance == f
        };
        let mut series = Vec::new();
        for (degree, f) in [(DEGREE, 1), (2 * DEGREE, 2)] {
            let coded = |case: &Case| (nodes(case), of(&case.study.coded));
            let copies = |case: &Case| (nodes(case), of(&case.study.copies));
            series.push(line(&format!("fragments, d = {degree}, f = {f}"), cases, like(degree, f), coded));
            series.push(line(&format!("copies, d = {degree}, f = {f}"), cases, like(degree, f), copies));
        }
        let x = Axis { label: "nodes".to_owned(), from: 10.0, to: largest, is_logarithmic: true };
        Chart { title: title.to_owned(), x, y: y.clone(), series }
            .save(&out.join(format!("{file}-nodes.svg")))?;
        let degree = |case: &Case| case.question.degree as f64;
        let is_of = |question: &Question| question.nodes == MIDDLE && question.tolerance == 1;
        let series = vec![
            line("fragments, f = 1", cases, is_of, |case| (degree(case), of(&case.study.coded))),
            line("copies, f = 1", cases, is_of, |case| (degree(case), of(&case.study.copies))),
        ];
        let x = Axis {
            label: format!("neighbours of each of {MIDDLE} nodes"),
            from: 4.0,
            to: 24.0,
            is_logarithmic: false,
        };
        Chart { title: title.to_owned(), x, y: y.clone(), series }
            .save(&out.join(format!("{file}-degree.svg")))?;
        let losses = |case: &Case| case.question.tolerance as f64;
        let mut series = Vec::new();
        for degree in [DEGREE, 2 * DEGREE] {
            let is_of = |question: &Question| question.nodes == MIDDLE && question.degree == degree;
            series.push(line(&format!("fragments, d = {degree}"), cases, is_of, |case| {
                (losses(case), of(&case.study.coded))
            }));
            series.push(line(&format!("copies, d = {degree}"), cases, is_of, |case| {
                (losses(case), of(&case.study.copies))
            }));
        }
        let x = Axis {
            label: format!("losses that each neighbourhood of {MIDDLE} nodes survives"),
            from: 1.0,
            to: 4.0,
            is_logarithmic: false,
        };
        Chart { title: title.to_owned(), x, y, series }.save(&out.join(format!("{file}-losses.svg")))?;
    }
    Ok(())
}

fn draw_survival(cases: &[Case], out: &Path) -> anyhow::Result<()> {
    let is_of = |nodes: usize| {
        move |case: &&Case| {
            let Question { nodes: of, degree, tolerance, .. } = case.question;
            (of, degree, tolerance) == (nodes, DEGREE, 1)
        }
    };
    let x = Axis { label: "nodes lost at once, %".to_owned(), from: 0.0, to: 100.0, is_logarithmic: false };
    for nodes in STRUCK {
        let Some(Case { study, .. }) = cases.iter().find(is_of(nodes)) else { continue };
        let curve = |name: &str, shares: &[f64]| {
            let after =
                shares.iter().enumerate().map(|(tenths, share)| ((tenths + 1) as f64 * 10.0, share * 100.0));
            Series { name: name.to_owned(), points: std::iter::once((0.0, 100.0)).chain(after).collect() }
        };
        let series = vec![
            curve("fragments: all that are left", &study.coded.survived),
            curve("fragments: one and its neighbours", &study.coded.survived_nearby),
            curve("copies: all that are left", &study.copies.survived),
            curve("copies: one and its neighbours", &study.copies.survived_nearby),
        ];
        let y = Axis {
            label: "everything can be rebuilt, % of trials".to_owned(),
            from: 0.0,
            to: 105.0,
            is_logarithmic: false,
        };
        let title = format!("Catastrophes in a cluster of {nodes} (d = {DEGREE}, f = 1)");
        Chart { title, x: x.clone(), y, series }.save(&out.join(format!("survival-{nodes}.svg")))?;
    }
    Ok(())
}
