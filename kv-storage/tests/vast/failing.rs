//! A path that fails, hangs, or comes back.

use std::sync::Arc;

use kv_format::RecordName;
use kv_storage::fault::{Injection, When};
use kv_storage::{ErrorKind, Fault, KvStore, MemoryStore, Operation, Setback, Vast, VastOptions, VastPath};
use tokio::time::Instant;

use super::*;

fn failing(path: &Fault) {
    path.inject(When::always(), Injection::Fail(ErrorKind::Unavailable));
}

//= SEMANTICS.md#vast-spread
#[tokio::test(start_paused = true)]
async fn objects_are_spread_over_the_paths_by_their_names_alike_in_every_process() {
    let (one, other) = (Scene::new(), Scene::new());
    for n in 0..200 {
        for scene in [&one, &other] {
            publish(&scene.store, &name(n), b"x").await.unwrap();
        }
    }
    for scene in [&one, &other] {
        let begun = scene.paths.each_ref().map(|path| path.calls(Operation::Begin));
        assert!(begun.iter().all(|begun| (60..=140).contains(begun)), "{begun:?}");
    }
    let begun = |scene: &Scene| scene.paths[0].calls(Operation::Begin);
    assert_eq!(begun(&one), begun(&other));
}

//= SEMANTICS.md#vast-fail-over
#[tokio::test(start_paused = true)]
async fn what_one_path_fails_another_answers() {
    let scene = Scene::new();
    let (object, bytes) = scene.object_by(0, 1000).await;
    for kind in [ErrorKind::Unavailable, ErrorKind::Backend, ErrorKind::PermissionDenied] {
        scene.paths[0].inject(When::next(Operation::Read), Injection::Fail(kind));
        assert_eq!(read(&scene.store, &object, 1000).await.unwrap().unwrap(), bytes, "{kind:?}");
        scene.paths[0].inject(When::next(Operation::Head), Injection::Fail(kind));
        assert!(scene.store.head(&object).await.unwrap().is_some(), "{kind:?}");
        // A success, so that the path stays up.
        assert!(scene.store.head(&object).await.unwrap().is_some());
    }
    // One path sees the object too short: another is asked before that is believed.
    scene.paths[0].inject(When::next(Operation::Read), Injection::Truncate(10));
    assert_eq!(read(&scene.store, &object, 1000).await.unwrap().unwrap(), bytes);
    let states = scene.store.paths();
    assert_eq!((states[0].failed_over, states[1].failed_over), (7, 0));
    let error = read(&scene.store, &object, 1001).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::OutOfRange, "{error}");
    // A full namespace is full by every path.
    let calls = scene.paths[1].calls(Operation::Begin);
    scene.paths.iter().for_each(|path| {
        path.inject(When::next(Operation::Begin), Injection::Fail(ErrorKind::NoSpace));
    });
    assert_eq!(publish(&scene.store, &name(900), b"x").await.unwrap_err().kind(), ErrorKind::NoSpace);
    assert!(scene.paths[1].calls(Operation::Begin) <= calls + 1);
}

//= SEMANTICS.md#vast-all-down
#[tokio::test(start_paused = true)]
async fn if_every_path_fails_the_call_says_so_and_is_no_miss() {
    let scene = Scene::new();
    let (object, _) = scene.object_by(0, 100).await;
    scene.paths.iter().for_each(failing);
    for _ in 0..5 {
        let error = scene.store.head(&object).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unavailable);
        assert!(error.to_string().starts_with("vast:lab: no path is left for head"), "{error}");
    }
    assert!(scene.store.health().down);
    let asked = scene.paths[0].total_calls() + scene.paths[1].total_calls();
    let error = read(&scene.store, &object, 100).await.unwrap_err();
    assert!(error.to_string().contains("2 of 2 are down"), "{error}");
    assert_eq!(
        scene.paths[0].total_calls() + scene.paths[1].total_calls(),
        asked,
        "nobody is asked while all are down"
    );
}

//= SEMANTICS.md#vast-hang
#[tokio::test(start_paused = true)]
async fn a_path_that_hangs_costs_its_deadline_once_and_then_nothing() {
    let scene = Scene::new();
    let (object, bytes) = scene.object_by(0, 1000).await;
    let hold = scene.paths[0].hang(When::always());
    let began = Instant::now();
    let mut waits = Vec::new();
    for _ in 0..5 {
        let began = Instant::now();
        assert_eq!(read(&scene.store, &object, 1000).await.unwrap().unwrap(), bytes);
        waits.push(began.elapsed().as_secs());
    }
    assert_eq!(waits, [10, 10, 10, 0, 0], "three calls mark the path down");
    assert!(scene.store.paths()[0].health.down && !scene.store.health().down);
    assert!(scene.store.health().stranded > 0, "what hangs is counted");
    assert!(began.elapsed().as_secs() <= 30);
    hold.release();
}

