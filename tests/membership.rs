//! The life of a cluster whose members change: real processes on a real disk, driven by
//! the commands that an operator uses.

mod support;

use std::fs;
use std::net::SocketAddr;

use rustix::process::Signal;
use serde_json::Value;
use support::http;
use support::nodes::{CLUSTER, Nodes, Writers, all_are_there, errors, refused, succeeds};
use support::ports::free_base_port;
use support::wait::wait_until;

#[test]
fn a_cluster_grows_replaces_a_dead_node_and_shrinks_under_writes() {
    let mut nodes = Nodes::new();
    nodes.init(1, &[1]);
    nodes.serve(1);
    nodes.wait_for_leader(1);
    let writers = Writers::start(vec![nodes.client(1)]);
    writers.more();

    // From one to three.
    for id in [2, 3] {
        nodes.grow(1, id);
        writers.more();
    }
    assert_eq!(nodes.members(2), (vec![1, 2, 3], vec![]));
    let mut addresses = vec![nodes.client(1), nodes.client(2), nodes.client(3)];
    writers.write_to(addresses.clone());
    writers.more();

    // A dead node is replaced by one with a new id.
    assert_eq!(roll_call(&nodes, &[1]), [(1, true), (2, true), (3, true)]);
    nodes.kill(3);
    assert_eq!(roll_call(&nodes, &[2, 3]), [(1, true), (2, true), (3, false)]);
    addresses.pop();
    writers.write_to(addresses.clone());
    writers.more();
    let replacing = nodes.replace(1, 3, 4);
    assert_eq!(nodes.members(1), (vec![1, 2, 4], vec![]));
    assert_eq!(roll_call(&nodes, &[1, 3]), [(1, true), (2, true), (4, true)]);
    assert!(!errors(&replacing).contains("nothing was changed"), "{}", errors(&replacing));
    let again = nodes.member(1, &["replace", "3"], Some(4));
    succeeds(&again);
    assert!(errors(&again).contains("nothing was changed"), "{}", errors(&again));
    // A slip of the hand is none that is done already.
    refused(&nodes.member(1, &["replace", "99"], Some(4)), 3, "no member has the id 99");
    addresses.push(nodes.client(4));
    writers.write_to(addresses);
    writers.more();

    // Quorums by hand, an address that changes, and a learner member that goes again.
    for (promise, accept) in [("3", "1"), ("2", "2")] {
        let words = ["quorums", "--promise", promise, "--accept", accept];
        if promise == "3" {
            nodes.wait_until_survivable(&[1, 2, 4], 1);
            refused(&nodes.member(2, &words, None), 3, "survives the failure of a node");
        }
        succeeds(&nodes.member(2, &[&words[..], &["--force"]].concat(), None));
        let membership = nodes.status(1).expect("it runs")["membership"].clone();
        assert_eq!(membership["accept_quorum"].to_string(), accept);
        writers.more();
    }
    let moved = nodes.url(4).replace("127.0.0.1", "localhost");
    let words = ["move", "4", "--client-url", &moved];
    succeeds(&nodes.member(2, &words, None));
    let again = nodes.member(1, &[&words[..], &["--json"]].concat(), None);
    succeeds(&again);
    assert!(errors(&again).contains("nothing was changed"), "{}", errors(&again));
    let told: Value = serde_json::from_slice(&again.stdout).expect("JSON");
    let at = told["members"].as_array().expect("members").iter().find(|member| member["id"] == 4);
    let at = at.map(|member| (&member["peer"], &member["client_url"]));
    assert_eq!(at, Some((&nodes.peer(4).into(), &moved.as_str().into())), "{told}");
    let everybody = format!("{},{},{moved}", nodes.url(1), nodes.url(2));
    succeeds(&nodes.run(&["transfer", "--to", "4", "--endpoints", &everybody], None));
    wait_until("clients are sent to the new address", || {
        let answer = http::request(nodes.client(2), "GET", "/v1/kv?redirect", &[], b"");
        let wanted = format!("{moved}/v1/kv?redirect");
        answer.is_ok_and(|answer| answer.header("location") == Some(&*wanted))
    });
    // The first to be removed shall lead.
    succeeds(&nodes.run(&["transfer", "--to", "1", "--endpoints", &everybody], None));
    nodes.configure(5, &[5]);
    succeeds(&nodes.member(1, &["add"], Some(5)));
    nodes.serve(5);
    nodes.wait_for_leader(5);
    succeeds(&nodes.member(5, &["remove", "5"], None));
    nodes.ends_as_removed(5);
    writers.more();

    // The node that was dead comes back long after, is told, and stays away.
    for id in [1, 2, 4] {
        wait_until("leave is taken", || nodes.log(id).contains("no peer any more peer=n3"));
    }
    nodes.serve(3);
    nodes.ends_as_removed(3);
    refused(&nodes.run(&["serve"], Some(3)), 4, "was removed from its cluster");
    refused(&nodes.member(1, &["add"], Some(3)), 3, "is none any more");

    let keys = writers.stop();
    nodes.agree(&[1, 2, 4]);
    all_are_there(nodes.client(4), &keys);

    // Back to one, first of all without the node that everything began with.
    let writers = Writers::start(vec![nodes.client(2), nodes.client(4)]);
    writers.more();
    nodes.wait_until_survivable(&[1, 2, 4], 1);
    refused(&nodes.member(2, &["remove", "1"], None), 3, "survives the failure of a node");
    succeeds(&nodes.member(2, &["remove", "1", "--force"], None));
    nodes.ends_as_removed(1);
    writers.more();
    writers.write_to(vec![nodes.client(4)]);
    succeeds(&nodes.member(4, &["remove", "2"], None));
    nodes.ends_as_removed(2);
    writers.more();
    refused(&nodes.member(4, &["remove", "4"], None), 3, "last voter");
    assert_eq!(nodes.members(4), (vec![4], vec![]));
    let more_keys = writers.stop();
    all_are_there(nodes.client(4), &keys);
    all_are_there(nodes.client(4), &more_keys);

    // What it became it still is after a restart, of which its settings know nothing.
    nodes.kill(4);
    nodes.serve(4);
    nodes.wait_for_leader(4);
    assert_eq!(nodes.members(4), (vec![4], vec![]));
    all_are_there(nodes.client(4), &more_keys);
}

