"""joint: one RAG-Token step with sentence-transformers, transformers and peft: the encoder in full and the adapter, every passage
embedded live; f32, no dropout."""

from common import Line, adamw, arguments, batch, read, torch_on_cpu


def main():
    args = arguments(__doc__)
    torch = torch_on_cpu()
    import encoder
    import reader

    line = Line("joint", "transformers-peft", "steps")
    inputs = read(args, "reading.json")
    embedder, generator = encoder.load(args.encoder), reader.load(args.generator)
    optimizers = [
        adamw(torch, embedder.parameters(), inputs["learning_rate_encoder"]),
        adamw(torch, generator.parameters(), inputs["learning_rate_generator"]),
    ]
    losses = []

    def once(repetition):
        reading = batch(inputs["batches"], repetition)
        questions = encoder.vectors(torch, embedder, reading["questions"])
        passages = encoder.vectors(torch, embedder, reading["passages"])
        log_probs, mask = reader.log_probs(torch, generator, reading)
        scores = (questions[:, None] * passages.view(len(questions), -1, passages.shape[1])).sum(-1)
        loss = reader.rag_token(torch, scores, inputs["temperature"], log_probs, mask)
        loss.backward()
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        losses.append(loss.item())

    line.measure(args, 1, once)
    line.print(losses=losses)


if __name__ == "__main__":
    main()
