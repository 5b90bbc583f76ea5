//! In which order a reader of one prompt is given the passages.

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};

/// The order of the passages in a prompt that holds them all. It needs no training, but a generator answers best in the order
/// in which it learnt to read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Order {
    /// Ranks 1, 2, 3, ...
    #[default]
    BestFirst,
    /// Ranks 1, 3, 5, ..., 6, 4, 2: a reader of a long prompt looks first at both ends (arXiv 2410.05983, section 4.1).
    BothEnds,
}

impl Order {
    /// Every order.
    pub const ALL: [Self; 2] = [Self::BestFirst, Self::BothEnds];

    /// The name in configurations and reports.
    pub fn name(self) -> &'static str {
        match self {
            Self::BestFirst => "best-first",
            Self::BothEnds => "both-ends",
        }
    }

    /// The order of that name.
    pub fn parse(name: &str) -> Result<Self> {
        Self::ALL.into_iter().find(|order| order.name() == name).ok_or_else(|| {
            let known = Self::ALL.map(Self::name).join("`, `");
            Error::new(format!("unknown order of passages `{name}`; expected one of `{known}`"))
                .hint("`best-first` is as they were found, `both-ends` puts the best at the beginning and the end")
        })
    }

    /// What was given best first, in this order.
    pub fn arrange<T: Copy>(self, best_first: &[T]) -> Vec<T> {
        match self {
            Self::BestFirst => best_first.to_vec(),
            Self::BothEnds => {
                let front = best_first.iter().copied().step_by(2);
                let mut back: Vec<T> = best_first.iter().copied().skip(1).step_by(2).collect();
                back.reverse();
                front.chain(back).collect()
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn passages_are_arranged_as_the_order_is_named() {
        assert_eq!(Order::BothEnds.arrange(&[1, 2, 3, 4, 5, 6]), [1, 3, 5, 6, 4, 2]);
        assert_eq!(Order::BothEnds.arrange(&[1, 2, 3]), [1, 3, 2]);
        assert_eq!(Order::BestFirst.arrange(&[1, 2, 3]), [1, 2, 3]);
        assert!(Order::BothEnds.arrange::<u32>(&[]).is_empty());
        for order in Order::ALL {
            assert_eq!(Order::parse(order.name()).unwrap(), order);
        }
        assert!(Order::parse("worst-first").unwrap_err().find_hint().is_some());
    }
}
