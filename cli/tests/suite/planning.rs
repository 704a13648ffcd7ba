//! `snapctl plan`: answers for a user's own numbers.

use crate::support::snapctl;
use crate::usage::fails;

fn plan(arguments: &[&str]) -> String {
    let output = snapctl().arg("plan").args(arguments).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn a_plan_tells_what_a_cluster_stores_moves_and_survives() {
    let small = ["--nodes", "30", "--changes", "5"];
    let said = plan(&[&small[..], &["--data", "12GiB"]].concat());
    assert!(said.contains("any 6 of 24") && said.contains("0.167 (2.0 GiB)"), "{said}");
    let json: serde_json::Value = serde_json::from_str(&plan(&[&small[..], &["--json"]].concat())).unwrap();
    assert_eq!((json["needed"].as_u64(), json["coded"]["survived"][0].as_f64()), (Some(6), Some(1.0)));
    assert!(json["copies"]["stored"].as_f64() > json["coded"]["stored"].as_f64());
    let said = plan(&["--nodes", "5"]);
    assert!(said.contains("copies on all"), "{said}");
    assert!(fails(&["plan", "--nodes", "1"], 2).contains("2..=1000"));
    assert!(fails(&["plan", "--nodes", "3", "--tolerate", "3"], 2).contains("somebody has to be left"));
}
