"""mnrl: one step of fine-tuning the whole encoder with PyTorch: two forward passes, backward, AdamW; f32, no dropout."""

from common import Line, adamw, arguments, batch, read, torch_on_cpu


def main():
    args = arguments(__doc__, compile={"action": "store_true", "help": "torch.compile the encoder with dynamic shapes"})
    torch = torch_on_cpu()
    import encoder

    line = Line("mnrl", "torch-compiled" if args.compile else "torch", "steps")
    inputs = read(args, "mnrl.json")
    model = encoder.load(args.encoder)
    optimizer = adamw(torch, model.parameters(), inputs["learning_rate"])
    if args.compile:
        model[0].model = torch.compile(model[0].model, dynamic=True)
    losses = []

    def once(repetition):
        pairs = batch(inputs["batches"], repetition)
        questions = encoder.vectors(torch, model, pairs["questions"])
        passages = encoder.vectors(torch, model, pairs["passages"])
        scores = questions @ passages.T * inputs["scale"]
        loss = torch.nn.functional.cross_entropy(scores, torch.arange(len(scores)))
        loss.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        losses.append(loss.item())

    line.measure(args, 1, once)
    line.print(losses=losses)


if __name__ == "__main__":
    main()