/// Whom `synod status` shows when it is told of these nodes, and whether they answer.
fn roll_call(nodes: &Nodes, named: &[u32]) -> Vec<(u64, bool)> {
    let urls: Vec<String> = named.iter().map(|id| nodes.url(*id)).collect();
    let output = nodes.run(&["status", "--json", "--endpoints", &urls.join(",")], None);
    succeeds(&output);
    let reports: Vec<Value> = serde_json::from_slice(&output.stdout).expect("JSON");
    let id = |report: &Value| report["node"].as_u64().expect("an id");
    reports.iter().map(|report| (id(report), report["status"].is_object())).collect()
}

/// A machine gets a new disk: the new node has a new id and the addresses of the dead one.
#[test]
fn a_dead_node_is_replaced_by_one_at_its_own_addresses() {
    let mut nodes = Nodes::three("");
    let writers = Writers::start(nodes.clients(&[1, 2]));
    writers.more();
    nodes.configure(4, &[4]);
    let text = fs::read_to_string(nodes.config(4)).expect("settings");
    let text = text.replace(&nodes.client(4).to_string(), &nodes.client(3).to_string());
    let text = text.replace(&nodes.peer(4), &nodes.peer(3));
    fs::write(nodes.config(4), &text).expect("settings");
    refused(&nodes.member(1, &["replace", "3"], Some(4)), 3, "stop that node first");
    refused(&nodes.member(1, &["add"], Some(4)), 3, "DELETE it first");
    assert_eq!(nodes.members(1), (vec![1, 2, 3], vec![]));
    nodes.kill(3);
    wait_until("it is missed", || {
        let status = nodes.status(1).expect("it runs");
        let peers = status["peers"].as_array().expect("peers").iter();
        peers.filter(|peer| peer["id"] == 3).any(|peer| peer["reachable"] == false)
    });
    // What would be refused of the new one is said before the dead one is removed for it.
    for (id, peer, words) in [
        (2_000_000, nodes.peer(3), "The id 2000000 is too high"),
        (3, nodes.peer(3), "may have been in use"),
        (4, nodes.peer(2), "Node 2 has the peer address"),
    ] {
        let other = text.replace("id = 4\n", &format!("id = {id}\n"));
        let other = other.replace("data-4", "data-5").replace(&nodes.peer(3), &peer);
        fs::write(nodes.config(5), other).expect("settings");
        refused(&nodes.member(1, &["replace", "3"], Some(5)), 3, words);
        assert_eq!(nodes.members(1), (vec![1, 2, 3], vec![]));
    }
    let replaced = nodes.replace_as_configured(1, 3, 4);
    let said = errors(&replaced);
    assert!(said.contains("takes the addresses of node 3"), "{said}");
    assert_eq!(nodes.members(1), (vec![1, 2, 4], vec![]));
    let again = nodes.member(1, &["replace", "3"], Some(4));
    succeeds(&again);
    assert!(errors(&again).contains("nothing was changed"), "{}", errors(&again));
    writers.more();
    // Its vote counts.
    nodes.kill(1);
    writers.write_to(vec![nodes.client(2), nodes.client(3)]);
    writers.more();
    let keys = writers.stop();
    all_are_there(nodes.client(3), &keys);
}

