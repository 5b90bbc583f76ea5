//! Lists written by the selector: drawn, or the likeliest token at each place.
//!
//! A prompt is read once for all the lists that are drawn after it. Randomness is a pure function of (seed, step, question,
//! number of the list), so that a resumed run draws the same lists.

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};

use super::identifiers::Cursor;
use super::{Selector, SelectorInput};
use crate::cost::Span;
use crate::error::{Error, Result};

/// How lists are drawn.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Sampling {
    /// Logits are divided by this, above 0; 1 draws from the selector's own distribution.
    pub temperature: f64,
    /// Of the allowed tokens the likeliest are kept whose probabilities reach this sum, 1 for all (nucleus sampling,
    /// arXiv 1904.09751).
    pub top_p: f64,
}

impl Default for Sampling {
    fn default() -> Self {
        Self { temperature: 1.0, top_p: 1.0 }
    }
}

impl Sampling {
    /// Refuses what is no distribution.
    pub fn check(&self) -> Result<()> {
        if !(self.temperature.is_finite() && self.temperature > 0.0) {
            return Err(Error::new(format!("the sampling temperature is `{}`, expected above 0", self.temperature))
                .hint("set it to 1 to draw from the selector's own distribution"));
        }
        if !(self.top_p > 0.0 && self.top_p <= 1.0) {
            return Err(Error::new(format!("top-p is `{}`, expected above 0 and at most 1", self.top_p))
                .hint("set it to 1 to draw from all that may follow"));
        }
        Ok(())
    }
}

/// What draws depend on besides the question and the number of the list.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SampleKey {
    /// The run's seed.
    pub seed: u64,
    /// The optimiser step, or the number of the E-step.
    pub step: u64,
}

impl SampleKey {
    fn generator(self, question: &str, sample: usize) -> ChaCha8Rng {
        let mut hasher = blake3::Hasher::new();
        hasher.update(b"ragtune selector lists");
        for number in [self.seed, self.step, sample as u64] {
            hasher.update(&number.to_le_bytes());
        }
        hasher.update(question.as_bytes());
        ChaCha8Rng::from_seed(*hasher.finalize().as_bytes())
    }
}

/// A list and how likely it was.
#[derive(Clone, Debug, PartialEq)]
pub struct Written {
    /// The chosen candidates, counted from 0, in order.
    pub list: Vec<u32>,
    /// log p(z|x) of the selector, in nats.
    pub log_prob: f64,
    /// log of the probability that it was drawn with: `log_prob` at temperature 1 and top-p 1.
    pub log_proposal: f64,
}

impl Selector {
    /// `samples` lists of `choose` passages for each question, which is given by its id. Charges the prompts once and every
    /// token of every list to `span`.
    pub fn sample(
        &self,
        inputs: &[(&str, &SelectorInput)],
        choose: usize,
        samples: usize,
        sampling: Sampling,
        key: SampleKey,
        span: &Span,
    ) -> Result<Vec<Vec<Written>>> {
        sampling.check()?;
        let mut random: Vec<ChaCha8Rng> = inputs
            .iter()
            .flat_map(|(question, _)| (0..samples).map(move |sample| key.generator(question, sample)))
            .collect();
        let inputs: Vec<&SelectorInput> = inputs.iter().map(|(_, input)| *input).collect();
        self.write(&inputs, choose, samples, span, |row, log_probs| {
            random.get_mut(row).map(|random| draw(log_probs, sampling, random))
        })
    }

    /// The list that takes the likeliest allowed token at each place, the lowest id of several, for each question.
    pub fn select(&self, inputs: &[&SelectorInput], choose: usize, span: &Span) -> Result<Vec<Vec<u32>>> {
        let written = self.write(inputs, choose, 1, span, |_, log_probs| Some((likeliest(log_probs), 0.0)))?;
        Ok(written.into_iter().flatten().map(|written| written.list).collect())
    }

