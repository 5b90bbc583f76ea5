//! Choices that a paper and its code, or two papers, make differently: each has a name in settings and reports.

/// An enum whose variants have names, with `name`, `parse` and `ALL`.
macro_rules! choice {
    ($(#[$about:meta])* $choice:ident ($what:literal) { $($(#[$doc:meta])* $variant:ident = $text:literal),+ $(,)? }) => {
        $(#[$about])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
        pub enum $choice {
            $($(#[$doc])* #[serde(rename = $text)] $variant),+
        }

        impl $choice {
            /// All of them.
            pub const ALL: &'static [Self] = &[$(Self::$variant),+];

            /// The name in settings and reports.
            pub fn name(self) -> &'static str {
                match self {
                    $(Self::$variant => $text),+
                }
            }

            /// The one of that name; another name is refused with the list.
            pub fn parse(name: &str) -> crate::error::Result<Self> {
                Self::ALL.iter().copied().find(|choice| choice.name() == name).ok_or_else(|| {
                    let known: Vec<&str> = Self::ALL.iter().map(|choice| choice.name()).collect();
                    crate::error::Error::new(format!(
                        "unknown {} `{name}`; expected one of {}", $what, known.join(", ")
                    ))
                    .hint(format!("for instance `{}`", known.first().copied().unwrap_or_default()))
                })
            }
        }
    };
}

pub(crate) use choice;

choice! {
    /// How the log-probabilities of an answer's tokens become one number.
    Length ("length normalisation") {
        /// Their sum: the log-probability of the answer.
        Sum = "sum",
        /// Their mean: long and short answers on one scale, but no probability of anything (Atlas's and DRO's code).
        Mean = "mean",
    }
}

choice! {
    /// What of a likelihood a target distribution is the softmax of.
    Value ("target value") {
        /// log p: the target is proportional to `p^(1/temperature)`.
        LogProbability = "log-probability",
        /// p itself, as REPLUG and RA-DIT write it: for unlikely answers every p is near 0 and the target near uniform.
        Probability = "probability",
    }
}

choice! {
    /// Which way the divergence between a target t and the prior p over passages is taken.
    Direction ("KL direction") {
        /// `KL(t || p)`: the prior covers the target. Gradient on a score: `(p - t) / tau`.
        TargetToPrior = "target-to-prior",
        /// `KL(p || t)`: the prior seeks a mode of it. Gradient: `p_k [(log p_k - log t_k) - KL] / tau`.
        PriorToTarget = "prior-to-target",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read_back_and_others_refused() {
        for direction in Direction::ALL {
            assert_eq!(Direction::parse(direction.name()).unwrap(), *direction);
        }
        assert_eq!(serde_json::to_string(&Value::LogProbability).unwrap(), "\"log-probability\"");
        let error = Length::parse("median").unwrap_err();
        assert_eq!(error.to_string(), "unknown length normalisation `median`; expected one of sum, mean");
        assert!(error.find_hint().is_some());
    }
}
