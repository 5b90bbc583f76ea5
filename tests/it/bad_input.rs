//! Bad input, through the real program: exit code 2, the offending value named, a hint, nothing lost, no panic.

mod corpora;
mod damage;
mod disk;
mod divergence;
mod lengths;
mod models;
mod read_only;
mod rot;
mod settings;
mod strategies;
mod typed;
mod weights;
mod writers;
