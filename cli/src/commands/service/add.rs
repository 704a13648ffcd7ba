//! `snapctl service add`: a disk image, a kernel or a folder of programs becomes a service.

use std::path::PathBuf;

use clap::Args;
use serde_json::json;
use sustain_node::config::{Config, EditError, add_service, save};
use sustain_node::operations::Failure;
use sustain_proto::ServiceName;
use sustain_store::error_chain;
use sustain_vmdriver::inspect_image;

use super::definition::DefinitionArgs;
use super::explain::explain;
use crate::output::Output;
use crate::whereabouts::Choice;

/// Add a service to nodes' configurations
///
/// Explains what the service is and costs, then writes it into each --config, comments and all else untouched.
/// Nothing is started: running nodes must be restarted. Example:
///
/// snapctl service add mail --disk mail.qcow2 --memory 512M --forward 25 --forward 110
#[derive(Debug, Args)]
pub(crate) struct AddArgs {
    /// The service's name
    name: ServiceName,

    #[command(flatten)]
    definition: DefinitionArgs,
}

pub(super) fn run(args: AddArgs, choice: &Choice, output: &Output) -> Result<u8, Failure> {
    let configs = choice.load_configs()?;
    let services = args.definition.services(&args.name, &configs)?;
    // What is wrong with the image is wrong everywhere, and never mends itself.
    let image = services.first().and_then(|service| service.vm.as_ref()?.disk.as_deref());
    if let Some(Err(error)) = image.map(inspect_image) {
        let hint = "`qemu-img convert -O qcow2 OLD NEW` makes an image of its own of any other";
        return Err(Failure::new(1, error_chain(&error)).with_hint(hint));
    }
    let mut texts = Vec::new();
    for ((path, _), service) in configs.iter().zip(&services) {
        let text = std::fs::read_to_string(path)
            .map_err(|error| Failure::new(1, format!("can't read {}: {error}", path.display())))?;
        texts.push(add_service(&text, path, service).map_err(|error| edit_failure(&error))?);
    }
    let explanation =
        configs.first().zip(services.first()).map(|((_, config), service)| explain(config, service, false));
    // All of them are known to be good before the first is written.
    for (number, ((path, _), text)) in configs.iter().zip(&texts).enumerate() {
        save(path, text).map_err(|error| {
            let failure = Failure::new(if number == 0 { 1 } else { 3 }, error_chain(&error));
            failure.with_hint(format!("{number} of {} configurations have the service now", configs.len()))
        })?;
    }
    let others = others(&configs);
    let value = json!({
        "service": args.name,
        "configs": configs.iter().map(|(path, _)| path).collect::<Vec<_>>(),
        "other_nodes": others,
        "explanation": explanation,
    });
    output.result(&value, |_| {
        let mut text = explanation.map(|explanation| explanation.words()).unwrap_or_default();
        for (path, config) in &configs {
            text.push_str(&format!("added to {} of node {}\n", path.display(), config.name));
        }
        text.push_str("restart the node, if it is running: configurations are read at the start\n");
        if !others.is_empty() {
            let others = others.join(", ");
            text.push_str(&format!(
                "run the same command on {others}, with --first-server {} and the same files at the same places\n",
                services.first().map_or("", |service| service.first_server.as_str())
            ));
        }
        text
    })?;
    Ok(0)
}

/// The nodes whose configurations were not at hand.
fn others(configs: &[(PathBuf, Config)]) -> Vec<String> {
    let done: Vec<&str> = configs.iter().map(|(_, config)| config.name.as_str()).collect();
    let all = configs.first().map(|(_, config)| config.nodes.as_slice()).unwrap_or_default();
    let names = all.iter().map(|node| node.name.clone());
    names.filter(|name| !done.contains(&name.as_str())).collect()
}

pub(super) fn edit_failure(error: &EditError) -> Failure {
    match error {
        EditError::Exists { .. } => Failure::new(1, error_chain(error))
            .with_hint("`snapctl service rm` removes it, with its snapshots kept"),
        EditError::Absent { .. } => {
            Failure::new(10, error_chain(error)).with_hint("`snapctl service ls` lists those that there are")
        }
        _ => Failure::new(1, error_chain(error)).with_hint("docs/config.toml explains every key"),
    }
}
