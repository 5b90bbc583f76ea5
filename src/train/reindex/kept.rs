//! What a checkpoint keeps of a policy's state beside the weights, and how a run goes on with it.

use std::path::Path;

use super::super::Trainer;
use super::super::adapter::Map;
use super::super::checkpoint::{self, Beside, trained};
use crate::error::Result;

/// The weights of a snapshot that is being embedded.
const SNAPSHOT: &str = "snapshot";
/// Live vectors, and those that replace stored ones.
const FRESH: &str = "fresh";
/// The map of the stored vectors that is searched.
const ADAPTER: &str = "adapter-map";

impl Trainer<'_> {
    /// The tensors that a checkpoint needs beside weights and moments; what names them goes into the state.
    pub(in super::super) fn beside(&mut self) -> Result<Beside> {
        let mut beside = Beside::new();
        if let Some(background) = &self.background {
            beside.insert(SNAPSHOT, trained(background.encoder.params()));
        }
        if let Some(fresh) = &self.context.fresh {
            let (kept, tensors) = fresh.borrow().keep()?;
            self.state.fresh = kept;
            if !tensors.is_empty() {
                beside.insert(FRESH, tensors);
            }
        }
        if let Some(map) = &self.map {
            beside.insert(ADAPTER, [(ADAPTER.to_owned(), map.tensor()?)].into());
        }
        Ok(beside)
    }

    /// Goes on with what a checkpoint kept; the stage's models and generation are in place.
    pub(in super::super) fn follow_from(&mut self, folder: &Path) -> Result<()> {
        if let Some(tensor) = checkpoint::beside(folder, ADAPTER)?.remove(ADAPTER) {
            let values = tensor.flatten_all()?.to_vec1::<f32>()?;
            self.restore_map(Map::new(values, self.pipeline.encoder.dim())?)?;
        }
        if let Some(fresh) = &self.context.fresh {
            let tensors = checkpoint::beside(folder, FRESH)?;
            fresh.borrow_mut().restore(&self.state.fresh, tensors, &self.pipeline.generation)?;
        }
        if self.state.pending.is_some() {
            let snapshot = self.pipeline.encoder.try_clone()?;
            checkpoint::take_over(&folder.join(format!("{SNAPSHOT}.safetensors")), snapshot.params())?;
            self.embed_beside(snapshot)?;
        }
        Ok(())
    }
}
