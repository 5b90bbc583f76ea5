//! A refresh beside training: a snapshot of the encoder is embedded by threads of its own while steps go on with the generation
//! there is. When the result is put to use is fixed beforehand; what is not embedded by then, training embeds itself, with all
//! threads: the same steps see the same vectors, however fast the machine.
//!
//! Vectors are staged, fragment by fragment, in the index's journal, and the snapshot's weights are in every checkpoint taken
//! meanwhile: a killed run goes on with what was embedded.

use std::collections::BTreeMap;
use std::ops::Range;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::JoinHandle;

use ragtune_index::{Corpus, Fragment, Staging};
use serde::{Deserialize, Serialize};

use super::super::{Event, Trainer};
use super::graph_plan;
use crate::cost::{Activity, Beside, Counts, Ledger, LedgerRecord, Phase};
use crate::error::{Context, Error, Result};
use crate::models::encoder::Encoder;
use crate::pipeline::embed::{EmbedSettings, Embedder, embed_corpus_by, fingerprint_of, windows};
use crate::report::record::{RefreshAction, RefreshRecord};

/// A snapshot that is being embedded.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Pending {
    /// Steps that its encoder had done.
    pub snapshot: u64,
    /// The step at which it is put to use.
    pub swap: u64,
    /// What the run had spent when it was taken; none in checkpoints of versions that counted from the last resume.
    #[serde(default)]
    began: Option<LedgerRecord>,
}

/// The threads that embed a snapshot.
pub(in super::super) struct Background {
    /// The snapshot.
    pub encoder: Arc<Encoder>,
    done: Receiver<Result<Done>>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
    /// Fragments that are not staged.
    pending: Vec<Fragment>,
    /// Vectors of their rows, by fragment and first row.
    windows: BTreeMap<(u64, u32), Vec<f32>>,
    /// The writer that stages, between two of its fragments: what it staged need not be read again.
    staging: Option<Staging>,
    /// Passages that were staged when it began.
    taken_over: u64,
    /// Passages embedded since, those of a window that was cut off included.
    passages: u64,
}

/// Some rows of a fragment that are embedded.
struct Done {
    fragment: u64,
    first: u32,
    /// None where it was told to stop before all were.
    vectors: Option<Vec<f32>>,
    counts: Counts,
}

/// What the threads need.
struct Work {
    encoder: Arc<Encoder>,
    dir: PathBuf,
    pending: Vec<Fragment>,
    settings: EmbedSettings,
    threads: usize,
    beside: Beside,
    stop: Arc<AtomicBool>,
}