#[test]
fn a_wiped_folder_under_its_old_id_is_refused_and_the_way_back_works() {
    let mut nodes = Nodes::new();
    for id in [1, 2, 3] {
        nodes.init(id, &[1, 2, 3]);
        nodes.serve(id);
    }
    nodes.wait_for_leader(1);
    wait_until("everybody has met", || {
        [1, 2].into_iter().all(|id| {
            let pins = fs::read_to_string(nodes.data(id).join("members.json"));
            pins.is_ok_and(|pins| pins.matches("store_id").count() == 2)
        })
    });
    let put = |target: &str| {
        let answer = http::request(nodes.client(1), "PUT", target, &[], b"v").expect("an answer");
        assert!(answer.status < 300, "{}", answer.text());
    };
    put("/v1/kv/before");
    nodes.kill(3);
    fs::remove_dir_all(nodes.data(3)).expect("wiped");
    refused(&nodes.run(&["serve"], Some(3)), 1, "holds no node");
    // What nobody should do.
    succeeds(&nodes.run(&["init"], Some(3)));
    nodes.serve(3);
    wait_until("the others refuse it and say what to do", || {
        let log = nodes.log(3);
        log.contains("refuses this node") && log.contains("synod member replace")
    });
    nodes.kill(3);

    // What the message says.
    nodes.configure(4, &[4]);
    succeeds(&nodes.member(2, &["add"], Some(4)));
    nodes.serve(4);
    let output = nodes.member(2, &["replace", "3"], Some(4));
    succeeds(&output);
    assert_eq!(nodes.members(1), (vec![1, 2, 4], vec![]));
    // The new node's vote counts.
    nodes.kill(1);
    nodes.wait_for_leader(2);
    let answer = http::request(nodes.client(4), "PUT", "/v1/kv/after", &[], b"v");
    assert!(answer.is_ok_and(|answer| answer.status < 300));
    nodes.agree(&[2, 4]);
    all_are_there_with(nodes.client(4), &["before", "after"]);
}

fn all_are_there_with(node: SocketAddr, keys: &[&str]) {
    for key in keys {
        let answer = http::request(node, "GET", &format!("/v1/kv/{key}"), &[], b"");
        assert_eq!(answer.expect("an answer").text(), "v");
    }
}

/// Three nodes whose log says where they are, which all of them know.
fn with_addresses_in_the_log() -> Nodes {
    let mut nodes = Nodes::new();
    for id in [1, 2, 3] {
        nodes.init(id, &[1, 2, 3]);
        nodes.serve(id);
    }
    nodes.wait_for_leader(1);
    nodes.set_quorums(1, "3", "1");
    nodes.set_quorums(1, "2", "2");
    nodes.agree(&[1, 2, 3]);
    nodes
}

#[test]
fn a_cluster_that_got_new_addresses_while_it_was_stopped_starts_again() {
    let mut nodes = with_addresses_in_the_log();
    for id in [1, 2, 3] {
        nodes.kill(id);
    }
    nodes.base_port = free_base_port();
    for id in [1, 2, 3] {
        nodes.configure(id, &[1, 2, 3]);
        nodes.serve(id);
    }
    for id in [1, 2, 3] {
        nodes.wait_for_leader(id);
    }
    // Whichever leads, all say that it is where nobody is any more.
    let named = [1, 2, 3].map(|id| nodes.url(id)).join(",");
    for id in [1, 2, 3] {
        let (id, peer, url) = (id.to_string(), nodes.peer(id), nodes.url(id));
        let addresses = ["--peer", &peer, "--client-url", &url, "--endpoints", &named];
        let moved = nodes.run(&[&["member", "move", &id][..], &addresses].concat(), None);
        succeeds(&moved);
        assert!(!errors(&moved).contains("nothing was changed"), "{}", errors(&moved));
    }
    // The commands reach everybody again, and nothing is left of where they were.
    nodes.set_quorums(3, "3", "1");
    nodes.agree(&[1, 2, 3]);
}

