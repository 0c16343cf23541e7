//! `journal`: what was closed and is not stored, with and without a daemon.

use serde_json::Value;
use xosfs::demo::{Action, Rule, Server};

use super::place::{Place, Ran, ok, run, server, until, xosfs};

/// A store that refuses every key with "refused" in it.
fn refusing() -> Server {
    let server = server();
    let denied = Action::Status(403, "AccessDenied".into());
    server.knobs().fail(Rule::new("PutObject", denied).key("refused").always());
    server
}

fn pending(place: &Place) -> Vec<Value> {
    place.status()["pending"].as_array().unwrap().clone()
}

/// A mount with one file that the store refuses, and its number.
fn parked(server: &Server, place: &Place) -> String {
    place.mount(server, "bucket:/p", "writeback");
    ok(&place.dir, "printf 'the bytes' > refused; printf fine > other");
    until("the refusal is known and the other file stored", || {
        let all = pending(place);
        all.len() == 1 && all[0]["state"] == "parked"
    });
    pending(place)[0]["id"].to_string()
}

fn journal(args: &[&str]) -> Ran {
    run(xosfs().arg("journal").args(args))
}

#[test]
fn what_a_mount_could_not_store_is_listed_saved_and_tried_again() {
    let (server, place) = (refusing(), Place::new());
    server.store().put("bucket", "p/x", "1");
    let id = parked(&server, &place);
    let dir = place.dir.to_str().unwrap();
    let file = &pending(&place)[0];
    assert_eq!((&file["key"], &file["size"]), (&"p/refused".into(), &9.into()));
    assert!(file["reason"].as_str().unwrap().contains("AccessDenied"), "{file}");
    let ran = journal(&["ls", dir]);
    let part = format!("#{id} p/refused (9 B), parked for ");
    assert!(ran.code == Some(0) && ran.out.contains(&part) && ran.out.contains("AccessDenied"), "{ran:?}");
    let text = place.ask("status", &[]).out;
    assert!(text.contains(&part) && text.contains(&format!("xosfs journal retry {dir} {id}")), "{text}");
    // The bytes can be had without the store; an existing file is not overwritten.
    let saved = place.path("saved");
    let args = ["export", &id, saved.to_str().unwrap()];
    assert_eq!(journal(&args).code, Some(0));
    assert_eq!(std::fs::read(&saved).unwrap(), b"the bytes");
    assert_eq!(journal(&args).code, Some(1));
    // Flushing tries it, too, and names it.
    let ran = place.ask("flush", &[]);
    assert!(ran.code == Some(1) && ran.err.contains("not stored: p/refused: "), "{ran:?}");
    server.knobs().clear_rules();
    assert_eq!(journal(&["retry", dir, &id]).code, Some(0));
    until("it is stored", || server.store().get("bucket", "p/refused").is_some_and(|b| b[..] == *b"the bytes"));
    until("nothing is pending", || pending(&place).is_empty());
    assert_eq!(journal(&["ls", dir]).out, "nothing is waiting to be stored\n");
    place.umount();
}

#[test]
fn discarding_wants_the_number_and_says_what_is_lost() {
    let (server, place) = (refusing(), Place::new());
    server.store().put("bucket", "p/refused", "old");
    let id = parked(&server, &place);
    let dir = place.dir.to_str().unwrap();
    let ran = journal(&["discard", dir]);
    assert!(ran.code == Some(2) && ran.err.contains("takes the numbers"), "{ran:?}");
    assert_eq!(journal(&["discard"]).code, Some(2));
    let ran = journal(&["discard", dir, "99999999"]);
    assert!(ran.code == Some(1) && ran.err.contains("has the number 99999999"), "{ran:?}");
    let ran = journal(&["discard", dir, &id]);
    assert_eq!(
        (ran.code, &*ran.out),
        (Some(0), "lost: p/refused (9 B) as it was closed; the bucket keeps what it had\n")
    );
    assert_eq!(ok(&place.dir, "cat refused"), "old");
    assert!(pending(&place).is_empty());
    place.umount();
}

#[test]
fn what_a_dead_daemon_left_is_found_without_it() {
    let (server, place) = (refusing(), Place::new());
    server.store().put("bucket", "p/x", "1");
    let id = parked(&server, &place);
    place.crash();
    let state = place.path("state");
    let state = state.to_str().unwrap();
    let ran = journal(&["ls", "--state-dir", state]);
    assert_eq!(ran.code, Some(0), "{ran:?}");
    let fix = format!("xosfs mount bucket:/p DIR -o endpoint={}", server.endpoint());
    for part in [&*format!("#{id} p/refused (9 B)"), "no daemon", &fix] {
        assert!(ran.out.contains(part), "{part}: {}", ran.out);
    }
    let json = journal(&["ls", "--state-dir", state, "--json"]).json();
    assert_eq!(json["left"][0]["pending"][0]["key"], "p/refused");
    // The record of the dead daemon tells where to look.
    let all = run(xosfs().arg("status"));
    assert!(all.code == Some(1) && all.out.contains(&format!("#{id} p/refused (9 B)")), "{all:?}");
    let ran = journal(&["retry", "--state-dir", state, &id]);
    assert!(ran.code == Some(1) && ran.err.contains("no daemon that could store it"), "{ran:?}");
    let saved = place.path("saved");
    assert_eq!(journal(&["export", "--state-dir", state, &id, saved.to_str().unwrap()]).code, Some(0));
    assert_eq!(std::fs::read(&saved).unwrap(), b"the bytes");
    let ran = journal(&["discard", "--state-dir", state, &id]);
    assert!(ran.code == Some(0) && ran.out.starts_with("lost: p/refused (9 B)"), "{ran:?}");
    assert_eq!(journal(&["ls", "--state-dir", state]).out, "nothing is waiting to be stored\n");
}

#[test]
fn wrong_words_are_named() {
    let place = Place::new();
    let dir = place.dir.to_str().unwrap();
    for (args, code, part) in [
        (&["ls", dir][..], 1, "not in a mount of xosfs"),
        (&["retry", dir, "/x"], 2, "no number of a file"),
        (&["export", "7"], 2, ""),
        (&["export", "x", "y", "z"], 2, ""),
        (&["discard", "--state-dir", dir, "7"], 1, "has the number 7"),
    ] {
        let ran = journal(args);
        assert!(ran.code == Some(code) && ran.err.contains(part), "{args:?}: {ran:?}");
    }
}
