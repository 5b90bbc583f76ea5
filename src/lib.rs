//! **ragtune** fine-tunes a retrieval-augmented generation pipeline - an embedding model and a generator - by
//! interchangeable strategies, over a corpus kept in a Lance dataset whose HNSW index follows the retriever while it learns,
//! and compares the strategies on answer quality, retrieval quality and the whole cost, every index refresh included.
//!
//! # Bird's eye
//!
//! ```text
//! corpus file --index build--> Corpus (Lance) --+                    +--> RunRecord, scores per question
//!                                               |                    |
//! encoder folder --> Encoder --embed_corpus--> Generation            |
//!                       |                       |                    |
//! questions ------------+--> Step (scores, log-likelihoods) --> Objective --> gradients --> AdamW
//!                                  ^                                                          |
//! generator folder --> Generator --+<---------------------------------------------------------+
//!                                        by its policy: embedded again in whole or in part (refresh)
//! ```
//!
//! A **Corpus** is the passages. A **Generation** is one complete, immutable embedding of them by one encoder state, with
//! its graph. **Encoder** and **Generator** are the two models. A **Pipeline** is what is deployed and evaluated: corpus,
//! generation, encoder, generator, prompt. An **Objective** is one equation over the quantities of one **Step**. A
//! **Strategy** is a list of **Stages**, each saying which parts train under which objective; a stage has an id, is trained once
//! and is charged to every strategy that contains it. The **Ledger** says where time,
//! tokens, FLOPs and bytes were spent, by activity and phase. A **Run** is the record of one strategy on one task.
//!
//! # Code map: the question each room answers
//!
//! | room | answers |
//! |---|---|
//! | [`ragtune_index`] (`index/`) | which passages are there, which are nearest to this vector, and is that still true? |
//! | [`data`] | what is in this question file or corpus file? |
//! | [`models`] | text in, tensors out, with a backward pass: which layers, weights, adapters? |
//! | [`pipeline`] | what do the papers' quantities mean for this batch; how is a corpus embedded; how is an answer read off? |
//! | [`objectives`] | what is the equation? |
//! | [`strategies`] | which parts train under which equation, and who proposed it? |
//! | [`train`] | in which order do stages, steps, refreshes, evaluations and checkpoints happen; which stages are done already? |
//! | [`comparison`] | which runs make up a comparison, and which learning rates are tried for them? |
//! | [`eval`] | how good are answers and retrieval, question by question? |
//! | [`cost`] | where did the time go? |
//! | [`report`] | what is written down, and how do runs compare? |
//! | [`hub`] | which folder does a model's name stand for? |
//! | [`cli`], [`config`], [`commands`], [`process`] | what was typed, what was meant, what is printed; on which threads? |
//!
//! Dependence runs one way: `main -> commands -> {train, eval, report} -> {strategies -> objectives} -> pipeline -> {models,
//! ragtune-index}`; `cost`, `data` and `error` are leaves, and `hub` knows only the names of weight files (`eval::evaluate`
//! drives a pipeline; the other files of `eval` are pure). `train` calls `eval`, never the reverse.
//!
//! # Invariants: what is absent
//!
//! 1. `index/` never names a model; nothing above `index/` is `async`.
//! 2. An objective opens no file, reads no clock, draws no randomness and never sees the index.
//! 3. Only `models::nn` builds a norm, softmax or rotary embedding: candle's fused ones record no backward pass.
//! 4. Only `cost` reads the clock. Only `commands` prints. Only `main` exits.
//! 5. A committed generation is never changed, only superseded and later removed.
//! 6. Only configuration, run record, checkpoint state and notes of the index derive `Serialize`: those are the promises.
//! 7. Randomness is a pure function of (seed, purpose, step): a resumed run needs no iterator state.
//! 8. Variables are visited in name order, and parallel sums are taken over fixed chunks: same seed, same bits.
//! 9. Outside data is never unwrapped or indexed unchecked.
//!
//! # What candle gives and what it does not
//!
//! Tensors, the graph of operations and its walk backwards, matrix products and the ggml formats of quantised weights are
//! candle's. Layers are ours (`models::nn`): candle-nn's fused norms, softmax and rotary embedding record no backward pass, and
//! candle-transformers' models are built on them, so that they answer but do not train. Its models serve in the tests, as a
//! second oracle beside PyTorch's numbers; its quantised models cannot hold an adapter, which is why quantised generators run on
//! our layers too.
//!
//! # Devices
//!
//! A model's device is where whatever meets it is computed (`models::device`). On the CPU layers are fused loops; elsewhere
//! the same functions are put together from candle's operations, whose kernels it has for CUDA and Metal, under a backward pass
//! of our own that keeps nothing in between (`models::nn`, `portable`). Under `nn::portably` they run on the CPU: the golden
//! numbers of every layer, family, adapter and optimiser hold there too. Index, tokenizer and objectives know no device.
//!
//! # How an index stays true
//!
//! Text and vectors live in separate data files of one Lance dataset; a refresh replaces the vector files and never touches
//! the text. The Lance commit is the truth; the graph is a derived, checksummed, disposable sidecar, and exact search is
//! always there. Every generation carries the fingerprint of what embedded it, and a question from another encoder is refused,
//! except in training, which declares that its index may be stale: the index then only selects passages, and their scores
//! are recomputed from live vectors (REALM). Several generations are kept, so that every strategy finds the one its base
//! encoder embedded, whatever was trained before on the same index. `index/FORMAT.md` has the bytes and the crash table.
//!
//! How it follows while passages train is a policy (`train::refresh`): in whole, beside training, in part, mapped, when it has
//! drifted, or not at all. Policies are pure functions of steps and measurements; `train::reindex` acts, measures what the index
//! finds before and after, and writes that down. Scores of different encoder states are never compared: where only some vectors
//! are new, live ones rank (`pipeline::fresh`). Whatever is kept between steps is in the checkpoint.
//!
//! # How to add a strategy
//!
//! Write `src/strategies/<name>.rs` with a `STRATEGY` that names its source and builds its stages, add one line to
//! [`strategies::STRATEGIES`], and, if its equation is new, one file in `src/objectives/`. The contract test in `tests/it`
//! loops over the table: finite loss, exactly the named parts move, same seed same bits, each phase charged, the loss falls.
//!
//! # How a stage is shared
//!
//! A stage's id is the hash of everything its weights depend on (`train::spec`): settings less the list of those that no weight
//! depends on, the equation with its settings, data, base models, and the ids of the stages whose models it begins with. So it is
//! known before anything has run. A stage that is done lies whole in a folder of that name (`train::stages`); whoever comes to it
//! later takes it from there and adds its ledger to the bill (`RunRecord::whole`).

pub mod cli;
pub mod commands;
pub mod comparison;
pub mod config;
pub mod cost;
pub mod data;
pub mod error;
pub mod eval;
pub mod hub;
pub mod models;
pub mod objectives;
pub mod pipeline;
pub mod process;
pub mod report;
pub mod strategies;
pub mod train;
