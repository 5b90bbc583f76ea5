"""One work of benches/gpu.sh by transformers, peft and sentence-transformers on a device: embed, mnrl, generator or joint.

The encoder is f32, as ragtune's is; the generator's base is in --generator-dtype under an adapter in f32. No dropout, attention
by torch's scaled_dot_product_attention, AdamW fused.

Run: python benches/peers/gpu.py mnrl --inputs DIR --encoder DIR --generator DIR --device cuda
"""

import argparse
from pathlib import Path

from gpu_common import allocated, common, torch

import encoder
import reader
from common import Line, batch, read


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("work", choices=WORKS)
    parser.add_argument("--inputs", type=Path, required=True)
    parser.add_argument("--encoder", type=Path, required=True)
    parser.add_argument("--generator", type=Path, required=True)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--generator-dtype", default="f32", choices=["f32", "bf16"])
    parser.add_argument("--tf32", action="store_true")
    parser.add_argument("--warm-up", type=int, default=1)
    parser.add_argument("--repetitions", type=int, default=3)
    parser.add_argument("--batch-size", type=int, default=32)
    args = parser.parse_args()
    torch.backends.cuda.matmul.allow_tf32 = args.tf32
    torch.set_default_device(args.device)
    line, unit_count, once, found = WORKS[args.work](args)
    line.measure(args, unit_count, once)
    line.print(device_bytes_allocated=allocated(args.device), **found)


def load_encoder(args):
    return encoder.load(args.encoder).to(args.device)


def load_reader(args):
    return reader.load(args.generator, {"f32": "float32", "bf16": "bfloat16"}[args.generator_dtype], args.device)


def step(loss, optimizers, losses):
    loss.backward()
    for optimizer in optimizers:
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
    losses.append(loss.item())


def embed(args):
    line = Line("embed", "sentence-transformers", "passages")
    passages = read(args, "embed.json")["passages"]
    model = load_encoder(args)
    return line, len(passages), lambda _: model.encode(passages, batch_size=args.batch_size, show_progress_bar=False), {}


def mnrl(args):
    line, inputs, losses = Line("mnrl", "torch", "steps"), read(args, "mnrl.json"), []
    model = load_encoder(args)
    optimizers = [common.adamw(torch, model.parameters(), inputs["learning_rate"])]

    def once(repetition):
        pairs = batch(inputs["batches"], repetition)
        questions, passages = (encoder.vectors(torch, model, pairs[side]) for side in ("questions", "passages"))
        scores = questions @ passages.T * inputs["scale"]
        step(torch.nn.functional.cross_entropy(scores, torch.arange(len(scores))), optimizers, losses)

    return line, 1, once, {"losses": losses}


def generator(args):
    line, inputs, losses = Line("generator", "transformers-peft", "steps"), read(args, "reading.json"), []
    model = load_reader(args)
    optimizers = [common.adamw(torch, model.parameters(), inputs["learning_rate_generator"])]

    def once(repetition):
        log_probs, mask = reader.log_probs(torch, model, batch(inputs["batches"], repetition))
        even = torch.zeros(log_probs.shape[:2])
        step(reader.rag_token(torch, even, inputs["temperature"], log_probs.float(), mask), optimizers, losses)

    return line, 1, once, {"losses": losses}


def joint(args):
    line, inputs, losses = Line("joint", "transformers-peft", "steps"), read(args, "reading.json"), []
    embedder, model = load_encoder(args), load_reader(args)
    optimizers = [common.adamw(torch, embedder.parameters(), inputs["learning_rate_encoder"]),
                  common.adamw(torch, model.parameters(), inputs["learning_rate_generator"])]

    def once(repetition):
        reading = batch(inputs["batches"], repetition)
        questions, passages = (encoder.vectors(torch, embedder, reading[side]) for side in ("questions", "passages"))
        log_probs, mask = reader.log_probs(torch, model, reading)
        scores = (questions[:, None] * passages.view(len(questions), -1, passages.shape[1])).sum(-1)
        step(reader.rag_token(torch, scores, inputs["temperature"], log_probs.float(), mask), optimizers, losses)

    return line, 1, once, {"losses": losses}


WORKS = {"embed": embed, "mnrl": mnrl, "generator": generator, "joint": joint}

if __name__ == "__main__":
    main()
