//! One cluster waits for the other through the store, and never longer than it was told to.

use crate::prompts::two_chunks_and_a_tail;
use crate::scene::{Scene, complaint, eventually, stdout};
use crate::store_files;
use rustix::process::Signal;

const ID: &str = "00112233445566778899aabbccddeeff";

#[test]
fn a_decode_that_starts_first_waits_for_the_prefill() {
    let scene = Scene::seeded(two_chunks_and_a_tail());
    let decode = scene.start("decode", &["--tp", "3", "--request", ID, "--max-tokens", "4"]);
    eventually("the ranks of the decode are there", || decode.ranks().len() == 3);
    assert_eq!(stdout(&scene.run("prefill", &["--tp", "1", "--request", ID])), format!("{ID}\n"));
    stdout(&decode.finish());
    assert_eq!(scene.report("decode")["prefilled_tokens"], 1);

    let complaint = complaint(&scene.run("prefill", &["--tp", "1", "--request", ID]));
    assert!(complaint.contains(ID) && complaint.contains("use a fresh id"), "{complaint}");
}

#[test]
fn an_unknown_request_is_named_at_the_deadline() {
    let scene = Scene::seeded(two_chunks_and_a_tail());
    let output = scene.run("decode", &["--tp", "3", "--request", ID, "--deadline", "1"]);
    let complaint = complaint(&output);
    assert!(
        complaint.contains(&format!("request \"{ID}\": the deadline passed while waiting for rank 0")),
        "{complaint}"
    );
    scene.assert_nothing_is_left_over();
}

#[test]
fn an_aborted_request_is_told_at_once_with_its_reason() {
    let scene = Scene::seeded(&crate::prompts::endless());
    let prefill = scene.start("prefill", &["--tp", "1", "--raw", "--request", ID]);
    eventually("the request is announced", || !store_files::records(&scene.root()).is_empty());
    prefill.signal(Signal::TERM);
    assert_eq!(prefill.finish().status.code(), Some(143));

    // The deadline is far behind the patience of this test.
    let output = scene.run("decode", &["--tp", "3", "--raw", "--request", ID, "--deadline", "100000"]);
    let complaint = complaint(&output);
    assert!(complaint.contains(&format!("request \"{ID}\": rank 0 gave up: ")), "{complaint}");
    assert!(complaint.contains("stop"), "{complaint}");
    scene.assert_nothing_is_left_over();
}
