//! The commands as they are typed: what they print, what they leave, what they refuse.

mod compare;
mod data;
mod encoders;
mod eval;
mod index;
mod train;
