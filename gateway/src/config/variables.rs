//! Warns about environment variables that look like settings but are not read, such as `GATEPOST_MQTT_MAX_INFLIGHT`: two
//! underscores must separate the levels.

use super::reader::distance;
use super::schema::{Schema, Takes};
use super::source::PREFIX;

/// The prefix with one underscore; real settings have two.
const LIKE_OURS: &str = "GATEPOST_";

/// Maximum wrong letters in a name that is still recognised.
const SLIPS: usize = 2;

/// A warning for each of `variables` that is probably a mistyped setting. Others with our prefix are ignored:
/// Kubernetes, for example, sets `GATEPOST_SERVICE_HOST` for a service named gatepost.
pub(super) fn warnings<'a>(schema: &Schema, variables: impl Iterator<Item = &'a str>) -> Vec<String> {
    let keys: Vec<(String, &str)> = schema
        .rows()
        .filter(|row| matches!(row.takes, Takes::A(..)))
        .map(|row| (row.name.replace('.', "_"), row.name.as_str()))
        .collect();
    let mut warnings = Vec::new();
    for variable in variables {
        let Some(rest) = variable.strip_prefix(LIKE_OURS).filter(|rest| !rest.starts_with('_')) else {
            continue;
        };
        let meant = rest.to_ascii_lowercase().replace("__", "_");
        let meant = meant.strip_suffix("_file").unwrap_or(&meant);
        let near = keys.iter().map(|(spelled, name)| (distance(meant, spelled), *name));
        let near = near.filter(|(distance, _)| *distance <= SLIPS).min();
        if let Some((_, name)) = near {
            let right = format!("{PREFIX}{}", name.to_ascii_uppercase().replace('.', "__"));
            warnings.push(format!("{variable} is not read; did you mean {right}?"));
        }
    }
    warnings.sort();
    warnings
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocols;

    #[test]
    fn a_variable_with_one_underscore_is_told_its_right_name() {
        let schema = Schema::new(protocols::ALL);
        let warned = warnings(
            &schema,
            [
                "GATEPOST_MQTT_MAX_INFLIGHT",
                "GATEPOST_MQTT__ANONYMOUS",
                "GATEPOST_LIMITS_MAX_CONECTIONS",
                "GATEPOST_LISTENERS_MQTT_BIND",
                "GATEPOST__LIMITS__MAX_CONNECTIONS",
                // Variables that Kubernetes sets, and other programs' variables.
                "GATEPOST_SERVICE_HOST",
                "GATEPOST_PORT_1883_TCP_ADDR",
                "GATEPOST_SIM_SEED",
                "GATEPOST_PORT",
                "HOME",
            ]
            .into_iter(),
        );
        assert_eq!(
            warned,
            [
                "GATEPOST_LIMITS_MAX_CONECTIONS is not read; did you mean GATEPOST__LIMITS__MAX_CONNECTIONS?",
                "GATEPOST_LISTENERS_MQTT_BIND is not read; did you mean GATEPOST__LISTENERS__MQTT__BIND?",
                "GATEPOST_MQTT_MAX_INFLIGHT is not read; did you mean GATEPOST__MQTT__MAX_INFLIGHT?",
                "GATEPOST_MQTT__ANONYMOUS is not read; did you mean GATEPOST__MQTT__ANONYMOUS?",
            ]
        );
    }
}