#[test]
fn a_node_that_was_down_while_the_others_moved_finds_them_by_its_settings() {
    let mut nodes = with_addresses_in_the_log();
    nodes.kill(3);
    for id in [1, 2] {
        let old = nodes.peer(id);
        let new = format!("127.0.0.1:{}", u32::from(nodes.base_port) + 15 + id);
        succeeds(&nodes.member(2, &["move", &id.to_string(), "--peer", &new], None));
        nodes.kill(id);
        for config in [1, 2, 3].map(|id| nodes.config(id)) {
            let text = fs::read_to_string(&config).expect("settings");
            fs::write(&config, text.replace(&old, &new)).expect("settings");
        }
        nodes.serve(id);
        for id in [1, 2] {
            nodes.wait_for_leader(id);
        }
    }
    nodes.serve(3);
    nodes.agree(&[1, 2, 3]);
    // What it says is heard.
    nodes.kill(1);
    wait_until("a write with the vote of the node that was down", || {
        let answer = http::request(nodes.client(2), "PUT", "/v1/kv/after", &[], b"v");
        answer.is_ok_and(|answer| answer.status < 300)
    });
}

/// What would stop the cluster is refused, whoever insists; what only looks like a slip of the
/// hand is refused until somebody does.
#[test]
fn beside_a_dead_voter_no_living_one_goes_by_mistake() {
    let mut nodes = Nodes::three("");
    nodes.kill(3);
    nodes.configure(4, &[4]);
    succeeds(&nodes.member(1, &["add"], Some(4)));
    nodes.serve(4);
    let before = (vec![1, 2, 3], vec![4]);
    nodes.wait_until_survivable(&[1, 2], 0);

    // Of the voters 2 and 3, or 1 and 3, both would have to work.
    for living in ["1", "2"] {
        let other = if living == "1" { "only node 2:" } else { "only node 1:" };
        refused(&nodes.member(1, &["remove", living], None), 3, other);
        refused(&nodes.member(2, &["remove", living, "--force"], None), 3, other);
    }
    assert_eq!(nodes.members(1), before);

    // Two of 1, 3 and 4 would work.
    let replace = ["replace", "2", "--wait-s", "0"];
    let (mistake, number) = ("Node 2 works and would go, while node 3", nodes.configuration(1));
    wait_until("the leader hears node 4 and tells the mistake", || {
        let output = nodes.member(1, &replace, Some(4));
        assert_eq!(output.status.code(), Some(3), "{}", errors(&output));
        errors(&output).contains(mistake) && errors(&output).contains("--force")
    });
    let over_http = |body: &str| {
        let mut answers = nodes.clients(&[1, 2]).into_iter().map(|node| {
            let target = "/v1/cluster/members/4";
            http::request(node, "PUT", target, &[], body.as_bytes()).expect("an answer")
        });
        answers.find(|answer| answer.status != 307).expect("one leads")
    };
    let answer = over_http("{\"replaces\": 2}");
    assert_eq!(answer.status, 409, "{}", answer.text());
    assert_eq!(answer.json()["type"], "urn:synod:change-unsafe");
    assert!(answer.text().contains(mistake), "{}", answer.text());
    assert_eq!((nodes.members(1), nodes.configuration(1)), (before, number));

    // The dead one may go, and then one may that works, if somebody insists.
    succeeds(&nodes.member(1, &["remove", "3"], None));
    assert_eq!(nodes.members(2), (vec![1, 2], vec![4]));
    let promote = || nodes.member(1, &["promote", "4"], None).status.success();
    wait_until("node 4 is promoted", promote);
    nodes.wait_until_survivable(&[1, 2, 4], 1);
    refused(&nodes.member(1, &["remove", "2"], None), 3, "survives the failure of a node");
    let answer = {
        let target = "/v1/cluster/members/2?force=true";
        let ask = |node| http::request(node, "DELETE", target, &[], b"").expect("an answer");
        let mut answers = nodes.clients(&[1, 2, 4]).into_iter().map(ask);
        answers.find(|answer| answer.status != 307).expect("one leads")
    };
    assert_eq!(answer.status, 200, "{}", answer.text());
    nodes.ends_as_removed(2);
    assert_eq!(nodes.members(1), (vec![1, 4], vec![]));
    wait_until("a write", || {
        let answer = http::request(nodes.client(4), "PUT", "/v1/kv/after", &[], b"v");
        answer.is_ok_and(|answer| answer.status < 300)
    });
}

