"""Makes the int8 model of embed_int8.py: exports the encoder, fuses its layers, quantises the weights.

What sentence-transformers and optimum do for `avx512_vnni` (int8 per channel, activations quantised as they come), with ONNX
Runtime's own fusions before it. Pooling and normalisation are part of the graph.

Run: python benches/peers/onnx_int8.py --encoder DIR --out DIR
"""

import argparse
from pathlib import Path

from common import torch_on_cpu


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--encoder", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    torch = torch_on_cpu()
    from onnx import TensorProto
    from onnxruntime.quantization import QuantType, quantize_dynamic
    from onnxruntime.transformers import optimizer
    from transformers import AutoModel

    bert = AutoModel.from_pretrained(args.encoder, attn_implementation="eager", add_pooling_layer=False).eval()

    class Pooled(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.bert = bert

        def forward(self, input_ids, attention_mask):
            states = self.bert(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state
            mask = attention_mask.unsqueeze(-1).to(states.dtype)
            mean = (states * mask).sum(1) / mask.sum(1).clamp(min=1e-9)
            return torch.nn.functional.normalize(mean, dim=-1)

    args.out.mkdir(parents=True, exist_ok=True)
    plain, fused, int8 = (args.out / f"{name}.onnx" for name in ("f32", "fused", "int8"))
    ids = torch.ones(2, 8, dtype=torch.int64)
    axes = {0: "batch", 1: "tokens"}
    torch.onnx.export(
        Pooled(), (ids, ids), str(plain), dynamo=False, opset_version=17, input_names=["input_ids", "attention_mask"],
        output_names=["vectors"], dynamic_axes={"input_ids": axes, "attention_mask": axes, "vectors": {0: "batch"}},
    )
    config = bert.config
    model = optimizer.optimize_model(
        str(plain), model_type="bert", num_heads=config.num_attention_heads, hidden_size=config.hidden_size, opt_level=0,
    )
    model.save_model_to_file(str(fused))
    # Fused layers are of a domain that shape inference does not know.
    options = {"DefaultTensorType": TensorProto.FLOAT}
    quantize_dynamic(str(fused), str(int8), weight_type=QuantType.QInt8, per_channel=True, extra_options=options)
    print(f"{int8}: fused {model.get_fused_operator_statistics()}")


if __name__ == "__main__":
    main()
