//! Views: a generation's graph over other vectors of the same passages, in memory only.

use std::sync::Arc;

use ragtune_nearest::{Aligned, not_of_length_one};

use crate::error::{Error, Result};
use crate::generation::{Generation, LENGTH_TOLERANCE, Shared};
use crate::mapped::Floats;
use crate::vectors::Held;

impl Generation {
    /// This generation with other vectors for its passages: (N, D) row-major, each finite and of length one within 1e-4.
    ///
    /// The graph is shared: its edges say where to look, the new vectors what is found (see `graph` in `ragtune-nearest` for
    /// why that is safe). A view is never stored, has no notes and keeps the number of the generation that it was made of.
    /// No encoder is known to have made its vectors, so it is only searched with [`Trust::StaleAllowed`](crate::Trust).
    pub fn with_vectors(&self, vectors: Vec<f32>) -> Result<Generation> {
        let expected = self.vectors().len();
        if vectors.len() != expected {
            let what = format!("values for a view of {} passages", self.len());
            return Err(Error::Dimension { what, given: vectors.len(), expected });
        }
        if let Some(ordinal) = not_of_length_one(&vectors, self.dim(), LENGTH_TOLERANCE) {
            let what = format!("the vector of passage {ordinal} of a view is not finite and of length one");
            return Err(Error::BadVector { what });
        }
        let Shared { number, dim, dataset_version, fingerprint, graph, alive, .. } = &*self.shared;
        let shared = Shared {
            number: *number,
            dim: *dim,
            dataset_version: *dataset_version,
            fingerprint: fingerprint.clone(),
            vectors: Floats::Memory(Aligned::from(&vectors[..])),
            codes: None,
            held: Held::default(),
            graph: graph.clone(),
            alive: alive.clone(),
            sidecar: None,
            is_view: true,
        };
        Ok(Generation { shared: Arc::new(shared) })
    }

    /// Whether this is a view: the vectors are not those of the stored generation.
    pub fn is_view(&self) -> bool {
        self.shared.is_view
    }
}
