//! `snapctl service add`: a disk image, a kernel or a folder of programs becomes a service.

use std::collections::BTreeMap;
use std::path::PathBuf;

use clap::Args;
use serde::Serialize;
use sustain_node::config::{EditError, save};
use sustain_node::operations::Failure;
use sustain_proto::ServiceName;
use sustain_store::error_chain;

use super::definition::DefinitionArgs;
use super::explain::{Explanation, explain, marked};
use super::host::look_at_host;
use super::ls::is_served;
use super::proposal::{Proposal, propose};
use crate::output::Output;
use crate::whereabouts::Choice;

/// Add a service to nodes' configurations
///
/// Explains what the service is and costs, then writes it into each --config, comments and all else untouched.
/// What keeps it from running here is a refusal. Nothing is started: running nodes must be restarted. Example:
///
/// snapctl service add mail --disk mail.qcow2 --memory 512M --forward 25 --forward 110
#[derive(Debug, Args)]
pub(crate) struct AddArgs {
    /// The service's name
    name: ServiceName,

    #[command(flatten)]
    definition: DefinitionArgs,

    /// Write it although something keeps it from running here; ends with 3 then
    #[arg(long)]
    force: bool,
}

/// What was done, as it is printed.
#[derive(Debug, Serialize)]
struct Added {
    service: ServiceName,
    configs: Vec<PathBuf>,
    other_nodes: Vec<String>,
    /// As the first node sees it.
    explanation: Option<Explanation>,
    /// Each node's ports.
    ports: BTreeMap<String, String>,
    /// All nodes' problems; there are some only with `--force`.
    problems: Vec<String>,
}

pub(super) fn run(args: AddArgs, choice: &Choice, output: &Output) -> Result<u8, Failure> {
    let proposals = propose(&args.definition, &args.name, choice.load_configs()?)?;
    // The same program on the same machine for all of them.
    let host = proposals.first().map(|proposal| look_at_host(&proposal.service)).unwrap_or_default();
    let explained = |proposal: &Proposal| {
        let served = is_served(&proposal.config, &proposal.service, output);
        explain(&proposal.config, &proposal.service, &host, served)
    };
    let explanations: Vec<Explanation> = proposals.iter().map(explained).collect();
    let problems = all_problems(&proposals, &explanations);
    if !problems.is_empty() && !args.force {
        return Err(Failure::new(1, format!("{} is not added: {}", args.name, problems.join("; ")))
            .with_hint("mend that, or write it all the same with --force"));
    }
    // All of them are known to be good before the first is written.
    for (number, proposal) in proposals.iter().enumerate() {
        save(&proposal.path, &proposal.text).map_err(|error| {
            let failure = Failure::new(if number == 0 { 1 } else { 3 }, error_chain(&error));
            failure.with_hint(format!("{number} of {} configurations have the service now", proposals.len()))
        })?;
    }
    let ports = proposals.iter().zip(&explanations);
    let added = Added {
        service: args.name,
        configs: proposals.iter().map(|proposal| proposal.path.clone()).collect(),
        other_nodes: others(&proposals),
        ports: ports
            .map(|(node, explanation)| (node.config.name.clone(), explanation.ports_words()))
            .collect(),
        explanation: explanations.into_iter().next(),
        problems,
    };
    output.result(&added, |added| words(added, &proposals))?;
    Ok(if added.problems.is_empty() { 0 } else { 3 })
}

/// What keeps the service from running on any of the nodes: what is said of the first goes for all of them, the
/// others add what is their own.
fn all_problems(proposals: &[Proposal], explanations: &[Explanation]) -> Vec<String> {
    let mut problems: Vec<String> = Vec::new();
    let mut said: Vec<&String> = Vec::new();
    for (number, (proposal, explanation)) in proposals.iter().zip(explanations).enumerate() {
        for problem in
            explanation.problems.iter().filter(|problem| !said.contains(problem)).collect::<Vec<_>>()
        {
            said.push(problem);
            let node = &proposal.config.name;
            problems.push(if number == 0 { problem.clone() } else { format!("{node}: {problem}") });
        }
    }
    problems
}

fn words(added: &Added, proposals: &[Proposal]) -> String {
    let mut text = added.explanation.as_ref().map(Explanation::words).unwrap_or_default();
    let known = added.explanation.as_ref().map(|explanation| explanation.problems.len()).unwrap_or_default();
    text.push_str(&marked("problem", added.problems.get(known..).unwrap_or_default()));
    for proposal in proposals {
        let name = &proposal.config.name;
        let ports = added.ports.get(name).map(String::as_str).unwrap_or_default();
        text.push_str(&format!("added to {} of node {name}: {ports}\n", proposal.path.display()));
    }
    text.push_str("restart the node, if it is running: configurations are read at the start\n");
    if !added.other_nodes.is_empty() {
        let others = added.other_nodes.join(", ");
        text.push_str(&format!(
            "run the same command on {others}, with --first-server {} and the same files at the same places\n",
            proposals.first().map_or("", |proposal| proposal.service.first_server.as_str())
        ));
    }
    text
}

/// The nodes whose configurations were not at hand.
fn others(proposals: &[Proposal]) -> Vec<String> {
    let done: Vec<&str> = proposals.iter().map(|proposal| proposal.config.name.as_str()).collect();
    let all = proposals.first().map(|proposal| proposal.config.nodes.as_slice()).unwrap_or_default();
    let names = all.iter().map(|node| node.name.clone());
    names.filter(|name| !done.contains(&name.as_str())).collect()
}

pub(crate) fn edit_failure(error: &EditError) -> Failure {
    match error {
        EditError::Exists { .. } => Failure::new(1, error_chain(error))
            .with_hint("`snapctl service rm` removes it, with its snapshots kept"),
        EditError::Absent { .. } => {
            Failure::new(10, error_chain(error)).with_hint("`snapctl service ls` lists those that there are")
        }
        _ => Failure::new(1, error_chain(error)).with_hint("docs/config.toml explains every key"),
    }
}
