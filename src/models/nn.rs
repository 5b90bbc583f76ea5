//! Every layer of the models, each with its backward pass.
//!
//! candle's own fused layers (`layer_norm`, `rms_norm`, `softmax_last_dim`, `rope`) record no backward pass: a model
//! built on them trains with silently missing gradients. Nothing outside this file may build one.
//!
//! Rules that hold for every function here:
//! * f32 tensors; anything else is an error that says so. A tensor that is not contiguous is copied once.
//! * On the CPU one operation is one node of the graph, computed by fused loops over rows in parallel. Its backward pass reads only
//!   its arguments and result, so nothing is kept for it, and computes the gradient of those arguments only that are, or
//!   depend on, a variable: frozen weights cost no backward work.
//! * The same inputs give the same bits: rows are cut into pieces whose size depends on the shape alone, sums run over
//!   fixed lanes, and partial sums are added in the order of the pieces.
//! * On another device the same function is put together from candle's operations, with the same arguments, results and
//!   gradients: see `portable`.
//!
//! Dimensions: B sequences, N tokens of all of them one after the other (Nq queries, Nk keys), D model width, H heads, Hk
//! heads of keys and values (H a multiple of Hk), Dh width of a head, M rows, V vocabulary.

mod activation;
mod adapted;
mod attention;
mod bf16;
mod dense;
mod dropout;
mod embedding;
#[cfg(target_arch = "x86_64")]
mod gelu;
mod int8;
mod kernel;
mod linear;
mod matmul;
mod norm;
mod output;
mod packed;
mod pooling;
mod portable;
mod quantised;
mod rope;
#[cfg(target_arch = "x86_64")]
mod skinny;
mod softmax;
mod tiles;

pub use activation::{Activation, activate, gated};
pub use adapted::{Base, adapted_linear};
pub use attention::{Attend, Piece, attention, attention_biased};
pub use bf16::Bf16Matrix;
pub use dense::{DenseMatrix, Then, linear_then};
pub use dropout::{Dropout, dropout, mix};
pub use embedding::{bert_embedding, embedding};
pub use int8::Int8Matrix;
pub use kernel::with_values;
pub use linear::linear;
pub use norm::{l2_normalize, layer_norm, rms_norm};
pub use output::linear_log_prob;
pub use pooling::{Pool, pool};
pub(in crate::models) use portable::graft;
pub use portable::{is_portable, portably};
pub use quantised::{Format, Quantised};
pub use rope::rope_packed;
pub use softmax::{log_prob_of, log_softmax, log_sum_exp, softmax};

#[cfg(test)]
mod testing;
#[cfg(test)]
mod tests;
