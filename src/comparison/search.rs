//! Searching learning rates: which are tried, and which is chosen.

use std::collections::BTreeMap;

use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde::{Deserialize, Serialize};

use super::Rates;
use crate::config::TrainConfig;
use crate::error::{Error, Result};
use crate::strategies::Trains;

/// A part with a learning rate of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Part {
    /// The encoder.
    Encoder,
    /// The generator.
    Generator,
    /// The selector.
    Selector,
}

impl Part {
    /// All of them.
    pub const ALL: [Part; 3] = [Part::Encoder, Part::Generator, Part::Selector];

    /// Its name in records.
    pub fn name(self) -> &'static str {
        match self {
            Part::Encoder => "encoder",
            Part::Generator => "generator",
            Part::Selector => "selector",
        }
    }

    /// Whether it moves where these parts do.
    pub fn moves(self, trains: &Trains) -> bool {
        match self {
            Part::Encoder => trains.encoder(),
            Part::Generator => trains.generator,
            Part::Selector => trains.selector,
        }
    }

    /// Its learning rate in some settings.
    pub fn rate(self, config: &TrainConfig) -> f64 {
        match self {
            Part::Encoder => config.lr_encoder,
            Part::Generator => config.lr_generator,
            Part::Selector => config.lr_selector,
        }
    }

    /// Gives it another learning rate.
    pub fn set_rate(self, config: &mut TrainConfig, rate: f64) {
        match self {
            Part::Encoder => config.lr_encoder = rate,
            Part::Generator => config.lr_generator = rate,
            Part::Selector => config.lr_selector = rate,
        }
    }

    /// The setting that holds its learning rate.
    pub fn setting(self) -> &'static str {
        match self {
            Part::Encoder => "lr-encoder",
            Part::Generator => "lr-generator",
            Part::Selector => "lr-selector",
        }
    }
}

/// How the points of a search are taken.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Method {
    /// Every listed rate (for parts that train together: every combination).
    #[default]
    Grid,
    /// So many points, log-uniform between the smallest and the largest listed rate.
    Random,
    /// Every point of the grid with few steps, the best share of them with more, and so on (successive halving, Jamieson &
    /// Talwalkar 2016, arXiv 1502.07943). Every round trains anew, and is charged.
    Halving,
}

/// `[search]` of a comparison.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Search {
    /// How points are taken.
    #[serde(default)]
    pub method: Method,
    /// Rates of the encoder.
    #[serde(default = "lawton")]
    pub lr_encoder: Vec<f64>,
    /// Rates of the generator.
    #[serde(default = "lawton")]
    pub lr_generator: Vec<f64>,
    /// Rates of the selector; without any it is not searched, and the comparison says so.
    #[serde(default)]
    pub lr_selector: Vec<f64>,
    /// Points of a random search.
    #[serde(default = "default_points")]
    pub points: usize,
    /// Seed of a random search.
    #[serde(default)]
    pub seed: u64,
    /// Successive halving keeps one of so many points in each round, and trains so many times longer in the next.
    #[serde(default = "default_eta")]
    pub eta: usize,
    /// What decides for stages that only rank passages; all others are decided by `select-by`.
    #[serde(default = "default_ranking")]
    pub select_ranking_by: String,
}

/// The nine points of Lawton et al. 2025, arXiv 2510.01600, section 4.
fn lawton() -> Vec<f64> {
    vec![1e-8, 3e-8, 1e-7, 3e-7, 1e-6, 3e-6, 1e-5, 3e-5, 1e-4]
}

fn default_points() -> usize {
    6
}

fn default_eta() -> usize {
    3
}

fn default_ranking() -> String {
    "recall@5".into()
}

impl Search {
    /// The rates listed for a part.
    pub fn rates(&self, part: Part) -> &[f64] {
        match part {
            Part::Encoder => &self.lr_encoder,
            Part::Generator => &self.lr_generator,
            Part::Selector => &self.lr_selector,
        }
    }

    /// Refuses a search that cannot be done.
    pub fn check(&self) -> Result<()> {
        for part in Part::ALL {
            let rates = self.rates(part);
            let setting = part.setting();
            if rates.is_empty() && part != Part::Selector {
                return Err(Error::new(format!("[search] lists no `{setting}`"))
                    .hint("leave it out for the nine rates of Lawton et al."));
            }
            if let Some(rate) = rates.iter().find(|rate| !(rate.is_finite() && **rate > 0.0)) {
                return Err(Error::new(format!("[search] lists `{rate}` as `{setting}`, expected positive numbers"))
                    .hint("for instance `lr-encoder = [1e-6, 3e-6, 1e-5]`"));
            }
        }
        if self.points == 0 || self.eta < 2 {
            return Err(Error::new(format!(
                "[search] has `points = {}` and `eta = {}`, expected at least 1 and 2",
                self.points, self.eta
            ))
            .hint("leave them out for 6 and 3"));
        }
        crate::train::check_metric(&self.select_ranking_by)
    }

    /// Rounds of the search for `points` points of `steps` steps: how many points each takes on, and how long it trains.
    pub fn rounds(&self, points: usize, steps: u64) -> Vec<(usize, u64)> {
        if self.method != Method::Halving {
            return vec![(points, steps)];
        }
        let mut rounds = vec![(points, steps)];
        // From the last round, which has one survivor's worth of full training, back to the first with all points.
        let mut kept = points;
        while kept > self.eta {
            kept = kept.div_ceil(self.eta);
            rounds.push((kept, steps));
        }
        let last = rounds.len() - 1;
        for (round, (_, steps)) in rounds.iter_mut().enumerate() {
            let shorter = (self.eta as u64).saturating_pow((last - round) as u32);
            *steps = (*steps / shorter).max(1);
        }
        rounds
    }
}

