//! Dropout of passes in training: how much is dropped where, and from which random numbers.
//!
//! Off unless asked for: a step then depends on nothing but its batch, and a likelihood that is a retriever's teacher or an
//! index's score is that of the model which answers. A pass drops only when it is given a [`Draw`], which training does for
//! parts that train; evaluation never has one.
//!
//! Masks are pure functions of (draw, layer, place, sequence, position, feature): a second pass over a block or a chunk, for
//! gradients that were not kept, drops the same numbers, and so does another split into chunks.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use candle_core::Tensor;
use serde::{Deserialize, Serialize};

use super::batch::Spans;
use super::nn;
use crate::error::{Error, Result};

/// How much training drops.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "Written", into = "Written")]
pub enum Dropping {
    /// Nothing.
    #[default]
    Off,
    /// What config.json of each model says.
    Config,
    /// This share at every place where the model's family has dropout; at least 0, below 1.
    Share(f64),
}

/// As it stands in settings.
#[derive(Serialize, Deserialize)]
#[serde(untagged)]
enum Written {
    Share(f64),
    Name(String),
}

impl From<Dropping> for Written {
    fn from(dropping: Dropping) -> Self {
        match dropping {
            Dropping::Share(share) => Self::Share(share),
            other => Self::Name(other.to_string()),
        }
    }
}

impl TryFrom<Written> for Dropping {
    type Error = Error;

    fn try_from(written: Written) -> Result<Self> {
        match written {
            Written::Share(share) => share.to_string().parse(),
            Written::Name(name) => name.parse(),
        }
    }
}

impl FromStr for Dropping {
    type Err = Error;

    fn from_str(typed: &str) -> Result<Self> {
        match (typed, typed.parse::<f64>()) {
            ("off", _) => Ok(Self::Off),
            ("config", _) => Ok(Self::Config),
            (_, Ok(share)) if (0.0..1.0).contains(&share) => Ok(Self::Share(share)),
            _ => Err(Error::new(format!(
                "the dropout is `{typed}`, expected `off`, `config` or a share from 0 to below 1"
            ))
            .hint("leave `--dropout` out for none, or give for instance `--dropout 0.1`")),
        }
    }
}

impl fmt::Display for Dropping {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Off => f.write_str("off"),
            Self::Config => f.write_str("config"),
            Self::Share(share) => write!(f, "{share}"),
        }
    }
}

/// Shares that are dropped at the places where a model's family has dropout; `None` where it has none, whatever is asked for.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Rates {
    /// Of what goes into the first layer.
    pub embedding: Option<f64>,
    /// Of attention probabilities.
    pub attention: Option<f64>,
    /// Of what attention adds to the hidden state.
    pub attended: Option<f64>,
    /// Of what the feed-forward block adds; in ModernBERT of what its last projection reads.
    pub feed_forward: Option<f64>,
}

impl Rates {
    /// Those of a model whose config.json says `self`.
    pub fn under(self, dropping: Dropping) -> Self {
        let each = |rate: Option<f64>| match dropping {
            Dropping::Off => None,
            Dropping::Config => rate,
            Dropping::Share(share) => rate.map(|_| share),
        };
        Self {
            embedding: each(self.embedding),
            attention: each(self.attention),
            attended: each(self.attended),
            feed_forward: each(self.feed_forward),
        }
    }

    /// Name and share of each place that has dropout.
    pub fn named(&self) -> impl Iterator<Item = (&'static str, f64)> {
        let all = [
            ("embedding", self.embedding),
            ("attention", self.attention),
            ("attended", self.attended),
            ("feed_forward", self.feed_forward),
        ];
        all.into_iter().filter_map(|(name, rate)| Some((name, rate?)))
    }

    fn of(&self, site: Site) -> Option<f64> {
        match site {
            Site::Embedding => self.embedding,
            Site::Attention => self.attention,
            Site::Attended => self.attended,
            Site::FeedForward => self.feed_forward,
        }
    }
}

/// A place of a layer where something may be dropped; the numbers are part of what a mask follows from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Site {
    /// Before the first layer.
    Embedding = 0,
    /// [`Rates::attention`].
    Attention = 1,
    /// [`Rates::attended`].
    Attended = 2,
    /// [`Rates::feed_forward`].
    FeedForward = 3,
}

/// The random numbers of one pass in training.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Draw {
    key: u64,
    /// The number of the first sequence of the pass: not 0 in a chunk of a larger one.
    first: usize,
}

impl Draw {
    /// What everything of a run is drawn from.
    pub fn new(seed: u64) -> Self {
        Self { key: nn::mix(name_hash("dropout"), seed), first: 0 }
    }

    /// One of many, by its number: a stage, a step, a micro-batch, a pass.
    pub fn of(self, number: u64) -> Self {
        Self { key: nn::mix(self.key, number), ..self }
    }

    /// The same for the sequences from this one on.
    pub(super) fn beginning_at(self, sequence: usize) -> Self {
        Self { first: self.first + sequence, ..self }
    }
}

/// What one pass over a packed batch drops.
#[derive(Clone, Debug)]
pub(super) struct Drops {
    key: u64,
    rates: Rates,
    /// Of each token: the number of its sequence in the upper half, its position there in the lower.
    rows: Arc<[u64]>,
}

