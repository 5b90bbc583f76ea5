//! Bad input, through the real program: exit code 2, the offending value named, a hint, nothing lost, no panic.

mod corpora;
mod damage;
mod disk;
mod models;
mod settings;
mod writers;
