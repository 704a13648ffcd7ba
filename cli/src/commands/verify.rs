//! `snapctl verify`: everything is read and checked, or a part of it; what is damaged is set aside.

use clap::Args;
use serde_json::Value;
use sustain_node::operations::Failure;
use sustain_node::verify::{self, VerifyCall};
use sustain_proto::human::counted;
use sustain_store::{Pace, Sample};

use super::push::to_value;
use crate::args::EXIT_CODES;
use crate::output::Output;
use crate::progress::Bar;
use crate::sizes::size;
use crate::text;
use crate::whereabouts::{Choice, Place};

/// Read and check what is in the store, and set damaged packs aside
///
/// Exits with 13 and names every file that is damaged. A pack that is set aside counts as not here: it is sent again by
/// the other nodes if there are any, and stored again by a push that brings the same. What can still be read of it is
/// read until then. A sample compares packs with their ids; otherwise all chunks are decoded and compared with theirs.
///
/// Example, what one snapshot needs: snapctl --store ./states verify mail@latest
///
/// Example, some of the packs, slowly: snapctl --store ./states verify --sample 5% --rate 20M
#[derive(Debug, Args)]
#[command(after_help = EXIT_CODES)]
pub(crate) struct VerifyArgs {
    /// A service, or a snapshot as gather names one [default: everything]
    #[arg(value_name = "SERVICE|SNAPSHOT")]
    what: Option<String>,

    /// Check only some of the packs, such as 5% or 20: half of them those that were checked longest ago, half at random
    #[arg(long, value_name = "PERCENT|N", value_parser = sample, conflicts_with = "resume")]
    sample: Option<Sample>,

    /// Decides which packs a sample takes at random [default: another one each time]
    #[arg(long, value_name = "N", requires = "sample")]
    seed: Option<u64>,

    /// Read at most so much in a second, such as 20M
    #[arg(long, value_name = "SIZE", value_parser = rate)]
    rate: Option<u64>,

    /// Go on where the last run was stopped, by Ctrl-C or otherwise
    #[arg(long)]
    resume: bool,

    /// Change nothing: leave damaged packs where they are
    #[arg(long)]
    dry_run: bool,
}

/// A share in percent, or a number of packs.
fn sample(text: &str) -> Result<Sample, String> {
    let expected = || "it must be a share like 5% or 0.25%, or a number of packs like 20".to_owned();
    let Some(percent) = text.strip_suffix('%') else {
        let packs = text.parse().ok().filter(|packs| *packs > 0);
        return packs.map(Sample::Packs).ok_or_else(expected);
    };
    let (whole, part) = percent.split_once('.').unwrap_or((percent, ""));
    let is_number = |digits: &str| digits.bytes().all(|digit| digit.is_ascii_digit());
    if whole.is_empty() || whole.len() > 3 || part.len() > 2 || !is_number(whole) || !is_number(part) {
        return Err(expected());
    }
    let share: u32 = format!("{whole}{part:0<2}").parse().map_err(|_| expected())?;
    if share == 0 || share > 10_000 { Err(expected()) } else { Ok(Sample::TenThousandths(share)) }
}

fn rate(text: &str) -> Result<u64, String> {
    size(text).and_then(|bytes| if bytes == 0 { Err("it must not be 0".to_owned()) } else { Ok(bytes) })
}

pub(crate) fn run(args: VerifyArgs, choice: &Choice, output: &Output) -> Result<u8, Failure> {
    let VerifyArgs { what, sample, seed, rate, resume, dry_run } = args;
    let call = VerifyCall { what, sample, seed, rate_bytes: rate, resume, dry_run };
    let value: Value = match choice.place(false)? {
        Place::Folder(store) => {
            let bar = Bar::new("verify", output.is_json());
            let report = verify::verify(&store, &call, Pace::Full, &bar);
            bar.finish();
            to_value(&report?)?
        }
        Place::Daemon(client) => client.post("/v1/verify", &call)?,
    };
    output.result(&value, words)?;
    let good = value["bad"].as_array().is_none_or(Vec::is_empty);
    Ok(if good { 0 } else { 13 })
}

fn words(value: &Value) -> String {
    let number = |key: &str| value[key].as_u64().unwrap_or(0);
    let count = |key: &str| value[key].as_array().map_or(0, Vec::len) as u64;
    let mut text = String::new();
    for bad in value["bad"].as_array().into_iter().flatten() {
        let of = |key: &str| bad[key].as_str().unwrap_or("?");
        text.push_str(&format!("bad: {}: {}\n", of("path"), of("reason")));
    }
    if count("set_aside") > 0 {
        let packs = counted(count("set_aside"), "pack", "packs");
        text.push_str(&format!(
            "{packs} set aside: to be sent or pushed again, and read as far as possible\n"
        ));
    }
    for damaged in value["damaged"].as_array().into_iter().flatten() {
        let of = |key: &str| damaged[key].as_str().unwrap_or("?");
        let short: String = of("id").chars().take(12).collect();
        let seq = damaged["seq"].as_u64().unwrap_or(0);
        text.push_str(&format!(
            "damaged, at least in part: {} number {seq}, snapshot {short}\n",
            of("service")
        ));
    }
    let sealed = match number("packs_sealed") {
        0 => String::new(),
        sealed => format!(" ({sealed} of them sealed, without their key here)"),
    };
    let left_out = match number("packs_left_out") {
        0 => String::new(),
        left_out => format!(" of {}", number("packs") + left_out),
    };
    let mut parts = vec![format!("{}{left_out}{sealed}", counted(number("packs"), "pack", "packs"))];
    if number("snapshots") > 0 {
        parts.insert(0, counted(number("snapshots"), "snapshot", "snapshots"));
        parts.push(counted(number("chunks"), "chunk", "chunks"));
    }
    if number("fragments") > 0 {
        parts.push(counted(number("fragments"), "fragment", "fragments"));
    }
    text.push_str(&format!(
        "{}, {} read: {}",
        parts.join(", "),
        text::bytes(number("bytes")),
        if count("bad") == 0 { "all good" } else { "damaged, see above" },
    ));
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn samples_are_shares_or_numbers() {
        for (text, expected) in [
            ("5%", Sample::TenThousandths(500)),
            ("0.25%", Sample::TenThousandths(25)),
            ("0.5%", Sample::TenThousandths(50)),
            ("100%", Sample::TenThousandths(10_000)),
            ("20", Sample::Packs(20)),
        ] {
            assert_eq!(sample(text), Ok(expected), "{text}");
        }
        for text in ["", "%", "0", "0%", "-1", "101%", "5.123%", "1e3", "5 %", ".5%", "99999999999999999999"]
        {
            assert!(sample(text).is_err(), "{text}");
        }
    }
}
