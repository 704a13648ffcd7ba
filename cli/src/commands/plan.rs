//! `snapctl plan`: what a cluster would store, move and survive.

use clap::Args;
use serde::Serialize;
use sustain_gossip::{Answer, Question, Study};
use sustain_node::operations::Failure;

use crate::output::Output;
use crate::sizes::size;
use crate::text;

/// Most nodes: a study of more takes minutes.
const NODES_MAX: u64 = 1_000;
const DEGREE_MAX: u64 = 64;

/// Tell what a cluster of some size would store, move and survive
///
/// Plays it through from a seed: nodes leave and join one by one, and catastrophes take a share of all nodes at once.
/// Each node is to be able to rebuild everything with its neighbours, also after the loss of any --tolerate of them.
/// Two ways are compared: fragments, of which some number rebuilds the data, and plain copies. Clusters that are not
/// larger than --degree + 1 hold copies of everything on every node.
///
/// Nodes don't place fragments yet: every neighbour of a server holds a whole copy. This is what they are to do.
///
/// Example: snapctl plan --nodes 100 --degree 8 --tolerate 1 --data 20GiB
#[derive(Debug, Args)]
pub(crate) struct PlanArgs {
    /// Nodes of the cluster
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(2..=NODES_MAX))]
    nodes: u64,

    /// Neighbours of each node
    #[arg(long, value_name = "D", default_value_t = 8, value_parser = clap::value_parser!(u64).range(2..=DEGREE_MAX))]
    degree: u64,

    /// Losses that each neighbourhood is to survive
    #[arg(long, value_name = "F", default_value_t = 1, value_parser = clap::value_parser!(u64).range(0..DEGREE_MAX))]
    tolerate: u64,

    /// Bytes of all that is kept, so that shares are told as sizes, too
    #[arg(long, value_name = "SIZE", value_parser = size)]
    data: Option<u64>,

    /// Nodes that leave, and others that join
    #[arg(long, value_name = "N", default_value_t = 50, value_parser = clap::value_parser!(u64).range(1..=10_000))]
    changes: u64,

    /// Where chance begins: the same seed gives the same answer
    #[arg(long, value_name = "SEED", default_value_t = 1)]
    seed: u64,
}

/// What is printed.
#[derive(Serialize)]
struct Plan {
    nodes: u64,
    degree: u64,
    tolerate: u64,
    #[serde(flatten)]
    study: Study,
}

pub(crate) fn run(args: &PlanArgs, output: &Output) -> Result<u8, Failure> {
    if args.tolerate >= args.nodes {
        return Err(Failure::new(2, "--tolerate must be less than --nodes: somebody has to be left"));
    }
    let question = Question {
        nodes: args.nodes as usize,
        degree: args.degree as usize,
        tolerance: args.tolerate as usize,
        changes: args.changes as usize,
        catastrophes: 50,
        seed: args.seed,
    };
    let plan =
        Plan { nodes: args.nodes, degree: args.degree, tolerate: args.tolerate, study: question.answer() };
    output.result(&plan, |plan| words(plan, args.data))?;
    Ok(0)
}

fn words(plan: &Plan, data: Option<u64>) -> String {
    let Study { needed, total, coded, copies } = &plan.study;
    let coded_name =
        if *needed == 1 { "copies on all".to_owned() } else { format!("any {needed} of {total}") };
    let share = |value: f64| match data {
        Some(data) => format!("{value:.3} ({})", text::bytes((data as f64 * value) as u64)),
        None => format!("{value:.3}"),
    };
    let percent = |value: f64| format!("{:.0} %", value * 100.0);
    let mut rows = vec![vec!["of all data".to_owned(), coded_name, "plain copies".to_owned()]];
    let mut add = |what: &str, tell: &dyn Fn(&Answer) -> String| {
        rows.push(vec![what.to_owned(), tell(coded), tell(copies)]);
    };
    add("a node stores", &|answer| share(answer.stored));
    add("the fullest node stores", &|answer| share(answer.stored_most));
    add("downloaded when one leaves and one joins", &|answer| share(answer.moved));
    add("in 95 of 100 such changes less than", &|answer| share(answer.moved_p95));
    add("neighbourhoods short after a loss, until mended", &|answer| format!("{:.2}", answer.short));
    for (number, tenths) in (1..10).enumerate() {
        let what = format!("{tenths}0 % of all nodes lost at once: nothing is lost in");
        add(&what, &|answer| percent(answer.survived[number]));
    }
    for (number, tenths) in (1..10).enumerate().step_by(2) {
        let what = format!("{tenths}0 % lost: nodes that can go on with their neighbours alone");
        add(&what, &|answer| percent(answer.survived_nearby[number]));
    }
    let mut text = text::table(&rows);
    if coded.short_for_good > 0 {
        text.push_str(&format!(
            "{} neighbourhoods stay short: --degree {} is too small for --tolerate {}\n",
            coded.short_for_good, plan.degree, plan.tolerate
        ));
    }
    text
}
