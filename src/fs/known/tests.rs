//! What listings are believed, and the memory they take.

use super::*;
use std::ffi::OsStr;

fn item(name: &str) -> Arc<Item> {
    Arc::new(Item::dir(Name::parse(OsStr::new(name)).unwrap()))
}

fn entries(l: &Listings) -> usize {
    l.entries(|_| true)
}

fn name(text: &str) -> Name {
    Name::parse(OsStr::new(text)).unwrap()
}

#[test]
fn a_listing_answers_for_every_name_until_it_is_old_or_touched() {
    let l = Listings::new(Duration::from_secs(60), Duration::from_secs(60), Budget::new(1 << 20));
    assert!(matches!(l.ask(Ino(5), &name("a")), Answer::Unknown));
    l.put(Ino(5), Instant::now(), vec![item("b"), item("a")]);
    assert!(matches!(l.ask(Ino(5), &name("a")), Answer::Present { .. }));
    assert!(matches!(l.ask(Ino(5), &name("c")), Answer::Absent { .. }));
    assert_eq!(l.all(Ino(5)).unwrap().1.len(), 2);
    l.touch(Ino(5), &name("c"), true);
    l.touch(Ino(5), &name("a"), false);
    assert!(matches!(l.ask(Ino(5), &name("c")), Answer::Unknown));
    assert!(matches!(l.ask(Ino(5), &name("a")), Answer::Absent { .. }));
    assert!(l.all(Ino(5)).is_none());
    let old = Listings::new(Duration::ZERO, Duration::ZERO, Budget::new(1 << 20));
    old.put(Ino(5), Instant::now(), vec![item("a")]);
    assert!(matches!(old.ask(Ino(5), &name("a")), Answer::Unknown));
    assert!(old.worth_refreshing(Ino(5)));
}

#[test]
fn a_missing_name_is_remembered_until_it_is_made_or_a_later_listing_has_it() {
    let l = Listings::new(Duration::from_secs(60), Duration::from_secs(60), Budget::new(1 << 20));
    let absent = |name_: &str| matches!(l.ask(Ino(5), &name(name_)), Answer::Absent { .. });
    for n in ["a", "b", "c"] {
        l.missing(Ino(5), &name(n), Instant::now());
        assert!(absent(n));
    }
    assert!(matches!(l.ask(Ino(6), &name("a")), Answer::Unknown), "in another directory");
    l.touch(Ino(5), &name("a"), true);
    assert!(!absent("a") && absent("b"));
    l.put(Ino(5), Instant::now(), vec![item("b")]);
    assert!(!absent("b") && absent("c"));
    l.forget(Ino(5));
    assert!(!absent("b") && !absent("c"));
    l.put(Ino(5), Instant::now(), vec![item("b")]);
    l.missing(Ino(6), &name("b"), Instant::now());
    l.forget_all(|dir| dir == Ino(6));
    assert!(absent("c") && matches!(l.ask(Ino(6), &name("b")), Answer::Unknown));
    l.forget_all(|dir| dir == Ino(5));
    assert!(!absent("c"));
    let never = Listings::new(Duration::from_secs(60), Duration::ZERO, Budget::new(1 << 20));
    never.missing(Ino(5), &name("a"), Instant::now());
    assert!(matches!(never.ask(Ino(5), &name("a")), Answer::Unknown));
}

#[test]
fn what_changes_while_a_directory_is_listed_is_not_lost() {
    let l = Listings::new(Duration::from_secs(60), Duration::from_secs(60), Budget::new(1 << 20));
    let at = Instant::now();
    l.watch(Ino(5));
    l.touch(Ino(5), &name("made"), true);
    l.touch(Ino(5), &name("gone"), false);
    l.put_watched(Ino(5), at, vec![item("gone"), item("there")]);
    assert!(matches!(l.ask(Ino(5), &name("made")), Answer::Unknown));
    assert!(matches!(l.ask(Ino(5), &name("gone")), Answer::Absent { .. }));
    assert!(matches!(l.ask(Ino(5), &name("there")), Answer::Present { thin: true, .. }));
    l.put_again(Ino(5), Instant::now(), vec![item("there")]);
    assert!(matches!(l.ask(Ino(5), &name("there")), Answer::Present { thin: true, .. }));
    l.watch(Ino(6));
    l.forget(Ino(6));
    l.put_watched(Ino(6), at, vec![]);
    assert!(matches!(l.ask(Ino(6), &name("a")), Answer::Unknown), "renamed or removed meanwhile");
}

