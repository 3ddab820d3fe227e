//! The demo, with a small file. A newcomer sees it first, so it must work.

#![allow(
    clippy::unwrap_used,
    reason = "a test that cannot go on should say where"
)]

mod rig;

use rig::{Rig, component};

#[test]
fn the_demo_survives_what_it_breaks_and_removes_all_it_started() {
    let rig = Rig::new();
    let temporary = rig.path("tmp");
    std::fs::create_dir(&temporary).unwrap();
    let mut demo = rig.command(&["demo", "--connector", &component(), "--size", "9"]);
    let out = demo.env("TMPDIR", &temporary).output().unwrap();
    let printed = String::from_utf8_lossy(&out.stdout);
    assert!(
        out.status.success(),
        "{printed}{}",
        String::from_utf8_lossy(&out.stderr)
    );
    assert_eq!(printed.matches("the same bytes").count(), 3, "{printed}");
    assert_eq!(
        std::fs::read_dir(&temporary).unwrap().count(),
        0,
        "nothing is left"
    );
}
