//! Variables of the environment. A flag's variable is `BACKFEED_` and the name of the flag. An empty variable counts as unset. A
//! variable that belongs to no flag gives a warning. clap reads the others.

use std::collections::BTreeSet;
use std::ffi::OsStr;

use clap::Command;
use clap::builder::Resettable;

const PREFIX: &str = "BACKFEED_";
/// If two names are more alike than this, one of them is taken for a typing error of the other.
const ALIKE: f64 = 0.9;

/// Names of former versions, the verbs that read them (none: all), and the names that are read now.
const RENAMED: [(&str, &[&str], &str); 3] = [
    (
        "BACKFEED_MEMORY_LIMIT",
        &["sidecar", "backup"],
        "BACKFEED_FEED_MEMORY",
    ),
    ("BACKFEED_TO", &["diff"], "BACKFEED_AT"),
    ("BACKFEED_TO_OFFSET", &[], "BACKFEED_OFFSET"),
];

/// The command, without the variables that are empty.
pub(super) fn without_empty(command: Command, lookup: &dyn Fn(&OsStr) -> bool) -> Command {
    let command = command.mut_args(|arg| match arg.get_env() {
        Some(name) if lookup(name) => arg.env(Resettable::Reset),
        _ => arg,
    });
    command.mut_subcommands(|verb| without_empty(verb, lookup))
}

/// Is it set, and empty?
pub(super) fn is_empty(name: &OsStr) -> bool {
    #[expect(clippy::disallowed_methods)] // here configuration comes from
    let value = std::env::var_os(name);
    value.is_some_and(|value| value.is_empty())
}

/// What is wrong with the variables, for a run of `verb`.
pub(super) fn warnings(
    command: &Command,
    verb: &str,
    variables: impl IntoIterator<Item = (String, String)>,
) -> Vec<String> {
    let mut flags = Flags::default();
    flags.gather(command);
    let mut warnings: Vec<String> = variables
        .into_iter()
        .filter(|(name, value)| name.starts_with(PREFIX) && !value.is_empty())
        .filter(|(name, value)| !is_of_kubernetes(name, value))
        .filter_map(|(name, _)| flags.warning(&name, verb))
        .collect();
    warnings.sort();
    warnings
}

#[derive(Default)]
struct Flags {
    /// Variables that are read.
    variables: BTreeSet<String>,
    /// Flags that have none.
    without: BTreeSet<String>,
}

impl Flags {
    fn gather(&mut self, command: &Command) {
        for arg in command.get_arguments() {
            match (arg.get_env(), arg.get_long()) {
                (Some(name), _) => {
                    self.variables.insert(name.to_string_lossy().into_owned());
                }
                (None, Some(long)) => {
                    self.without.insert(long.to_owned());
                }
                (None, None) => {}
            }
        }
        for verb in command.get_subcommands() {
            self.gather(verb);
        }
    }

    fn warning(&self, name: &str, verb: &str) -> Option<String> {
        let renamed = RENAMED
            .iter()
            .find(|(old, verbs, _)| *old == name && (verbs.is_empty() || verbs.contains(&verb)));
        if let Some((_, _, new)) = renamed {
            return Some(format!(
                "the variable {name} is ignored here: its name is {new} now"
            ));
        }
        if self.variables.contains(name) {
            return None;
        }
        let flag = name
            .trim_start_matches(PREFIX)
            .to_lowercase()
            .replace('_', "-");
        if self.without.contains(&flag) {
            return Some(format!(
                "the variable {name} is ignored: give --{flag} on the command line, where it is meant for one run"
            ));
        }
        let nearest = self
            .variables
            .iter()
            .map(|known| (strsim::jaro_winkler(known, name), known))
            .filter(|(alike, _)| *alike > ALIKE)
            .max_by(|one, other| one.0.total_cmp(&other.0));
        let advice = nearest.map_or_else(
            || format!("`backfeed {verb} --help` names those that are read"),
            |(_, known)| format!("did you mean {known}?"),
        );
        Some(format!(
            "the variable {name} is not known and is ignored: {advice}"
        ))
    }
}

/// Kubernetes gives every pod variables about each Service. If the name of a Service begins with `backfeed`, its variables look like
/// ours.
fn is_of_kubernetes(name: &str, value: &str) -> bool {
    let is_link = |name: &str| {
        let Some((_, port)) = name.rsplit_once("_PORT_") else {
            return name.ends_with("_PORT") && value.contains("://");
        };
        let mut parts = port.split('_');
        let is_port = parts
            .next()
            .is_some_and(|number| number.bytes().all(|byte| byte.is_ascii_digit()));
        is_port && matches!(parts.next(), Some("TCP" | "UDP" | "SCTP"))
    };
    name.ends_with("_SERVICE_HOST") || name.contains("_SERVICE_PORT") || is_link(name)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::cli::command;

    fn warned(verb: &str, variables: &[(&str, &str)]) -> Vec<String> {
        let owned = |(name, value): &(&str, &str)| ((*name).to_owned(), (*value).to_owned());
        warnings(&command(), verb, variables.iter().map(owned))
    }

    #[test]
    fn what_no_flag_has_is_warned_of_with_what_was_meant() {
        for (verb, name, wanted) in [
            ("list", "BACKFEED_STROE", "did you mean BACKFEED_STORE?"),
            ("list", "BACKFEED_KMSKEY", "did you mean BACKFEED_KMS_KEY?"),
            ("list", "BACKFEED_UNHEARD_OF", "`backfeed list --help`"),
            ("restore", "BACKFEED_FORCE", "give --force on the command"),
            ("restore", "BACKFEED_REPLACE", "give --replace on the"),
            ("consolidate", "BACKFEED_TO_OFFSET", "BACKFEED_OFFSET now"),
            (
                "sidecar",
                "BACKFEED_MEMORY_LIMIT",
                "BACKFEED_FEED_MEMORY now",
            ),
        ] {
            let warnings = warned(verb, &[(name, "1")]);
            let [warning] = &warnings[..] else {
                unreachable!("{name}: {warnings:?}")
            };
            assert!(
                warning.contains(name) && warning.contains(wanted),
                "{warning}"
            );
        }
    }

    #[test]
    fn what_a_flag_has_is_not_and_nor_is_what_kubernetes_sets() {
        let variables = [
            ("BACKFEED_STORE", "file:///b"),
            // Of another verb: one environment serves several.
            ("BACKFEED_REDIS", "redis://h"),
            ("BACKFEED_MEMORY_LIMIT", "1GiB"),
            ("BACKFEED_STROE", ""),
            ("PATH", "/bin"),
            ("BACKFEED_SERVICE_HOST", "10.0.0.1"),
            ("BACKFEED_SERVICE_PORT", "9390"),
            ("BACKFEED_SERVICE_PORT_HTTP", "9390"),
            ("BACKFEED_SHOP_PORT", "tcp://10.0.0.1:9390"),
            ("BACKFEED_PORT_9390_TCP", "tcp://10.0.0.1:9390"),
            ("BACKFEED_PORT_9390_TCP_ADDR", "10.0.0.1"),
        ];
        assert_eq!(warned("list", &variables), Vec::<String>::new());
    }

    #[test]
    fn an_empty_variable_is_unset() {
        let parse = |empty: &'static str| {
            let command = without_empty(command(), &|name| name == empty);
            let verb = command.find_subcommand("list").unwrap();
            let store = verb.get_arguments().find(|arg| arg.get_id() == "store");
            store.unwrap().get_env().is_some()
        };
        assert!(!parse("BACKFEED_STORE"));
        assert!(parse("BACKFEED_JSON"));
    }
}
