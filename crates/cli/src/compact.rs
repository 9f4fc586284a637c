//! `synod compact`: forgets old revisions.

use synod_client::{Client, Revision};
use synod_kv::http::CompactedBody;

use crate::arguments::Compact;
use crate::failure::Failure;
use crate::output::{print, print_json};
use crate::talk::write_with_client;

pub(crate) fn run(arguments: &Compact) -> Result<(), Failure> {
    let revision = Revision(arguments.revision);
    let options = arguments.named.options();
    let asked = |client: Client| async move { client.compact(revision, &options).await };
    let done = write_with_client(&arguments.reach, asked)?;
    if arguments.reach.json {
        let (revision, compacted_revision) = (done.revision.0, done.oldest.0);
        return print_json(&CompactedBody { revision, compacted_revision });
    }
    print(&format!(
        "revisions from {} on can be read; the newest is {}",
        done.oldest, done.revision
    ))
}
