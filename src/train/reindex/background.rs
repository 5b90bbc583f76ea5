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

use ragtune_index::{Corpus, Fragment};
use serde::{Deserialize, Serialize};

use super::super::{Event, Trainer};
use super::graph_plan;
use crate::cost::{Activity, Beside, Counts, Ledger, LedgerRecord, Phase};
use crate::error::{Context, Error, Result};
use crate::models::encoder::Encoder;
use crate::pipeline::embed::{EmbedSettings, Embedder, embed_corpus_by, fingerprint_of, windows};
use crate::report::record::{RefreshAction, RefreshRecord};

/// A snapshot that is being embedded.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pending {
    /// Steps that its encoder had done.
    pub snapshot: u64,
    /// The step at which it is put to use.
    pub swap: u64,
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
    /// What the run had spent when it began.
    began: LedgerRecord,
    passages: u64,
}

/// Some rows of a fragment that are embedded.
struct Done {
    fragment: u64,
    first: u32,
    vectors: Vec<f32>,
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
        self.state.pending = Some(Pending { snapshot: self.state.step, swap });
        let encoder = self.pipeline.encoder.try_clone()?;
        self.embed_beside(encoder)
    }

    /// Begins, or goes on, to embed a snapshot.
    pub(in super::super) fn embed_beside(&mut self, encoder: Encoder) -> Result<()> {
        let _activity = self.ledger.activity(Activity::Refresh);
        let began = self.ledger.snapshot();
        let fingerprint = {
            let _span = self.ledger.span(Phase::Embed);
            fingerprint_of(&encoder, self.embed_settings.precision)?
        };
        let pending = {
            let _span = self.ledger.span(Phase::Write);
            self.pipeline.corpus.begin(self.must_lock()?, &fingerprint, encoder.dim())?.pending()
        };
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
        let windows = BTreeMap::new();
        self.background = Some(Background { encoder, done, stop, thread, pending, windows, began, passages: 0 });
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
        let fingerprint = fingerprint_of(&background.encoder, self.embed_settings.precision)?;
        // Left without a commit: the journal remembers what was staged.
        let mut writer = self.pipeline.corpus.begin(self.must_lock()?, &fingerprint, background.encoder.dim())?;
        for fragment in whole {
            let vectors: Vec<f32> = windows(&fragment)
                .filter_map(|window| background.windows.remove(&(fragment.id, window.start)))
                .flatten()
                .collect();
            writer.write(&fragment, &vectors)?;
            span.bytes(4 * vectors.len() as u64);
            background.pending.retain(|other| other.id != fragment.id);
        }
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
            taken_over: total.saturating_sub(background.passages + embedded.passages),
            ..RefreshRecord::default()
        };
        self.adopt(embedded, pending.snapshot, record, &background.began)
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
            self.windows.insert((done.fragment, done.first), done.vectors);
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
                let done = self.embed(&corpus, &embedder, fragment, window)?;
                if done.is_none_or(|done| sender.send(Ok(done)).is_err()) {
                    return Ok(());
                }
            }
            Ok(())
        })
    }

    /// Some rows of a fragment; none when it was told to stop.
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
        match embedded {
            Ok(embedded) => Ok(Some(Done { fragment: fragment.id, first, vectors: embedded.vectors, counts })),
            Err(_) if self.stop.load(Ordering::Relaxed) => Ok(None),
            Err(error) => Err(error),
        }
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
