//! `gatepost memory`: the accounts of the memory budget.

use super::Listed;
use super::client::Client;
use crate::exit::Failure;

/// What a part takes, and what it may take. Parts of a part have no limit of their own.
pub(super) async fn accounts(client: &mut Client) -> Result<Listed, Failure> {
    let accounts = client.get(&["gatepost", "memory"]).await?;
    Ok(Some((&["name", "bytes", "limit"], accounts)))
}
