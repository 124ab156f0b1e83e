//! The layers below know no flags. Their messages name settings in backticks, as `segment_size`; here these become
//! the flags of the command line.

use std::collections::BTreeSet;

use clap::Arg;

/// The same message, with the flags of the command line in the place of settings: `--segment-size` for
/// `` `segment_size` ``.
pub(super) fn in_flags(message: &str) -> String {
    replaced(message, |_| true)
}

/// The same for a message that may also quote something typed, as the name of a key. A single word stays as it is, even if
/// there is a flag of that name.
pub(super) fn in_long_flags(message: &str) -> String {
    replaced(message, |setting| setting.contains('_'))
}

fn replaced(message: &str, may_be: impl Fn(&str) -> bool) -> String {
    if !message.contains('`') {
        return message.to_owned();
    }
    let flags = flags();
    let mut text = String::with_capacity(message.len());
    for (number, part) in message.split('`').enumerate() {
        let quoted = number % 2 == 1;
        let flag = part.replace('_', "-");
        if quoted && may_be(part) && !part.contains('-') && flags.contains(&flag) {
            text.push_str("--");
            text.push_str(&flag);
        } else if quoted {
            text.push('`');
            text.push_str(part);
            text.push('`');
        } else {
            text.push_str(part);
        }
    }
    text
}

/// The flags of all verbs.
fn flags() -> BTreeSet<String> {
    let mut flags = BTreeSet::new();
    let mut left = vec![super::command()];
    while let Some(command) = left.pop() {
        let long = command.get_arguments().filter_map(Arg::get_long);
        flags.extend(long.map(str::to_owned));
        left.extend(command.get_subcommands().cloned());
    }
    flags
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::cli::{Exit, Failure};
    use crate::config::CaptureConfig;

    #[test]
    fn settings_are_told_as_flags() {
        for (message, expected) in [
            ("`segment_size`: too small", "--segment-size: too small"),
            ("leave out `at` and `offset`", "leave out --at and --offset"),
            (
                "`At` and `` and `a b`, `no_such_setting` and `tls-ca`",
                "`At` and `` and `a b`, `no_such_setting` and `tls-ca`",
            ),
            ("no setting", "no setting"),
        ] {
            assert_eq!(in_flags(message), expected);
        }
    }

    #[test]
    fn what_somebody_typed_is_no_setting() {
        let message = "this sidecar is `redis`, and `tls_ca` is not set";
        let expected = "this sidecar is `redis`, and --tls-ca is not set";
        assert_eq!(in_long_flags(message), expected);
        assert_eq!(Failure::new(Exit::Error, message).to_string(), expected);
    }

    #[test]
    fn a_wrong_configuration_is_told_in_flags() {
        let wrong = CaptureConfig {
            segment_size: 1 << 20,
            memory_limit: 1 << 20,
            ..CaptureConfig::default()
        };
        let failure = Failure::from(wrong.checked().unwrap_err());
        let expected = "--feed-memory: must be twice --segment-size or more";
        assert!(failure.to_string().starts_with(expected), "{failure}");
    }
}