    /// Writes `each` lists after every prompt. `pick` is given the row and log p of the allowed tokens, at least two, and
    /// says which it takes and with which log-probability it does so.
    fn write(
        &self,
        inputs: &[&SelectorInput],
        choose: usize,
        each: usize,
        span: &Span,
        mut pick: impl FnMut(usize, &[f64]) -> Option<(usize, f64)>,
    ) -> Result<Vec<Vec<Written>>> {
        if inputs.is_empty() || each == 0 {
            return Ok(vec![Vec::new(); inputs.len()]);
        }
        let tokens = self.identifiers.tokens();
        let prompts: Vec<Vec<u32>> = inputs.iter().map(|input| input.ids.clone()).collect();
        let mut rows = Vec::with_capacity(inputs.len() * each);
        for (index, input) in inputs.iter().enumerate() {
            let cursor = Cursor::new(&self.identifiers, input.passages, choose)?;
            rows.extend((0..each).map(|_| Row {
                prompt: index,
                cursor: cursor.clone(),
                log_prob: 0.0,
                log_proposal: 0.0,
            }));
        }
        self.charge(prompts.iter().map(|prompt| (0, prompt.len())), tokens.len(), span);
        let mut decoding = self.generator.start_among(&prompts, &tokens)?;
        // The rows that are not complete, each with its row in the decoding.
        let mut active: Vec<usize> = (0..rows.len()).filter(|&row| !rows[row].cursor.is_complete()).collect();
        if active.is_empty() {
            return Ok(grouped(rows, inputs.len()));
        }
        decoding.select(&active.iter().map(|&row| rows[row].prompt).collect::<Vec<_>>())?;
        loop {
            let log_probs = decoding.log_probs()?.to_vec2::<f32>()?;
            let (mut kept, mut fed, mut still) = (Vec::new(), Vec::new(), Vec::new());
            for (place, (&index, log_probs)) in active.iter().zip(&log_probs).enumerate() {
                let row = &mut rows[index];
                let allowed = row.cursor.allowed().unwrap_or_default();
                let token = match allowed.as_slice() {
                    [only] => *only,
                    several => {
                        let log_probs = among(log_probs, &tokens, several)?;
                        let (taken, log_proposal) =
                            pick(index, &log_probs).ok_or_else(|| Error::new("a list has no source of randomness"))?;
                        row.log_prob += log_probs[taken];
                        row.log_proposal += log_proposal;
                        several[taken]
                    }
                };
                row.cursor.push(token);
                if !row.cursor.is_complete() {
                    kept.push(place);
                    fed.push(token);
                    still.push(index);
                }
            }
            if still.is_empty() {
                return Ok(grouped(rows, inputs.len()));
            }
            if still.len() < active.len() {
                decoding.select(&kept)?;
            }
            active = still;
            self.charge(decoding.lengths().iter().map(|&length| (length, length + 1)), tokens.len(), span);
            decoding.advance(&fed)?;
        }
    }

    /// Charges sequences that grow from one length to another, with one row of `among` logits each.
    fn charge(&self, grown: impl Iterator<Item = (usize, usize)>, among: usize, span: &Span) {
        let (mut read, mut flops) = (0, 0.0);
        for (before, after) in grown {
            let of = |length: usize| if length == 0 { 0.0 } else { self.generator.forward_flops(&[length], 0) };
            read += (after - before) as u64;
            flops += of(after) - of(before) + 2.0 * (among * self.generator.config().hidden) as f64;
        }
        span.tokens(read);
        span.flops(flops);
    }
}

/// A list being written after a prompt.
struct Row<'a> {
    prompt: usize,
    cursor: Cursor<'a>,
    log_prob: f64,
    log_proposal: f64,
}

fn grouped(rows: Vec<Row<'_>>, prompts: usize) -> Vec<Vec<Written>> {
    let mut groups = vec![Vec::new(); prompts];
    for Row { prompt, cursor, log_prob, log_proposal } in rows {
        groups[prompt].push(Written { list: cursor.list().to_vec(), log_prob, log_proposal });
    }
    groups
}

/// log p of the allowed tokens, renormalised over them; `log_probs` are over `tokens`, ascending.
fn among(log_probs: &[f32], tokens: &[u32], allowed: &[u32]) -> Result<Vec<f64>> {
    let of = |token: &u32| tokens.binary_search(token).ok().and_then(|place| log_probs.get(place)).copied();
    let chosen: Vec<f64> = allowed.iter().filter_map(of).map(f64::from).collect();
    if chosen.len() != allowed.len() || chosen.iter().any(|value| !value.is_finite()) {
        return Err(Error::new("the selector gives an identifier a probability that is no number")
            .hint("its weights have diverged: go back to an earlier checkpoint, or lower its learning rate"));
    }
    Ok(log_softmax(&chosen))
}

fn log_softmax(values: &[f64]) -> Vec<f64> {
    let largest = values.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let normaliser = largest + values.iter().map(|value| (value - largest).exp()).sum::<f64>().ln();
    values.iter().map(|value| value - normaliser).collect()
}

fn likeliest(log_probs: &[f64]) -> usize {
    let mut best = 0;
    for (place, value) in log_probs.iter().enumerate() {
        if *value > log_probs[best] {
            best = place;
        }
    }
    best
}

/// Draws one of the entries with probability softmax(log p / temperature), cut to the nucleus and renormalised; with the
/// logarithm of that probability.
fn draw(log_probs: &[f64], sampling: Sampling, random: &mut ChaCha8Rng) -> (usize, f64) {
    let tempered = log_softmax(&log_probs.iter().map(|value| value / sampling.temperature).collect::<Vec<_>>());
    let mut order: Vec<usize> = (0..tempered.len()).collect();
    order.sort_by(|&a, &b| tempered[b].total_cmp(&tempered[a]).then(a.cmp(&b)));
    let (mut kept, mut sum) = (0, 0.0);
    // The token that reaches top-p is kept too; with top-p 1 rounding must not drop the last.
    while kept < order.len() && (kept == 0 || sum < sampling.top_p || sampling.top_p >= 1.0) {
        sum += tempered[order[kept]].exp();
        kept += 1;
    }
    // 53 random bits: every f64 in [0, 1) that is a multiple of 2^-53, equally likely.
    let uniform = (random.next_u64() >> 11) as f64 / (1u64 << 53) as f64;
    let mut left = uniform * sum;
    let mut taken = order[kept - 1];
    for &place in &order[..kept] {
        left -= tempered[place].exp();
        if left < 0.0 {
            taken = place;
            break;
        }
    }
    (taken, tempered[taken] - sum.ln())
}

#[cfg(test)]
mod tests;
