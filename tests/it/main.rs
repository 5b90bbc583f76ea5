//! The real program, driven from outside, and the contract every strategy keeps. One binary, so that it is linked once.
//!
//! Everything runs on `fixtures/`; only `real` reads `../shared` and says so when it is not there. Every test works in a
//! folder of its own; one small index is built for all of them and copied by those that change it.

mod bad_input;
mod cli;
mod comparing;
mod contract;
mod crash;
mod flops;
mod hub;
mod interop;
mod objectives;
mod oracles;
mod real;
mod refresh;
mod resume;
mod support;
mod trajectory;
