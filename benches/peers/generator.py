"""generator: one step of training a LoRA adapter with transformers and peft: RAG-Token with an even prior; f32, no dropout."""

from common import Line, adamw, arguments, batch, read, torch_on_cpu


def main():
    args = arguments(__doc__, all_logits={"action": "store_true", "help": "compute the logits of the prompts too"})
    torch = torch_on_cpu()
    import reader

    line = Line("generator", "transformers-peft", "steps")
    inputs = read(args, "reading.json")
    model = reader.load(args.generator)
    optimizer = adamw(torch, model.parameters(), inputs["learning_rate_generator"])
    losses = []

    def once(repetition):
        log_probs, mask = reader.log_probs(torch, model, batch(inputs["batches"], repetition), args.all_logits)
        even = torch.zeros(log_probs.shape[:2])
        loss = reader.rag_token(torch, even, inputs["temperature"], log_probs, mask)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        losses.append(loss.item())

    line.measure(args, 1, once)
    line.print(losses=losses)


if __name__ == "__main__":
    main()
