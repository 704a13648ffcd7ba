//! A service as the command that adds it.

use std::path::Path;

use sustain_node::config::ServiceConfig;

/// The command that adds a service like this one to a configuration. What it has no option for keeps its default.
pub(crate) fn as_command(service: &ServiceConfig, has_own_secret: bool, config: &Path) -> String {
    let mut words =
        vec!["snapctl".to_owned(), "service".to_owned(), "add".to_owned(), service.name.to_string()];
    let mut option = |name: &str, value: Option<String>| {
        if let Some(value) = value {
            words.extend([name.to_owned(), quoted(&value)]);
        }
    };
    let path = |path: &Option<std::path::PathBuf>| path.as_ref().map(|path| path.display().to_string());
    option("--config", Some(config.display().to_string()));
    option("--first-server", Some(service.first_server.clone()));
    if let Some(vm) = &service.vm {
        option("--disk", path(&vm.disk));
        option("--kernel", path(&vm.kernel));
        option("--initramfs", path(&vm.initramfs));
        option("--kernel-args", vm.kernel_args.clone());
        option("--memory", Some(vm.memory.to_string()));
        option("--cpus", Some(vm.cpus.to_string()));
        option("--accel", Some(vm.accel.as_str().to_owned()));
    }
    option("--command-dir", service.command.as_ref().map(|command| command.folder.display().to_string()));
    for forward in &service.forwards {
        option("--forward", Some(format!("{}:{}", forward.listen, forward.guest_port)));
    }
    option("--interval", Some(service.interval.to_string()));
    option("--tolerance", Some(service.tolerance.to_string()));
    option("--type", Some(service.kind.to_string()));
    option("--secret-file", has_own_secret.then(|| "FILE".to_owned()));
    words.join(" ")
}

/// As a shell takes it for one word.
fn quoted(text: &str) -> String {
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"/._-:=+,@%[]".contains(&byte);
    if !text.is_empty() && text.bytes().all(is_plain) {
        return text.to_owned();
    }
    format!("'{}'", text.replace('\'', "'\\''"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_quoted_where_a_shell_would_split_or_change_them() {
        assert_eq!(quoted("192.0.2.1:25:25"), "192.0.2.1:25:25");
        assert_eq!(quoted("console=ttyS0 quiet"), "'console=ttyS0 quiet'");
        assert_eq!(quoted("it's $HOME"), r"'it'\''s $HOME'");
        assert_eq!(quoted(""), "''");
    }
}
