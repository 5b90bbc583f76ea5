//! Repetitions, and the line that is printed about them; the same keys as in `benches/peers/common.py`.

use std::fmt;
use std::time::Instant;

use clap::Args;
use ragtune::error::{Error, Result};
use serde::Serialize;
use serde_json::{Map, Value};

use crate::process;

/// How often a work is done.
#[derive(Args, Clone, Copy)]
pub struct Repeats {
    /// Repetitions before those that are measured.
    #[arg(long, global = true, default_value_t = 1)]
    warm_up: usize,
    /// Repetitions that are measured.
    #[arg(long, global = true, default_value_t = 3)]
    repetitions: usize,
}

/// Wall and CPU seconds of each measured repetition.
#[derive(Default)]
pub struct Times {
    wall: Vec<f64>,
    cpu: Vec<f64>,
}

impl Repeats {
    /// Runs `once` with the number of the repetition, from 0, warm-up included.
    pub fn run(self, mut once: impl FnMut(usize) -> Result<()>) -> Result<Times> {
        if self.repetitions == 0 {
            return Err(Error::new("`--repetitions` is `0`, expected at least 1").hint("leave it out to take three"));
        }
        let mut times = Times::default();
        for repetition in 0..self.warm_up + self.repetitions {
            if self.is_warm_up(repetition) {
                once(repetition)?;
            } else {
                times.take(|| once(repetition))?;
            }
        }
        Ok(times)
    }

    /// Whether that repetition, counted from 0, is not measured.
    pub fn is_warm_up(self, repetition: usize) -> bool {
        repetition < self.warm_up
    }

    /// The same without a warm-up, for a work that warms up in its own way.
    pub fn run_warm(self, once: impl FnMut(usize) -> Result<()>) -> Result<Times> {
        Self { warm_up: 0, ..self }.run(once)
    }
}

impl Times {
    /// Measures one repetition.
    pub fn take(&mut self, once: impl FnOnce() -> Result<()>) -> Result<()> {
        let (wall, cpu) = (Instant::now(), process::cpu_seconds());
        once()?;
        self.wall.push(wall.elapsed().as_secs_f64());
        self.cpu.push(process::cpu_seconds() - cpu);
        Ok(())
    }

    /// How many repetitions were measured.
    pub fn count(&self) -> f64 {
        self.wall.len() as f64
    }

    /// The least wall time of a repetition in seconds.
    pub fn least(&self) -> f64 {
        self.wall.iter().copied().fold(f64::INFINITY, f64::min)
    }

    /// CPU seconds of all repetitions together.
    pub fn cpu_seconds(&self) -> f64 {
        self.cpu.iter().sum()
    }

    /// The median wall time of a repetition in seconds.
    pub fn median(&self) -> f64 {
        median(&self.wall)
    }
}

/// What is said about one work.
#[derive(Serialize)]
pub struct Line {
    work: &'static str,
    side: &'static str,
    /// What is counted, and how many of it there are in a repetition.
    unit: &'static str,
    units: f64,
    /// Wall seconds of each repetition.
    seconds: Vec<f64>,
    median: f64,
    min: f64,
    max: f64,
    /// Median CPU seconds of a repetition, all threads together.
    cpu_seconds: f64,
    /// Units a second, at the median.
    per_second: f64,
    threads: usize,
    /// Resident memory before anything was loaded.
    start_bytes: u64,
    /// The largest resident memory of the process, loading included.
    peak_bytes: u64,
    /// What the work found: losses, tokens, FLOPs.
    #[serde(flatten)]
    found: Map<String, Value>,
}

impl Line {
    /// A line about a work that begins now: call it before the first file is read.
    pub fn begin(work: &'static str, unit: &'static str) -> Self {
        Self {
            work,
            side: "ragtune",
            unit,
            units: 0.0,
            seconds: Vec::new(),
            median: 0.0,
            min: 0.0,
            max: 0.0,
            cpu_seconds: 0.0,
            per_second: 0.0,
            threads: 0,
            start_bytes: process::resident_bytes(),
            peak_bytes: 0,
            found: Map::new(),
        }
    }

    /// Names the variant of ragtune that did it.
    pub fn side(self, side: &'static str) -> Self {
        Self { side, ..self }
    }

    /// Takes over how long repetitions of `units` units took.
    pub fn times(mut self, times: &Times, units: f64) -> Self {
        self.units = units;
        self.median = times.median();
        self.min = times.least();
        self.max = times.wall.iter().copied().fold(0.0, f64::max);
        self.cpu_seconds = median(&times.cpu);
        self.per_second = units / self.median;
        self.seconds = times.wall.clone();
        self
    }

    /// Adds what the work found.
    pub fn found(mut self, name: &str, value: impl Into<Value>) -> Self {
        self.found.insert(name.to_owned(), value.into());
        self
    }

    /// Reads the peak: the last thing that is done.
    pub fn finish(mut self, threads: usize) -> Self {
        self.threads = threads;
        self.peak_bytes = process::peak_bytes();
        self
    }
}

impl fmt::Display for Line {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mib = |bytes: u64| bytes as f64 / f64::from(1 << 20);
        write!(
            f,
            "{}: {:.3} s ({:.3} to {:.3}, {} repetitions), {:.2} {}/s, CPU {:.3} s, peak {:.0} MiB, {} threads",
            self.work,
            self.median,
            self.min,
            self.max,
            self.seconds.len(),
            self.per_second,
            self.unit,
            self.cpu_seconds,
            mib(self.peak_bytes),
            self.threads
        )?;
        self.found.iter().try_for_each(|(name, value)| write!(f, "\n  {name}: {value}"))
    }
}

/// The middle value; the mean of the two middle ones of an even number.
fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let middle = sorted.len() / 2;
    match sorted.len() {
        0 => 0.0,
        odd if odd % 2 == 1 => sorted[middle],
        _ => (sorted[middle - 1] + sorted[middle]) / 2.0,
    }
}
