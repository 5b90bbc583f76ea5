//! The index as its users see it: one binary, one file for each thing that must hold.

mod blocking;
mod changing;
mod common;
mod corpus;
mod crash;
mod damage;
mod filter;
mod full_disk;
mod fuzz;
mod generations;
mod held;
mod laundering;
mod lexical;
mod memory;
mod model;
mod opening;
mod past;
mod power;
mod readers;
mod resume;
mod reuse;
mod rot;
mod together;
mod views;
