//! `synod transfer`: another node leads.

use crate::arguments::Transfer;
use crate::failure::Failure;
use crate::output::{print, print_json};
use crate::talk::with_client;

/// Asks the leader to give its office away, and says who has it now.
pub(crate) fn run(arguments: &Transfer) -> Result<(), Failure> {
    let to = arguments.to;
    let leader = with_client(&arguments.reach, |client| async move { client.transfer(to).await })?;
    if arguments.reach.json {
        return print_json(&leader);
    }
    let url = leader.url.as_deref().unwrap_or_default();
    print(format!("node {} leads  {url}", leader.id).trim_end())
}
