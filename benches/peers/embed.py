"""embed: passages to vectors by SentenceTransformer.encode, texts in, f32."""

from common import Line, arguments, read, torch_on_cpu


def main():
    args = arguments(__doc__, repetitions=1, passages={"type": int, "default": 0}, batch_size={"type": int, "default": 32},
                     vectors={"help": "write passages.f32 and questions.f32 to this folder"})
    torch_on_cpu()
    import encoder

    line = Line("embed", "sentence-transformers", "passages")
    texts = read(args, "embed.json")
    passages = texts["passages"][: args.passages or None]
    model = encoder.load(args.encoder)
    encode = lambda texts: model.encode(texts, batch_size=args.batch_size, show_progress_bar=False)
    encode(passages[:64])
    found = {}

    def once(_):
        found["vectors"] = encode(passages)

    line.measure(args, len(passages), once, warm_up=0)
    if args.vectors:
        write(args.vectors, "passages.f32", found["vectors"])
        write(args.vectors, "questions.f32", encode(texts["questions"]))
    line.print(dim=found["vectors"].shape[1])


def write(folder, file, vectors):
    from pathlib import Path

    Path(folder).mkdir(parents=True, exist_ok=True)
    vectors.astype("<f4").tofile(Path(folder) / file)


if __name__ == "__main__":
    main()
