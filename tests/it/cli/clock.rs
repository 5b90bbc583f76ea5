//! A clock that goes backwards from command to command, and between a killed run and the one that goes on with it: nothing but dates
//! may depend on it.

use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

use crate::support::*;

const YEAR: i64 = 365 * 24 * 3600;

/// Adds SHIFT seconds to the time of day, and leaves alone what durations are measured by.
const SHIM: &str = r#"
#define _GNU_SOURCE
#include <stdlib.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>
static time_t shift(void) { const char *by = getenv("SHIFT"); return by ? atoll(by) : 0; }
int clock_gettime(clockid_t clock, struct timespec *now) {
  int failed = syscall(SYS_clock_gettime, clock, now);
  if (!failed && clock == CLOCK_REALTIME) now->tv_sec += shift();
  return failed;
}
int gettimeofday(struct timeval *restrict now, void *restrict zone) {
  int failed = syscall(SYS_gettimeofday, now, zone);
  if (!failed) now->tv_sec += shift();
  return failed;
}
time_t time(time_t *out) {
  struct timespec now;
  clock_gettime(CLOCK_REALTIME, &now);
  if (out) *out = now.tv_sec;
  return now.tv_sec;
}
"#;

/// Compiles it with the C compiler that Rust links with.
fn shim(folder: &Path) -> PathBuf {
    let (source, library) = (folder.join("clock.c"), folder.join("clock.so"));
    std::fs::write(&source, SHIM).unwrap();
    let compiled =
        Command::new("cc").args(["-shared", "-fPIC", "-o"]).args([&library, &source]).status().expect("a C compiler");
    assert!(compiled.success());
    library
}

/// What a whole life of an index leaves: everything its readers see but dates, and a run's models and scores.
fn life(folder: &Path, shim: &Path, years: impl Fn(i64) -> i64) -> (Vec<Value>, Vec<String>) {
    let index = index_copy(folder);
    let at =
        |command: Ragtune, year: i64| command.env("LD_PRELOAD", shim).env("SHIFT", (years(year) * YEAR).to_string());
    let change = |words: &[&str], year: i64| at(ragtune(words).with("--index", &index), year).run().done();
    let more = folder.join("more.jsonl");
    let texts = [("new-1", "A brass compass was lost in the harbour."), ("new-2", "Snow fell on the orchard in May.")];
    let passage = |(id, text): &(&str, &str)| format!("{{\"id\":\"{id}\",\"title\":\"\",\"text\":\"{text}\"}}\n");
    std::fs::write(&more, texts.iter().map(passage).collect::<String>()).unwrap();
    change(&["index", "append", "--corpus", more.to_str().unwrap()], 9);
    change(&["index", "delete", "--id", "new-2"], 7);

    let out = folder.join("run");
    let run = train("joint", &index, &out)
        .and(&["--train-passages", "true", "--refresh-every", "2", "--steps", "6"])
        .and(&["--checkpoint-every", "1", "--lr-encoder", "1e-3"]);
    let mut running = at(run, 5).start();
    let steps = || std::fs::read_to_string(out.join("metrics.jsonl")).map_or(0, |text| text.lines().count());
    assert!(running.until(|| steps() >= 3), "the run ended before its third step");
    running.kill();
    assert!(!out.join("scores-final.jsonl").exists(), "it was already over");
    at(ragtune(&["train"]).with("--resume", &out), 3).run().done();
    let record = json(&out.join("record.json"));
    assert_eq!((&record["status"], &record["steps_done"]), (&"finished".into(), &6.into()));

    change(&["index", "refresh", "--reuse-graph", "0.01"], 1);
    change(&["index", "compact"], -2);
    change(&["index", "gc"], -4);
    assert!(is_clean(&index));
    let read = |words: &[&str]| at(ragtune(words).with("--index", &index).and(&["--json"]), -6).run().json();
    let mut versions = read(&["index", "versions"]);
    for version in versions.as_array_mut().unwrap() {
        let version = version.as_object_mut().unwrap();
        assert!(version["made_at"].as_str().unwrap().len() >= 19, "{version:?}");
        // How far the killed run had come decides how many states there were.
        for name in ["made_at", "dataset_version", "generation"] {
            version.remove(name).unwrap();
        }
        // A run protects its generation under a name made of its folder.
        let protections = version["protected_by"].as_array().unwrap().len();
        version.insert("protected_by".into(), protections.into());
    }
    let found = read(&["index", "search", "--query", "a compass in the harbour", "--top-k", "9"]);
    let files = ["encoder/model.safetensors", "generator/model.safetensors", "scores-final.jsonl", "metrics.jsonl"];
    (vec![versions, found], files.map(|file| digest(&out.join(file))).to_vec())
}

#[test]
fn a_clock_that_goes_backwards_changes_nothing_but_dates() {
    let (one, other) = (folder(), folder());
    let shim = shim(one.path());
    let steady = life(one.path(), &shim, |_| 0);
    let backwards = life(other.path(), &shim, |year| year);
    assert_eq!(backwards, steady);
    // The clock was moved indeed.
    let dated = |folder: &Path| std::fs::read_to_string(folder.join("run/record.json")).unwrap();
    let started = |folder: &Path| dated(folder).split("\"started\": \"").nth(1).unwrap()[..4].parse::<i32>().unwrap();
    assert!(started(other.path()) - started(one.path()) >= 3);
}
