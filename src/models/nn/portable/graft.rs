//! A result that candle's operations made, joined to its arguments with a backward pass of our own.
//!
//! candle's walk backwards over a composition keeps every tensor in between, and computes gradients of frozen matrices only
//! to throw them away, or to keep them beside the model. So compositions run on detached tensors, which record nothing, and
//! their result is joined to the arguments by one node. The node's forward pass is a copy of that result: an operation of
//! candle must make storage of its own.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use candle_core::backend::BackendStorage;
use candle_core::{
    CpuStorage, CudaStorage, CustomOp2, CustomOp3, DType, Layout, MetalStorage, Result as CandleResult, Shape, Tensor,
};

/// The gradient of each argument out of the contiguous one of the result; `None` for an argument that needs none.
type Backward = dyn Fn(&Tensor) -> CandleResult<Vec<Option<Tensor>>> + Send + Sync;

/// `result`, which depends on `arguments` as `backward` says. It is called once for a backward pass, and not at all where no
/// argument is, or depends on, a variable: then the result is as it is.
pub(in crate::models) fn graft(
    arguments: &[&Tensor],
    result: Tensor,
    backward: impl Fn(&Tensor) -> CandleResult<Vec<Option<Tensor>>> + Send + Sync + 'static,
) -> CandleResult<Tensor> {
    let result = result.detach();
    if !arguments.iter().any(|argument| argument.track_op()) {
        return Ok(result);
    }
    // The copy is of storage, which a view may share with others.
    let result = match result.is_contiguous() && result.layout().start_offset() == 0 {
        true => result,
        false => result.force_contiguous()?,
    };
    let node = |backward, own| Node { backward, gradients: Arc::default(), own };
    let backward: Arc<Backward> = Arc::new(backward);
    let last = node(Some(backward), [Source::Ticket; 2]);
    let gradients = Arc::clone(&last.gradients);
    let source = |at: usize| Source::Argument(at);
    // An operation takes three tensors, one of them the result. Of more than two arguments the first two go into a ticket: a
    // number without meaning, whose node hands on gradients that the last node computes.
    let mut waiting: Vec<(Tensor, Source)> =
        arguments.iter().enumerate().map(|(at, argument)| ((*argument).clone(), source(at))).collect();
    while waiting.len() > 2 {
        let rest = waiting.split_off(2);
        let [(one, first), (two, second)] = [waiting[0].clone(), waiting[1].clone()];
        let nothing = Tensor::zeros((), DType::F32, result.device())?;
        let own = [first, second];
        let ticket = one.apply_op3(&two, &nothing, Node { backward: None, gradients: Arc::clone(&gradients), own })?;
        waiting = std::iter::once((ticket, Source::Ticket)).chain(rest).collect();
    }
    match waiting.as_slice() {
        [(one, first)] => one.apply_op2(&result, Node { own: [*first; 2], ..last }),
        [(one, first), (two, second)] => one.apply_op3(two, &result, Node { own: [*first, *second], ..last }),
        _ => Ok(result),
    }
}

/// Where the gradient of a node's argument comes from.
#[derive(Clone, Copy)]
enum Source {
    /// The argument of that number.
    Argument(usize),
    /// Nowhere: it is a ticket.
    Ticket,
}

struct Node {
    /// Of the last node, which is the first that a backward pass meets.
    backward: Option<Arc<Backward>>,
    /// What it found, until it is taken.
    gradients: Arc<Mutex<Vec<Option<Tensor>>>>,
    own: [Source; 2],
}

impl Node {
    const NAME: &'static str = "graft";

    fn lock(&self) -> MutexGuard<'_, Vec<Option<Tensor>>> {
        // Whoever panicked while holding it left a list of whole tensors.
        self.gradients.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn compute(&self, dy: &Tensor) -> CandleResult<()> {
        if let Some(backward) = &self.backward {
            let found = backward(&dy.detach().contiguous()?)?;
            *self.lock() = found;
        }
        Ok(())
    }

    fn gradient(&self, which: usize, argument: &Tensor) -> CandleResult<Option<Tensor>> {
        match self.own[which] {
            // The walk goes on through a ticket only when it has a gradient.
            Source::Ticket => Ok(argument.track_op().then(|| argument.detach())),
            Source::Argument(at) => Ok(self.lock().get_mut(at).and_then(Option::take)),
        }
    }
}

impl CustomOp2 for Node {
    fn name(&self) -> &'static str {
        Self::NAME
    }

    fn cpu_fwd(&self, _: &CpuStorage, _: &Layout, y: &CpuStorage, l: &Layout) -> CandleResult<(CpuStorage, Shape)> {
        Ok((y.try_clone(l)?, l.shape().clone()))
    }

    fn cuda_fwd(&self, _: &CudaStorage, _: &Layout, y: &CudaStorage, l: &Layout) -> CandleResult<(CudaStorage, Shape)> {
        Ok((y.try_clone(l)?, l.shape().clone()))
    }

    fn metal_fwd(
        &self,
        _: &MetalStorage,
        _: &Layout,
        y: &MetalStorage,
        l: &Layout,
    ) -> CandleResult<(MetalStorage, Shape)> {
        Ok((y.try_clone(l)?, l.shape().clone()))
    }

    fn bwd(&self, a: &Tensor, _: &Tensor, _: &Tensor, dy: &Tensor) -> CandleResult<(Option<Tensor>, Option<Tensor>)> {
        self.compute(dy)?;
        Ok((self.gradient(0, a)?, None))
    }
}

impl CustomOp3 for Node {
    fn name(&self) -> &'static str {
        Self::NAME
    }

    fn cpu_fwd(
        &self,
        _: &CpuStorage,
        _: &Layout,
        _: &CpuStorage,
        _: &Layout,
        y: &CpuStorage,
        l: &Layout,
    ) -> CandleResult<(CpuStorage, Shape)> {
        Ok((y.try_clone(l)?, l.shape().clone()))
    }

    fn cuda_fwd(
        &self,
        _: &CudaStorage,
        _: &Layout,
        _: &CudaStorage,
        _: &Layout,
        y: &CudaStorage,
        l: &Layout,
    ) -> CandleResult<(CudaStorage, Shape)> {
        Ok((y.try_clone(l)?, l.shape().clone()))
    }

    fn metal_fwd(
        &self,
        _: &MetalStorage,
        _: &Layout,
        _: &MetalStorage,
        _: &Layout,
        y: &MetalStorage,
        l: &Layout,
    ) -> CandleResult<(MetalStorage, Shape)> {
        Ok((y.try_clone(l)?, l.shape().clone()))
    }

    fn bwd(
        &self,
        a: &Tensor,
        b: &Tensor,
        _: &Tensor,
        _: &Tensor,
        dy: &Tensor,
    ) -> CandleResult<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        self.compute(dy)?;
        Ok((self.gradient(0, a)?, self.gradient(1, b)?, None))
    }
}
