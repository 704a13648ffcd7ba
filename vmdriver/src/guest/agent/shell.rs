//! Short scripts of ours in the guest, whose output the agent can hold.

use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::json;

use crate::limits::AGENT_POLL_INTERVAL_MAX;

use super::connection::{AgentError, Connection};
use super::file::number;

/// First pause between two looks whether a script or program has ended.
pub(super) const POLL_INTERVAL: Duration = Duration::from_millis(5);

/// What a script left.
pub(crate) struct Shell {
    pub(crate) code: Option<i64>,
    pub(crate) stdout: Vec<u8>,
    pub(crate) stderr: Vec<u8>,
}

/// Runs a script in the agent's own environment.
pub(crate) fn shell(
    connection: &mut Connection,
    script: &str,
    arguments: &[&str],
    timeout: Duration,
) -> Result<Shell, AgentError> {
    let deadline = Instant::now() + timeout;
    let line = [&["-c", script, "sh"], arguments].concat();
    let call = json!({ "path": "/bin/sh", "arg": line, "capture-output": true });
    let answer = connection.call("guest-exec", &call, timeout)?;
    let pid = number(&answer, "pid", "guest-exec")?;
    let command = "guest-exec-status";
    let mut pause = POLL_INTERVAL;
    loop {
        let status = connection.call(command, &json!({ "pid": pid }), timeout)?;
        if status["exited"].as_bool() == Some(true) {
            let bytes = |key: &str| STANDARD.decode(status[key].as_str().unwrap_or_default());
            let [stdout, stderr] = ["out-data", "err-data"].map(|key| bytes(key).unwrap_or_default());
            return Ok(Shell { code: status["exitcode"].as_i64(), stdout, stderr });
        }
        if Instant::now() >= deadline {
            return Err(AgentError::Silent { command, waited: timeout });
        }
        std::thread::sleep(pause);
        pause = (pause * 2).min(AGENT_POLL_INTERVAL_MAX);
    }
}