impl Drops {
    pub fn new(draw: Draw, rates: Rates, spans: &Spans) -> Self {
        let of_sequence = |(at, length): (usize, usize)| {
            let sequence = ((draw.first + at) as u64) << 32;
            (0..length as u64).map(move |position| sequence | position)
        };
        Self { key: draw.key, rates, rows: spans.lengths().enumerate().flat_map(of_sequence).collect() }
    }

    /// The dropout of a place of a layer, counted from 0; `None` where nothing is dropped.
    pub fn at(&self, site: Site, layer: usize) -> Result<Option<nn::Dropout>> {
        self.with(self.rates.of(site).unwrap_or(0.0), nn::mix(nn::mix(self.key, layer as u64), site as u64))
    }

    /// The dropout before the adapter of the module at `path`.
    pub fn adapter(&self, path: &str, rate: f64) -> Result<Option<nn::Dropout>> {
        self.with(rate, nn::mix(nn::mix(self.key, u64::MAX), name_hash(path)))
    }

    fn with(&self, rate: f64, key: u64) -> Result<Option<nn::Dropout>> {
        // A share of 0 is no dropout: the very same operations as without.
        if rate == 0.0 {
            return Ok(None);
        }
        nn::Dropout::new(rate, key, Arc::clone(&self.rows)).map(Some)
    }
}

/// x with what this dropout drops of it.
pub(super) fn drop_from(x: Tensor, how: Option<&nn::Dropout>) -> Result<Tensor> {
    match how {
        Some(how) => nn::dropout(&x, how),
        None => Ok(x),
    }
}

/// A share read from a config.json: refused, with the key's name, unless at least 0 and below 1.
pub(super) fn checked(key: &str, share: f64) -> Result<f64> {
    if (0.0..1.0).contains(&share) {
        return Ok(share);
    }
    Err(Error::new(format!("`{key}` is `{share}`, expected a share from 0 to below 1"))
        .hint("set it to 0 in config.json: what a model answers does not depend on it"))
}

/// FNV-1a in 64 bits.
fn name_hash(name: &str) -> u64 {
    name.bytes().fold(0xCBF2_9CE4_8422_2325, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01B3))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_are_read_as_they_are_written() {
        for (text, dropping) in [("off", Dropping::Off), ("config", Dropping::Config), ("0.25", Dropping::Share(0.25))]
        {
            assert_eq!(text.parse::<Dropping>().unwrap(), dropping);
            assert_eq!(dropping.to_string(), text);
            let json = serde_json::to_string(&dropping).unwrap();
            assert_eq!(serde_json::from_str::<Dropping>(&json).unwrap(), dropping);
        }
        assert_eq!(serde_json::from_str::<Dropping>("0").unwrap(), Dropping::Share(0.0));
        for wrong in ["on", "1", "1.5", "-0.1", "NaN", ""] {
            let error = wrong.parse::<Dropping>().unwrap_err();
            assert!(error.to_string().contains(&format!("`{wrong}`")) && error.find_hint().is_some(), "{error}");
        }
        assert!(serde_json::from_str::<Dropping>("1.5").unwrap_err().to_string().contains("`1.5`"));
    }

    #[test]
    fn a_share_replaces_those_of_the_places_that_a_family_has() {
        let config = Rates { attention: Some(0.1), feed_forward: Some(0.0), ..Rates::default() };
        assert_eq!(config.under(Dropping::Off), Rates::default());
        assert_eq!(config.under(Dropping::Config), config);
        let asked = config.under(Dropping::Share(0.3));
        assert_eq!(asked.named().collect::<Vec<_>>(), [("attention", 0.3), ("feed_forward", 0.3)]);
    }

    #[test]
    fn masks_differ_by_everything_they_should_and_by_nothing_else() {
        let rates = Rates { attention: Some(0.5), attended: Some(0.5), feed_forward: Some(0.0), ..Rates::default() };
        let draw = Draw::new(7).of(3);
        let at = |draw: Draw, lengths: &[usize], site, layer| {
            Drops::new(draw, rates, &Spans::of_lengths(lengths)).at(site, layer).unwrap().unwrap()
        };
        let one = at(draw, &[2, 3], Site::Attended, 1);
        assert_eq!(one, at(Draw::new(7).of(3), &[2, 3], Site::Attended, 1));
        for other in [
            at(draw, &[2, 3], Site::Attended, 0),
            at(draw, &[2, 3], Site::Attention, 1),
            at(draw.of(0), &[2, 3], Site::Attended, 1),
            at(Draw::new(7).of(4), &[2, 3], Site::Attended, 1),
            at(Draw::new(8).of(3), &[2, 3], Site::Attended, 1),
        ] {
            assert_ne!(one, other);
        }
        // The second sequence by itself, as in a chunk.
        assert_eq!(one.of_rows(&[2, 3, 4]), at(draw.beginning_at(1), &[3], Site::Attended, 1));
        let drops = Drops::new(draw, rates, &Spans::of_lengths(&[2]));
        assert!(drops.at(Site::Embedding, 0).unwrap().is_none(), "the family has none there");
        assert!(drops.at(Site::FeedForward, 0).unwrap().is_none(), "a share of 0 is none");
        assert!(drops.adapter("a", 0.0).unwrap().is_none());
        assert_ne!(drops.adapter("a", 0.5).unwrap(), drops.adapter("b", 0.5).unwrap());
    }
}