#[test]
fn a_learner_that_lags_does_not_vote_until_somebody_insists() {
    let mut nodes = Nodes::three("");
    nodes.configure(4, &[4]);
    succeeds(&nodes.member(1, &["add"], Some(4)));
    nodes.serve(4);
    nodes.agree(&[1, 2, 3, 4]);
    nodes.signal(4, Signal::STOP);
    let chosen = |nodes: &Nodes| {
        let status = nodes.status(1).expect("it runs");
        status["chosen_slot"].as_u64().expect("a number")
    };
    let begun = chosen(&nodes);
    let writers = Writers::start(nodes.clients(&[1, 2, 3]));
    while chosen(&nodes) <= begun + 1_100 {
        writers.more();
    }
    let keys = writers.stop();

    let output = nodes.member(1, &["promote", "4"], None);
    refused(&output, 3, "slots behind");
    let text = errors(&output);
    assert!(text.contains("Node 4 is ") && text.contains("add `--force`"), "{text}");
    assert_eq!(nodes.members(1), (vec![1, 2, 3], vec![4]));
    // Three of four are enough without it.
    succeeds(&nodes.member(1, &["promote", "4", "--force"], None));
    assert_eq!(nodes.members(1), (vec![1, 2, 3, 4], vec![]));
    nodes.signal(4, Signal::CONT);
    nodes.agree(&[1, 2, 3, 4]);
    all_are_there(nodes.client(4), &keys);
}

#[test]
fn what_cannot_be_is_refused_and_nothing_is_changed() {
    let mut nodes = Nodes::new();
    nodes.init(1, &[1]);
    nodes.serve(1);
    nodes.wait_for_leader(1);
    refused(&nodes.member(1, &["promote", "7"], None), 3, "No member has the id 7");
    refused(&nodes.member(1, &["remove", "7"], None), 3, "No member has the id 7");
    refused(&nodes.member(1, &["remove", "1"], None), 3, "last voter");
    refused(
        &nodes.member(1, &["move", "7", "--peer", "127.0.0.1:1"], None),
        3,
        "No member has the id 7",
    );
    refused(&nodes.member(1, &["move", "1", "--peer", "nowhere"], None), 3, "a host and a port");
    refused(&nodes.member(1, &["move", "1"], None), 2, "--client-url");
    let wrong = ["quorums", "--promise", "2", "--accept", "1"];
    refused(&nodes.member(1, &wrong, None), 3, "each quorum is 1 to 1");

    // Its address is another's.
    nodes.configure(2, &[2]);
    let text = fs::read_to_string(nodes.config(2)).expect("settings");
    let taken = text.replace(&nodes.url(2), &nodes.url(1));
    fs::write(nodes.config(2), taken).expect("settings");
    refused(&nodes.member(1, &["add"], Some(2)), 3, "Node 1 has the client URL");
    // Another cluster.
    fs::write(nodes.config(2), text.replace(CLUSTER, &"f".repeat(32))).expect("settings");
    refused(&nodes.member(1, &["add"], Some(2)), 2, "the cluster that answers is");
    // A node that is replaced must be there, and vote.
    fs::write(nodes.config(2), text).expect("settings");
    refused(&nodes.member(1, &["replace", "9"], Some(2)), 3, "no member has the id 9");
    assert_eq!(nodes.members(1), (vec![1], vec![]));

    // One that has not been started is not ready to vote.
    succeeds(&nodes.member(1, &["add"], Some(2)));
    let taken = nodes.url(1);
    let wrong = ["move", "2", "--client-url", &taken];
    refused(&nodes.member(1, &wrong, None), 3, "Node 1 has the client URL");
    refused(&nodes.member(1, &["promote", "2"], None), 3, "the leader hears only node 1:");
    // Whoever lost the folder of a new node takes a new id.
    fs::remove_dir_all(nodes.data(2)).expect("wiped");
    refused(&nodes.member(1, &["add"], Some(2)), 3, "take 3");
    succeeds(&nodes.member(1, &["remove", "2"], None));
    // It has an effect once, and says so.
    let again = nodes.member(1, &["remove", "2"], None);
    succeeds(&again);
    assert!(errors(&again).contains("nothing was changed"), "{}", errors(&again));
    refused(&nodes.member(1, &["add"], Some(2)), 3, "take 3");
    // As when a replacement was interrupted behind its first step.
    nodes.configure(3, &[3]);
    let text = "`synod member promote 3`";
    refused(&nodes.member(1, &["replace", "2"], Some(3)), 3, text);
    assert_eq!(nodes.members(1), (vec![1], vec![]));

    // Changes that name another configuration have no effect.
    let body = format!(
        "{{\"id\": 5, \"store\": \"{CLUSTER}\", \"peer\": \"127.0.0.1:1\", \
         \"client_url\": \"http://127.0.0.1:2\", \"configuration\": 9}}"
    );
    let target = "/v1/cluster/members";
    let answer = http::request(nodes.client(1), "POST", target, &[], body.as_bytes());
    let answer = answer.expect("an answer");
    assert_eq!(answer.status, 412, "{}", answer.text());
    assert_eq!(answer.json()["outcome"], "not_applied");
}
