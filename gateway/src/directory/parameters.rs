//! Verbs: global parameters. The node stores them for people and their tools, and uses one, the cluster's name.

use super::{DirectoryError, NAME_MAX, Put};
use crate::node::Node;
use gatepost_core::catalog::directory::{ParameterRecord, deletion, record};
use gatepost_core::properties::{Name, Table, Value};
use gatepost_core::store::VhostId;

/// Maximum global parameters, and maximum bytes of a value in text form.
const GLOBALS_MAX: usize = 1024;
const VALUE_BYTES_MAX: usize = 16 << 10;

/// RabbitMQ's parameter for the name of a cluster that was named at run time.
pub(crate) const CLUSTER_NAME: &str = "cluster_name";

impl Node {
    /// The name shown as the cluster's: the one set at run time, or that of the configuration.
    pub(crate) fn cluster_name(&self) -> String {
        let people = self.directory.people.read();
        let set = people.globals.get(CLUSTER_NAME).and_then(Value::as_str);
        set.map_or_else(|| self.config().node.cluster_name.clone(), str::to_owned)
    }

    /// Sets a global parameter.
    ///
    /// # Errors
    /// The name is empty or too long, the value is too large, or there are too many.
    pub(crate) async fn set_global_parameter(&self, name: &str, value: Value) -> Result<Put, DirectoryError> {
        let _changing = self.directory.changing.lock().await;
        if name.is_empty() || name.len() > NAME_MAX || name.contains('\0') {
            return Err(DirectoryError::Parameter(format!(
                "a parameter's name has 1 to {NAME_MAX} bytes"
            )));
        }
        if format!("{value:?}").len() > VALUE_BYTES_MAX {
            let text = format!("a parameter's value has {VALUE_BYTES_MAX} bytes at most");
            return Err(DirectoryError::Parameter(text));
        }
        let known = {
            let people = self.directory.people.read();
            if people.globals.get(name) == Some(&value) {
                return Ok(Put::Changed);
            }
            let known = people.globals.contains_key(name);
            if !known && people.globals.len() >= GLOBALS_MAX {
                let text = format!("there are {GLOBALS_MAX} global parameters: that is the limit");
                return Err(DirectoryError::Parameter(text));
            }
            known
        };
        let parameter = ParameterRecord {
            value: value.clone(),
            more: Table::default(),
        };
        let id = (VhostId::NODE, Name::default(), Name::from(name));
        self.vhosts.log().write(vec![record(&id, &parameter)]).await?;
        self.directory.people.write().globals.insert(name.into(), value);
        self.parameter_changed(name);
        Ok(if known { Put::Changed } else { Put::Created })
    }

    /// Removes a global parameter.
    ///
    /// # Errors
    /// There is none of that name.
    pub(crate) async fn clear_global_parameter(&self, name: &str) -> Result<(), DirectoryError> {
        let _changing = self.directory.changing.lock().await;
        if !self.directory.people.read().globals.contains_key(name) {
            return Err(DirectoryError::NotSet("parameter"));
        }
        let id = (VhostId::NODE, Name::default(), Name::from(name));
        self.vhosts.log().write(vec![deletion::<ParameterRecord>(&id)]).await?;
        self.directory.people.write().globals.remove(name);
        self.parameter_changed(name);
        Ok(())
    }

    /// Clients are told the cluster's name.
    fn parameter_changed(&self, name: &str) {
        if name == CLUSTER_NAME {
            self.configure_protocols();
        }
    }

    /// All global parameters, by name.
    pub(crate) fn global_parameters(&self) -> Vec<(Name, Value)> {
        let people = self.directory.people.read();
        people
            .globals
            .iter()
            .map(|(name, value)| (name.clone(), value.clone()))
            .collect()
    }
}
