//! What made a vector: everything a query must share with the passages for their inner product to mean something.

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};

/// The properties of an encoder that decide its vectors, by name: weights, tokenizer, pooling, prefixes, normalisation,
/// maximum length, dtype. Two encoders with equal fingerprints give the same vector for the same text.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Fingerprint(BTreeMap<String, String>);

impl Fingerprint {
    /// A fingerprint with these properties.
    pub fn new(properties: BTreeMap<String, String>) -> Self {
        Self(properties)
    }

    /// A short name: the first 16 hex digits of blake3 over the properties as compact JSON with sorted keys.
    pub fn id(&self) -> String {
        // A map of strings cannot fail to be written as JSON; an empty text would still give a fixed, harmless name.
        let canonical = serde_json::to_string(&self.0).unwrap_or_default();
        blake3::hash(canonical.as_bytes()).to_hex()[..16].to_string()
    }

    /// The value of a property.
    pub fn get(&self, property: &str) -> Option<&str> {
        self.0.get(property).map(String::as_str)
    }

    /// All properties in the order of their names.
    pub fn properties(&self) -> &BTreeMap<String, String> {
        &self.0
    }

    /// One line for every property in which the two differ, in the order of names, empty when they are equal.
    pub fn differences(&self, other: &Fingerprint) -> Vec<String> {
        let mut names: Vec<&String> = self.0.keys().chain(other.0.keys()).collect();
        names.sort();
        names.dedup();
        let show = |value: Option<&str>| value.map_or("nothing".to_string(), |value| format!("`{value}`"));
        names
            .into_iter()
            .filter(|name| self.get(name) != other.get(name))
            .map(|name| format!("{name}: {} against {}", show(self.get(name)), show(other.get(name))))
            .collect()
    }
}

impl fmt::Display for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.id())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(pairs: &[(&str, &str)]) -> Fingerprint {
        Fingerprint::new(pairs.iter().map(|(name, value)| (name.to_string(), value.to_string())).collect())
    }

    #[test]
    fn the_id_follows_the_content_and_not_the_order() {
        let one = of(&[("weights", "a"), ("pooling", "mean")]);
        assert_eq!(one.id(), of(&[("pooling", "mean"), ("weights", "a")]).id());
        assert_ne!(one.id(), of(&[("pooling", "cls"), ("weights", "a")]).id());
        assert_eq!(one.id().len(), 16);
    }

    #[test]
    fn differences_name_every_property_that_differs() {
        let one = of(&[("weights", "a"), ("pooling", "mean"), ("dtype", "f32")]);
        let two = of(&[("weights", "b"), ("pooling", "mean"), ("max_length", "128")]);
        assert_eq!(
            one.differences(&two),
            ["dtype: `f32` against nothing", "max_length: nothing against `128`", "weights: `a` against `b`"]
        );
        assert!(one.differences(&one).is_empty());
    }
}
