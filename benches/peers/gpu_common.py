"""What the peers on a device share: torch with the device visible, and lines that say what torch allocated there."""

import os

# The other peers are for the CPU and hide devices when they are imported.
_visible = os.environ.get("CUDA_VISIBLE_DEVICES")
import common  # noqa: E402

if _visible is None:
    del os.environ["CUDA_VISIBLE_DEVICES"]
else:
    os.environ["CUDA_VISIBLE_DEVICES"] = _visible
import torch  # noqa: E402

torch.set_num_threads(common.threads())


def allocated(device):
    """The most bytes of tensors that torch had on the device; none is known for the CPU."""
    return torch.cuda.max_memory_allocated() if device.startswith("cuda") else None