//= SEMANTICS.md#vast-readmission
#[tokio::test(start_paused = true)]
async fn a_path_that_works_again_is_back_within_fifteen_seconds() {
    let scene = Scene::new();
    let (object, _) = scene.object_by(0, 1000).await;
    failing(&scene.paths[0]);
    for _ in 0..4 {
        scene.store.head(&object).await.unwrap();
    }
    assert!(scene.store.paths()[0].health.down);
    // Long enough for the longest interval between probes.
    tokio::time::sleep(100 * SECOND).await;
    assert!(scene.store.paths()[0].health.down);
    scene.paths[0].clear();
    let began = Instant::now();
    while scene.store.paths()[0].health.down {
        tokio::time::sleep(SECOND / 10).await;
    }
    assert!(began.elapsed() <= 15 * SECOND, "{:?}", began.elapsed());
    assert_eq!(scene.store.paths()[0].history.readmissions, 1);
    let before = scene.paths[0].calls(Operation::Head);
    scene.store.head(&object).await.unwrap();
    assert_eq!(scene.paths[0].calls(Operation::Head), before + 1, "it is used again");
}

//= SEMANTICS.md#vast-another-way
#[tokio::test(start_paused = true)]
async fn an_object_that_one_path_garbles_is_offered_by_the_others_once_each() {
    let scene = Scene::new();
    let (object, bytes) = scene.object_by(0, 1000).await;
    scene.paths[0].inject(When::every(Operation::Read), Injection::Flip { at: 500, bit: 3 });
    for _ in 0..2 {
        assert_ne!(
            read(&scene.store, &object, 1000).await.unwrap().unwrap(),
            bytes,
            "nobody has noticed yet"
        );
        assert!(scene.store.another_way(&object, Setback::Corrupt));
        assert_eq!(read(&scene.store, &object, 1000).await.unwrap().unwrap(), bytes);
        // It fails by the other path too: then the object itself is damaged.
        assert!(!scene.store.another_way(&object, Setback::Corrupt));
    }
    assert_eq!(scene.store.paths()[0].doubted, 2);
    assert!(!scene.store.another_way(&name(999), Setback::Corrupt), "nobody has read it");
    // A setback is forgotten after a minute.
    assert_ne!(read(&scene.store, &object, 1000).await.unwrap().unwrap(), bytes);
    assert!(scene.store.another_way(&object, Setback::Corrupt));
    tokio::time::sleep(61 * SECOND).await;
    assert_ne!(read(&scene.store, &object, 1000).await.unwrap().unwrap(), bytes);
}

//= SEMANTICS.md#vast-records
#[tokio::test(start_paused = true)]
async fn records_are_made_once_whichever_path_loses_the_answer() {
    let scene = Scene::new();
    let lost = || {
        scene.paths.iter().for_each(|path| {
            path.clear();
        });
        Injection::FailAfter(ErrorKind::Unavailable)
    };
    for part in 0..8 {
        let name = RecordName::request("r", part);
        let lost_answer = lost();
        scene.paths[0].inject(When::next(Operation::CreateRecord), lost_answer.clone());
        let created = scene.store.create_record(&name, b"first").await.unwrap().expect("it is ours");
        scene.paths[0].inject(When::next(Operation::ReplaceRecord), lost_answer);
        let replaced = scene.store.replace_record(&name, &created, b"second").await.unwrap();
        let stored = scene.memory.read_record(&name).await.unwrap().unwrap();
        assert_eq!((replaced, stored.body), (Some(stored.version), b"second".to_vec()));
        assert_eq!(scene.store.create_record(&name, b"third").await.unwrap(), None);
    }
    // A replacement that failed is not made by another path: the first may be carried out later.
    for part in 0..8 {
        let name = RecordName::request("s", part);
        lost();
        let created = scene.store.create_record(&name, b"first").await.unwrap().unwrap();
        let hold = scene.paths[0].hang(When::next(Operation::ReplaceRecord));
        let answer = scene.store.replace_record(&name, &created, b"second").await;
        hold.release();
        scene.store.idle().await;
        let stored = scene.memory.read_record(&name).await.unwrap().unwrap();
        match answer {
            Ok(version) => assert_eq!(version, Some(stored.version)),
            Err(error) => assert_eq!(error.kind(), ErrorKind::Unavailable, "{error}"),
        }
        assert_eq!(stored.body, b"second", "carried out once, late");
        tokio::time::sleep(60 * SECOND).await;
    }
}

#[tokio::test]
async fn what_is_no_set_of_paths_is_refused() {
    let path = |kind: &str| VastPath::new(kind, Arc::new(MemoryStore::new()));
    for (paths, expected) in [
        (vec![], "0 paths: expected 1 to 64"),
        ((0..65).map(|_| path("nfs")).collect(), "65 paths"),
        (vec![path("a:b")], "without a colon"),
    ] {
        let error = Vast::new("lab", paths, VastOptions::default()).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Invalid);
        assert!(error.to_string().contains(expected), "{error}");
    }
}