impl Trainer<'_> {
    /// Takes a snapshot of the encoder and begins to embed it.
    pub(super) fn take_snapshot(&mut self, swap: u64) -> Result<()> {
        let began = Some(self.ledger.snapshot());
        self.state.pending = Some(Pending { snapshot: self.state.step, swap, began });
        let encoder = self.pipeline.encoder.try_clone()?;
        self.embed_beside(encoder)
    }

    /// Begins, or goes on, to embed a snapshot.
    pub(in super::super) fn embed_beside(&mut self, encoder: Encoder) -> Result<()> {
        if let Some(pending) = &mut self.state.pending {
            pending.began.get_or_insert_with(|| self.ledger.snapshot());
        }
        let _activity = self.ledger.activity(Activity::Refresh);
        let fingerprint = {
            let _span = self.ledger.span(Phase::Embed);
            fingerprint_of(&encoder, self.embed_settings.precision)?
        };
        let (pending, staging) = {
            let _span = self.ledger.span(Phase::Write);
            let writer = self.pipeline.corpus.begin(self.must_lock()?, &fingerprint, encoder.dim())?;
            (writer.pending(), Some(writer.rest()))
        };
        let left: u64 = pending.iter().map(|fragment| u64::from(fragment.rows)).sum();
        let taken_over = (self.pipeline.corpus.len() as u64).saturating_sub(left);
        let encoder = Arc::new(encoder);
        let (sender, done) = channel();
        let stop = Arc::new(AtomicBool::new(false));
        let work = Work {
            encoder: Arc::clone(&encoder),
            dir: self.pipeline.corpus.dir().to_path_buf(),
            pending: pending.clone(),
            settings: self.embed_settings,
            threads: self.following.threads,
            beside: self.ledger.beside(Activity::Refresh, Phase::Embed),
            stop: Arc::clone(&stop),
        };
        let thread = std::thread::Builder::new().name("refresh".into()).spawn(move || {
            if let Err(error) = work.run(&sender) {
                // Nobody listens any more where the run has ended meanwhile.
                let _ = sender.send(Err(error));
            }
        });
        let thread = Some(thread.context(|| "a thread for the refresh cannot be started".into())?);
        let (windows, passages) = (BTreeMap::new(), 0);
        let background = Background { encoder, done, stop, thread, pending, windows, staging, taken_over, passages };
        self.background = Some(background);
        Ok(())
    }

    /// Stages the fragments that the threads have embedded so far; with `all`, stops the threads and embeds what is left.
    pub(super) fn gather(&mut self, all: bool) -> Result<()> {
        let Some(mut background) = self.background.take() else { return Ok(()) };
        let gathered = self.gather_from(&mut background, all);
        self.background = Some(background);
        gathered
    }

    fn gather_from(&self, background: &mut Background, all: bool) -> Result<()> {
        let _activity = self.ledger.activity(Activity::Refresh);
        if all {
            let _span = self.ledger.span(Phase::Embed);
            background.halt();
        }
        background.fetch(self.ledger)?;
        if all {
            self.embed_rest(background)?;
        }
        let whole: Vec<Fragment> = background.pending.iter().copied().filter(|one| background.is_whole(one)).collect();
        if whole.is_empty() {
            return Ok(());
        }
        let span = self.ledger.span(Phase::Write);
        let staging = background.staging.take();
        let staging = staging.ok_or_else(|| Error::new("the vectors of the snapshot cannot be staged any more"))?;
        let mut writer = self.pipeline.corpus.go_on(self.must_lock()?, staging)?;
        for fragment in whole {
            let vectors: Vec<f32> = windows(&fragment)
                .filter_map(|window| background.windows.remove(&(fragment.id, window.start)))
                .flatten()
                .collect();
            writer.write(&fragment, &vectors)?;
            span.bytes(4 * vectors.len() as u64);
            background.pending.retain(|other| other.id != fragment.id);
        }
        // Without a commit: the journal remembers what was staged.
        background.staging = Some(writer.rest());
        Ok(())
    }

    /// Embeds what the threads have left, as they would have.
    fn embed_rest(&self, background: &mut Background) -> Result<()> {
        let span = self.ledger.span(Phase::Embed);
        let mut embedder = None;
        for fragment in &background.pending {
            for window in windows(fragment) {
                let place = (fragment.id, window.start);
                if background.windows.contains_key(&place) {
                    continue;
                }
                let embedder = match &mut embedder {
                    Some(embedder) => embedder,
                    none => none.insert(Embedder::new(&background.encoder, &self.embed_settings)?),
                };
                let passages = self.pipeline.corpus.read(fragment, window)?;
                let embedded = embedder.vectors(&passages, &mut |counts| {
                    span.add(*counts);
                })?;
                background.passages += passages.len() as u64;
                background.windows.insert(place, embedded.vectors);
            }
        }
        Ok(())
    }

    /// Puts the snapshot's vectors to use.
    pub(super) fn swap(&mut self, observer: &mut dyn FnMut(Event<'_>)) -> Result<()> {
        self.gather(true)?;
        let pending = self.state.pending.take();
        let (Some(background), Some(pending)) = (self.background.take(), pending) else {
            return Err(Error::new("there is no snapshot whose vectors could be put to use"));
        };
        let _activity = self.ledger.activity(Activity::Refresh);
        let total = self.pipeline.corpus.len() as u64;
        // Everything is staged; this commits it and makes the graph.
        let embedded = embed_corpus_by(
            &background.encoder,
            &self.pipeline.corpus,
            self.must_lock()?,
            &self.embed_settings,
            graph_plan(true, &self.pipeline.generation),
            self.ledger,
            &mut |done| observer(Event::Refresh(done, total)),
        )?;
        let record = RefreshRecord {
            action: RefreshAction::Swapped,
            passages: total,
            taken_over: background.taken_over,
            ..RefreshRecord::default()
        };
        self.adopt(embedded, pending.snapshot, record, &pending.began.unwrap_or_default())
    }

    /// Ends a snapshot that nobody will search: what was embedded of it is charged and on record.
    pub(in super::super) fn give_up(&mut self) {
        let (background, pending) = (self.background.take(), self.state.pending.take());
        let (Some(mut background), Some(pending)) = (background, pending) else { return };
        let _activity = self.ledger.activity(Activity::Refresh);
        {
            let _span = self.ledger.span(Phase::Embed);
            background.halt();
        }
        // A thread that failed says so last, and what it was to embed is not wanted any more.
        let _ = background.fetch(self.ledger);
        let record = RefreshRecord {
            action: RefreshAction::Dropped,
            generation: self.pipeline.generation.number(),
            passages: background.passages + background.taken_over,
            taken_over: background.taken_over,
            ..RefreshRecord::default()
        };
        self.note_refresh(record, &pending.began.unwrap_or_default());
    }
}