#[test]
fn the_bound_counts_entries_of_all_directories() {
    let budget = Budget::new(SHARE * 11 * ITEM_BYTES);
    let l = Listings::new(Duration::from_secs(60), Duration::from_secs(60), budget.clone());
    for dir in 2..20 {
        l.put(Ino(dir), Instant::now(), vec![item("a"), item("b"), item("c")]);
        assert!(entries(&l) <= 10 && budget.used() <= budget.limit() / SHARE && budget.used() > 0);
    }
    l.put(Ino(50), Instant::now(), (0..11).map(|i| item(&i.to_string())).collect());
    assert!(matches!(l.ask(Ino(50), &name("1")), Answer::Unknown));
    l.put(Ino(19), Instant::now(), vec![]);
    let before = entries(&l);
    l.forget(Ino(19));
    assert_eq!(entries(&l), before - 1);
    l.watch(Ino(60));
    let four = || (0..4).map(|i| item(&i.to_string())).collect();
    assert_eq!(l.put_watched(Ino(60), Instant::now(), four()), Some(vec![]));
    l.watch(Ino(61));
    let made_room = l.put_watched(Ino(61), Instant::now(), (0..9).map(|i| item(&i.to_string())).collect());
    assert_eq!(made_room.unwrap(), [Ino(60)], "a listing that was of use had to go");
    for dir in [18, 60, 61] {
        l.forget(Ino(dir));
    }
    assert_eq!((entries(&l), budget.used()), (0, 0));
    let _taken = budget.try_lease(budget.limit()).unwrap();
    l.put(Ino(70), Instant::now(), vec![item("a")]);
    l.watch(Ino(71));
    assert_eq!(l.put_watched(Ino(71), Instant::now(), four()), None);
    assert_eq!(entries(&l), 0, "no memory for it");
}

#[test]
fn a_change_while_a_listing_is_remembered_is_not_lost() {
    for watched in [false, true] {
        let budget = Budget::new(SHARE * 100 * ITEM_BYTES);
        let l = Arc::new(Listings::new(Duration::from_secs(60), Duration::from_secs(60), budget.clone()));
        let taken = Mutex::new(Some(budget.try_lease(budget.limit()).unwrap()));
        let there = l.clone();
        // Others give memory up for it, and somebody deletes a name meanwhile.
        budget.set_reclaim(move |_| {
            there.touch(Ino(5), &name("x"), false);
            drop(taken.lock().take());
        });
        let items = vec![item("x"), item("y")];
        if watched {
            l.watch(Ino(5));
            l.put_watched(Ino(5), Instant::now(), items);
            assert!(matches!(l.ask(Ino(5), &name("y")), Answer::Present { .. }));
            assert!(matches!(l.ask(Ino(5), &name("x")), Answer::Absent { .. }));
        } else {
            l.put(Ino(5), Instant::now(), items);
            assert!(matches!(l.ask(Ino(5), &name("x")), Answer::Unknown));
        }
    }
}

#[test]
fn an_older_listing_does_not_replace_a_newer_one() {
    let l = Listings::new(Duration::from_secs(60), Duration::from_secs(60), Budget::new(1 << 20));
    let before = Instant::now();
    l.put(Ino(5), Instant::now(), vec![item("new")]);
    l.put(Ino(5), before, vec![item("old")]);
    assert!(matches!(l.ask(Ino(5), &name("new")), Answer::Present { .. }));
}

#[test]
fn names_changed_here_are_within_the_bound() {
    let budget = Budget::new(SHARE * 1000 * ITEM_BYTES);
    let l = Listings::new(Duration::from_secs(60), Duration::from_secs(60), budget.clone());
    l.put(Ino(5), Instant::now(), vec![item("a")]);
    let others = budget.try_lease(budget.limit() - budget.used() - 10 * TOUCHED * (ITEM_BYTES + 10)).unwrap();
    let names = || (0..).map(|i| name(&format!("made-{i}")));
    for made in names().take(9 * TOUCHED) {
        l.touch(Ino(5), &made, true);
    }
    let used = budget.used() - others.bytes();
    assert!(entries(&l) == 2 && used >= 8 * TOUCHED * ITEM_BYTES, "{used}");
    for made in names().skip(9 * TOUCHED).take(3 * TOUCHED) {
        l.touch(Ino(5), &made, true);
    }
    assert_eq!((entries(&l), budget.used()), (0, others.bytes()));
    l.touch(Ino(5), &name("b"), true);
    assert!(matches!(l.ask(Ino(5), &name("a")), Answer::Unknown));
}