/// One point: the rates of the parts that are searched together.
pub type Point = Rates;

/// The points of a search over these parts, in the order they are tried.
pub fn points(search: &Search, parts: &[Part]) -> Vec<Point> {
    if search.method == Method::Random {
        let mut random = ChaCha8Rng::seed_from_u64(search.seed);
        let mut draw = |part: Part| {
            let logs: Vec<f64> = search.rates(part).iter().map(|rate| rate.ln()).collect();
            let low = logs.iter().copied().fold(f64::INFINITY, f64::min);
            let high = logs.iter().copied().fold(f64::NEG_INFINITY, f64::max);
            (low + (high - low) * random.random::<f64>()).exp()
        };
        return (0..search.points).map(|_| parts.iter().map(|part| (*part, draw(*part))).collect()).collect();
    }
    parts.iter().fold(vec![BTreeMap::new()], |points, part| {
        let with = |point: &Point, rate: f64| {
            let mut point = point.clone();
            point.insert(*part, rate);
            point
        };
        points.iter().flat_map(|point| search.rates(*part).iter().map(move |rate| with(point, *rate))).collect()
    })
}

/// The best of scored points, best first: numbers of points. Of equal scores the earlier point is better, so that a tie is
/// decided by the order of the list and not by chance.
pub fn choose(scores: &[f64]) -> Vec<usize> {
    let mut order: Vec<usize> = (0..scores.len()).collect();
    order.sort_by(|a, b| scores[*b].total_cmp(&scores[*a]).then(a.cmp(b)));
    order
}

/// The parts whose chosen rate lies at an end of the range: the best may lie beyond. Of a list that is its smallest and its largest
/// rate. Rates that were drawn never meet the ends, and the smallest of them says nothing: there it is the outermost twentieths of
/// the range, on the scale of logarithms that they were drawn on.
pub fn on_the_edge(search: &Search, chosen: &Point) -> Vec<(Part, f64)> {
    let mut found = Vec::new();
    for (part, rate) in chosen {
        let logs: Vec<f64> = search.rates(*part).iter().map(|rate| rate.ln()).collect();
        let low = logs.iter().copied().fold(f64::INFINITY, f64::min);
        let high = logs.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let margin = if search.method == Method::Random { EDGE * (high - low) } else { 0.0 };
        if low < high && (rate.ln() <= low + margin || rate.ln() >= high - margin) {
            found.push((*part, *rate));
        }
    }
    found
}

/// What share of a range, from either end, is its edge where rates are drawn.
const EDGE: f64 = 0.05;

#[cfg(test)]
mod tests {
    use super::*;

    const PAIR: [Part; 2] = [Part::Encoder, Part::Generator];

    fn search(method: Method) -> Search {
        Search {
            method,
            lr_encoder: vec![1e-6, 1e-5, 1e-4],
            lr_generator: vec![1e-4, 1e-3],
            lr_selector: Vec::new(),
            points: 5,
            seed: 7,
            eta: 3,
            select_ranking_by: default_ranking(),
        }
    }

    #[test]
    fn a_grid_has_every_pair_and_random_points_lie_within_it() {
        assert_eq!(lawton().len(), 9);
        let grid = points(&search(Method::Grid), &PAIR);
        assert_eq!(grid.len(), 6);
        assert_eq!(points(&search(Method::Grid), &[Part::Generator]).len(), 2);
        let random = points(&search(Method::Random), &PAIR);
        assert_eq!(random.len(), 5);
        assert_eq!(random, points(&search(Method::Random), &PAIR));
        assert!(random.iter().all(|point| (1e-6..=1e-4).contains(&point[&Part::Encoder])));
        assert!(random.windows(2).all(|pair| pair[0] != pair[1]));
    }

    #[test]
    fn halving_ends_with_full_training() {
        let search = search(Method::Halving);
        assert_eq!(search.rounds(9, 90), [(9, 30), (3, 90)]);
        assert_eq!(search.rounds(27, 90), [(27, 10), (9, 30), (3, 90)]);
        assert_eq!(search.rounds(2, 90), [(2, 90)]);
        assert_eq!(search.rounds(4, 1), [(4, 1), (2, 1)]);
    }

    #[test]
    fn the_best_is_chosen_and_an_edge_is_noticed() {
        assert_eq!(choose(&[0.1, 0.3, 0.3, f64::NEG_INFINITY]), [1, 2, 0, 3]);
        let grid = search(Method::Grid);
        let point = |e: f64, g: f64| Point::from([(Part::Encoder, e), (Part::Generator, g)]);
        assert_eq!(on_the_edge(&grid, &point(1e-5, 1e-4)), [(Part::Generator, 1e-4)]);
        assert_eq!(on_the_edge(&grid, &point(1e-4, 1e-3)).len(), 2);
        let single = Search { lr_encoder: vec![1e-5], ..search(Method::Grid) };
        assert!(on_the_edge(&single, &Point::from([(Part::Encoder, 1e-5)])).is_empty());
        // Of rates that are drawn one is always the smallest: it is at the edge where it lies at the end of the range.
        let random = search(Method::Random);
        assert!(on_the_edge(&random, &point(2e-6, 5e-4)).is_empty());
        assert_eq!(on_the_edge(&random, &point(1.1e-6, 5e-4)), [(Part::Encoder, 1.1e-6)]);
        assert_eq!(on_the_edge(&random, &point(9.5e-5, 9.6e-4)).len(), 2);
    }
}
