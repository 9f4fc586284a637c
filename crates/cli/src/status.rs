//! `synod status`: a line per node.

use serde::Serialize;
use synod_client::StatusBody;

use crate::arguments::Reach;
use crate::cluster::statuses;
use crate::failure::Failure;
use crate::output::{columns, print_bytes, print_json, warn};
use crate::talk::with_client;

/// What became of the question to one node.
#[derive(Debug, Serialize)]
struct NodeReport {
    url: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    status: Option<StatusBody>,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
}

/// Asks every endpoint. Fails when none of them answers.
pub(crate) fn run(reach: &Reach) -> Result<(), Failure> {
    let reports = with_client(reach, |client| async move {
        let answers = statuses(&client).await;
        let reports = client.endpoints().iter().cloned().zip(answers);
        Ok(reports.map(|(url, answer)| NodeReport::new(url, answer)).collect::<Vec<_>>())
    })?;
    if reach.json {
        print_json(&reports)?;
    } else {
        print_bytes(columns(&table(&reports)).as_bytes())?;
        print_errors(&reports);
    }
    if reports.iter().all(|report| report.status.is_none()) {
        return Err(Failure::failed(
            "no node answers: start a cluster (`synod cluster`), or name one with --endpoints",
        ));
    }
    Ok(())
}

impl NodeReport {
    fn new(url: String, answer: Result<StatusBody, synod_client::ClientError>) -> Self {
        match answer {
            Ok(status) => Self { url, status: Some(status), error: None },
            Err(error) => Self { url, status: None, error: Some(error.to_string()) },
        }
    }
}

fn table(reports: &[NodeReport]) -> Vec<Vec<String>> {
    let headings =
        ["NODE", "ROLE", "URL", "BALLOT", "CHOSEN", "APPLIED", "REVISION", "SURVIVES", "VERSION"];
    let mut rows = vec![headings.map(str::to_owned).to_vec()];
    rows.extend(reports.iter().map(row));
    rows
}

fn row(report: &NodeReport) -> Vec<String> {
    let Some(status) = &report.status else {
        return vec!["-".to_owned(), "no answer".to_owned(), report.url.clone()];
    };
    vec![
        status.node.to_string(),
        status.role.as_str().to_owned(),
        report.url.clone(),
        status.ballot.clone(),
        status.chosen_slot.to_string(),
        status.applied_slot.to_string(),
        status.revision.to_string(),
        // How many more nodes may fail.
        status.failures_survivable.to_string(),
        status.version.clone(),
    ]
}

fn print_errors(reports: &[NodeReport]) {
    for report in reports {
        if let Some(error) = &report.error {
            warn(&format!("{}: {error}", report.url));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_that_does_not_answer_has_its_line() {
        let report = NodeReport {
            url: "http://127.0.0.1:7002".to_owned(),
            status: None,
            error: Some("refused".to_owned()),
        };
        let text = columns(&table(&[report]));
        assert!(text.contains("no answer") && text.contains("7002"), "{text}");
    }
}
