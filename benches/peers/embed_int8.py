"""embed: the same with ONNX Runtime, int8 weights and activations (dynamic quantisation), texts in.

The model that onnx_int8.py made; sorted by length in tokens and cut into batches of 32, as sentence-transformers does by words.
"""

from common import Line, arguments, read, threads
from embed import write


def main():
    args = arguments(__doc__, repetitions=1, passages={"type": int, "default": 0}, batch_size={"type": int, "default": 32},
                     model={"required": True, "help": "the .onnx file"}, vectors={})
    import numpy
    import onnxruntime
    from tokenizers import Tokenizer

    line = Line("embed", "onnxruntime-int8", "passages")
    texts = read(args, "embed.json")
    passages = texts["passages"][: args.passages or None]
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads()
    options.inter_op_num_threads = 1
    session = onnxruntime.InferenceSession(args.model, options, providers=["CPUExecutionProvider"])
    tokenizer = Tokenizer.from_file(str(args.encoder / "tokenizer.json"))
    tokenizer.no_padding()
    tokenizer.enable_truncation(read(args, "settings.json")["max_length"])

    def encode(texts):
        ids = [encoding.ids for encoding in tokenizer.encode_batch_fast(texts)]
        order = sorted(range(len(ids)), key=lambda row: -len(ids[row]))
        vectors = [None] * len(ids)
        for first in range(0, len(order), args.batch_size):
            rows = order[first : first + args.batch_size]
            longest = len(ids[rows[0]])
            tokens = numpy.zeros((len(rows), longest), "int64")
            mask = numpy.zeros_like(tokens)
            for at, row in enumerate(rows):
                tokens[at, : len(ids[row])] = ids[row]
                mask[at, : len(ids[row])] = 1
            feed = {"input_ids": tokens, "attention_mask": mask}
            for row, vector in zip(rows, session.run(None, feed)[0]):
                vectors[row] = vector
        return numpy.stack(vectors)

    encode(passages[:64])
    found = {}

    def once(_):
        found["vectors"] = encode(passages)

    line.measure(args, len(passages), once, warm_up=0)
    if args.vectors:
        write(args.vectors, "passages.f32", found["vectors"])
        write(args.vectors, "questions.f32", encode(texts["questions"]))
    line.print(dim=found["vectors"].shape[1])


if __name__ == "__main__":
    main()
