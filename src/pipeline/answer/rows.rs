//! What a search sees of a model: rows of text that are continued, and what may come next in each.

use candle_core::Tensor;

use crate::cost::Span;
use crate::error::Result;
use crate::models::decoding::Decoding;
use crate::models::generator::Generator;

/// Texts being continued at the same time.
pub(super) trait Rows: Sized {
    /// log p(next token | what the row holds), (rows, V) f32 in nats.
    fn log_probs(&self) -> Result<Tensor>;

    /// Keeps these rows, in this order and as often as they are named, each continued by its token.
    fn advance(&mut self, rows: &[usize], tokens: &[u32]) -> Result<()>;

    /// A copy of these rows that goes its own way.
    fn fork(&self, rows: &[usize]) -> Result<Self>;

    /// How many there are.
    fn count(&self) -> usize;
}

/// Rows of a generator; tokens and FLOPs are charged as they are read.
pub(super) struct Reading<'a> {
    generator: &'a Generator,
    decoding: Decoding,
    span: &'a Span,
}

impl<'a> Reading<'a> {
    /// Reads prompts, at least one.
    pub fn start(generator: &'a Generator, prompts: &[Vec<u32>], span: &'a Span) -> Result<Self> {
        let lengths: Vec<usize> = prompts.iter().map(Vec::len).collect();
        span.tokens(lengths.iter().sum::<usize>() as u64);
        span.flops(generator.forward_flops(&lengths, lengths.len()));
        Ok(Self { generator, decoding: generator.start(prompts)?, span })
    }
}

impl Rows for Reading<'_> {
    fn log_probs(&self) -> Result<Tensor> {
        self.decoding.log_probs()
    }

    fn advance(&mut self, rows: &[usize], tokens: &[u32]) -> Result<()> {
        if !rows.iter().copied().eq(0..self.count()) {
            self.decoding.select(rows)?;
        }
        self.span.tokens(tokens.len() as u64);
        self.span.flops(self.generator.step_flops(self.decoding.lengths()));
        self.decoding.advance(tokens)
    }

    fn fork(&self, rows: &[usize]) -> Result<Self> {
        Ok(Self { generator: self.generator, decoding: self.decoding.fork(rows)?, span: self.span })
    }

    fn count(&self) -> usize {
        self.decoding.lengths().len()
    }
}
