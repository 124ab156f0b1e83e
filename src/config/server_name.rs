//! The name of the server beside a sidecar. It shows when two sidecars use one store by mistake.

use super::ConfigError;

/// The name of a sidecar when none was given, and the pod has none.
pub const DEFAULT_NAME: &str = "sidecar";

/// The characters of Kubernetes' random names (`k8s.io/apimachinery/pkg/util/rand`): no vowels, and none that looks
/// like another.
const RANDOM: &str = "bcdfghjklmnpqrstvwxz2456789";
/// Length of the random end of a pod's name.
const RANDOM_LENGTH: usize = 5;
/// The hash of a Deployment's template is a number below 2³², each digit put as one of these (`SafeEncodeString`).
const HASH: &str = "456789bcdf";
const HASH_LENGTH_MAX: usize = 10;
/// The longest that is taken: no name in DNS is longer.
const LENGTH_MAX: usize = 253;

/// Parses `--name`.
///
/// # Errors
/// [`ConfigError`]: which characters are taken.
pub fn parse_name(text: &str) -> Result<String, ConfigError> {
    let is_taken = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
    if text.is_empty() || text.len() > LENGTH_MAX || !text.bytes().all(is_taken) {
        return Err(ConfigError::new(format!(
            "`{text}` is no name: use letters, digits, `.`, `_` and `-`, {LENGTH_MAX} of them at most"
        )));
    }
    Ok(text.to_owned())
}

/// The name of the sidecar in a pod: the part that stays when Kubernetes replaces the pod. In a `StatefulSet` this is
/// the pod's own name (`redis-0`). In a Deployment (`redis-6b7c8d-x2x9k`) it is the common part of its pods' names
/// (`redis`). Anything else may change with each start, and is no name.
#[must_use]
pub fn name_of_pod(pod: &str) -> String {
    let name = of_deployment(pod).or_else(|| of_stateful_set(pod));
    let name = name.and_then(|name| parse_name(name).ok());
    name.unwrap_or_else(|| DEFAULT_NAME.to_owned())
}

fn of_deployment(pod: &str) -> Option<&str> {
    let (set, random) = pod.rsplit_once('-')?;
    let (name, hash) = set.rsplit_once('-')?;
    let is_of = |text: &str, alphabet: &str| text.chars().all(|each| alphabet.contains(each));
    let matches = random.len() == RANDOM_LENGTH
        && is_of(random, RANDOM)
        && (1..=HASH_LENGTH_MAX).contains(&hash.len())
        && is_of(hash, HASH);
    matches.then_some(name)
}

fn of_stateful_set(pod: &str) -> Option<&str> {
    let (_, ordinal) = pod.rsplit_once('-')?;
    let is_ordinal = ordinal
        .parse::<u32>()
        .is_ok_and(|it| it.to_string() == ordinal);
    is_ordinal.then_some(pod)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_pods_name_tells_what_stays_of_it() {
        for (pod, name) in [
            ("redis-0", "redis-0"),
            ("redis-master-12", "redis-master-12"),
            ("redis-6b7c8d59f4-x2x9k", "redis"),
            ("redis-6b7c8d59f-24567", "redis"),
            ("my-redis-0-6b7c8d59f-bcdfg", "my-redis-0"),
            // What may be random.
            ("redis-x2x9k", "sidecar"),
            ("redis", "sidecar"),
            ("3f2a9c11d0be", "sidecar"),
            ("redis-01", "sidecar"),
            ("redis-", "sidecar"),
            ("-6b7c8d59f-bcdfg", "sidecar"),
            ("", "sidecar"),
        ] {
            assert_eq!(name_of_pod(pod), name, "{pod}");
        }
    }

    #[test]
    fn a_name_is_what_a_path_can_hold() {
        for good in ["redis-0", "a", "Guest_book.1"] {
            assert_eq!(parse_name(good).unwrap(), good);
        }
        let long = "x".repeat(254);
        for bad in ["", "a b", "a/b", "ä", long.as_str()] {
            let error = parse_name(bad).unwrap_err().to_string();
            assert!(error.contains("is no name"), "{error}");
        }
    }
}
