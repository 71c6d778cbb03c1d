//! `gatepost memory`: the parts of the memory budget.

use super::Listed;
use super::client::Client;
use crate::exit::Failure;

/// Prints the use and the limit of each part. Parts of a part have no limit of their own.
pub(super) async fn accounts(client: &mut Client) -> Result<Listed, Failure> {
    let accounts = client.get(&["gatepost", "memory"]).await?;
    Ok(Some((&["name", "bytes", "limit"], accounts)))
}