impl Background {
    /// Takes what is embedded and was not fetched yet.
    fn fetch(&mut self, ledger: &Ledger) -> Result<()> {
        for done in self.done.try_iter() {
            let done = done?;
            let span = ledger.span(Phase::Embed);
            span.add(done.counts);
            self.passages += done.counts.passages;
            if let Some(vectors) = done.vectors {
                self.windows.insert((done.fragment, done.first), vectors);
            }
        }
        Ok(())
    }

    /// Whether all rows of a fragment are embedded.
    fn is_whole(&self, fragment: &Fragment) -> bool {
        windows(fragment).all(|window| self.windows.contains_key(&(fragment.id, window.start)))
    }

    /// Stops the threads; what they have done stays to be fetched.
    fn halt(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            // A panic there is seen as vectors that never came.
            let _ = thread.join();
        }
    }
}

impl Drop for Background {
    fn drop(&mut self) {
        self.halt();
    }
}

impl Work {
    /// Embeds the fragments in order, in a pool of its own, until it is told to stop.
    fn run(&self, sender: &Sender<Result<Done>>) -> Result<()> {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(self.threads).start_handler(|_| step_back()).build();
        let pool = pool.context(|| format!("{} threads for the refresh cannot be started", self.threads))?;
        pool.install(|| {
            // The trainer's own handle reads for the steps; one for these threads reads beside it.
            let corpus = Corpus::open(&self.dir)?;
            let embedder = Embedder::new(&self.encoder, &self.settings)?;
            let windows =
                self.pending.iter().flat_map(|fragment| windows(fragment).map(move |window| (fragment, window)));
            for (fragment, window) in windows {
                let Some(done) = self.embed(&corpus, &embedder, fragment, window)? else { return Ok(()) };
                let cut_off = done.vectors.is_none();
                if sender.send(Ok(done)).is_err() || cut_off {
                    return Ok(());
                }
            }
            Ok(())
        })
    }

    /// Some rows of a fragment; none when it was told to stop before any were begun.
    fn embed(
        &self,
        corpus: &Corpus,
        embedder: &Embedder<'_>,
        fragment: &Fragment,
        window: Range<u32>,
    ) -> Result<Option<Done>> {
        let (first, mut counts) = (window.start, Counts::default());
        if self.stop.load(Ordering::Relaxed) {
            return Ok(None);
        }
        let passages = corpus.read(fragment, window)?;
        let embedded = embedder.vectors_unless(&passages, &mut |batch| {
            counts.add(batch);
            self.beside.report();
            match self.stop.load(Ordering::Relaxed) {
                true => Err(Error::new("the refresh was told to stop")),
                false => Ok(()),
            }
        });
        // Those of its other threads.
        rayon::broadcast(|_| self.beside.report());
        let vectors = match embedded {
            Ok(embedded) => Some(embedded.vectors),
            // What was done of it is paid for all the same.
            Err(_) if self.stop.load(Ordering::Relaxed) => None,
            Err(error) => return Err(error),
        };
        Ok(Some(Done { fragment: fragment.id, first, vectors, counts }))
    }
}

/// Lets training have the processor first.
fn step_back() {
    #[cfg(target_os = "linux")]
    // SAFETY: changes the priority of the calling thread alone; a refusal leaves it as it is.
    unsafe {
        libc::setpriority(libc::PRIO_PROCESS, 0, 10);
    }
}
