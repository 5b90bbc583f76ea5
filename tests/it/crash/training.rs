//! Training with refreshes killed at random microseconds, and resumed: the same bits as without.

use std::time::Instant;

use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::contents::contents;
use super::rounds::{repaired, rounds, seed};
use crate::resume::{left, resume, six_steps, straight};
use crate::support::*;

#[test]
fn killed_training_resumes_to_the_same_bits_over_a_sound_index() {
    let began = Instant::now();
    let expected = {
        let folder = folder();
        six_steps(&index_copy(folder.path()), &folder.path().join("run"), "1").run().done();
        began.elapsed()
    };
    let texts = contents(base_index()).unwrap().passages;
    let mut rng = ChaCha8Rng::seed_from_u64(seed());
    let mut early = 0;
    for round in 0..rounds(10) {
        let folder = folder();
        let (index, out) = (index_copy(folder.path()), folder.path().join("run"));
        let run = || six_steps(&index, &out, "1");
        let mut kills = Vec::new();
        // Killed, resumed and killed again every third time.
        for _ in 0..1 + u32::from(round % 3 == 2) {
            let wait = expected.mul_f64(rng.random_range(0.02..0.95));
            kills.push(wait);
            // Before its settings are written there is no run to resume, and it is started again.
            let again = if out.join("config.toml").exists() { resume(&out) } else { run() };
            again.start().kill_when(|| true, wait);
        }
        let context = format!("round {round}, killed after {kills:?} of {expected:?} (seed {})", seed());
        let found = contents(&index).unwrap();
        assert_eq!(found.passages, texts, "{context}");
        repaired(&index, false, &context);
        assert_eq!(contents(&index).as_ref(), Some(&found), "{context}: mending changed what is there");
        let started = out.join("config.toml").exists();
        early += u32::from(!started);
        // Settings are written before the record is.
        let record = out.join("record.json");
        if record.exists() && json(&record)["status"] == "finished" {
            resume(&out).run().refused(&["finished"]);
        } else {
            (if started { resume(&out) } else { run() }).run().done();
        }
        assert_eq!(&left(&out), straight(), "{context}");
        assert!(is_clean(&index), "{context}");
    }
    eprintln!("killed training: {} rounds, {early} before anything was written, {expected:?} undisturbed", rounds(10));
}
