//! The commands as they are typed: what they print, what they leave, what they refuse.

mod changing;
#[cfg(target_os = "linux")]
mod clock;
mod compare;
mod data;
mod embed;
mod encoders;
mod eval;
mod export;
mod held;
mod index;
mod inspect;
mod retriever;
mod train;
