"""Writes the work that both sides do: texts, token ids, batches and learning rates, as JSON files in OUT.

embed.json    passages of nq-qed as texts, its dev questions and which passages they are about
mnrl.json     batches of question-passage pairs in ids of the encoder
reading.json  batches of questions with K passages each: prompts and answers in ids of the generator, questions and passages in
              ids of the encoder
decode.json   prompts to continue
matmul.json   shapes of the encoder's matrix products
settings.json what they were made with

The same arguments and data give the same files.

Run: python benches/peers/inputs.py --shared ../shared --generator DIR --out DIR
"""

import argparse
import json
import random
from pathlib import Path

from tokenizers import Tokenizer


def main():
    args = parse()
    data = args.shared / "data" / "nq-qed"
    corpus, train, dev = (lines(data / name) for name in ("corpus.jsonl", "questions_train.jsonl", "questions_dev.jsonl"))
    ordinals = {passage["id"]: ordinal for ordinal, passage in enumerate(corpus)}
    texts = [f"{passage['title']} {passage['text']}" if passage["title"] else passage["text"] for passage in corpus]
    # One gold passage only: then no other passage of a batch is excluded as a negative.
    train = [question for question in train if len(question["gold_passages"]) == 1]
    random.Random(0).shuffle(train)
    encoder = Encoder(args)
    reader = Reader(args, corpus)
    args.out.mkdir(parents=True, exist_ok=True)

    def write(name, value):
        (args.out / f"{name}.json").write_text(json.dumps(value))

    write("embed", {
        "passages": texts[: args.passages or None],
        "questions": [question["question"] for question in dev],
        "gold": [[ordinals[id] for id in question["gold_passages"]] for question in dev],
    })

    def gold(question):
        return ordinals[question["gold_passages"][0]]

    taken = iter(train)
    batches = []
    for _ in range(args.batches):
        pairs = distinct(taken, gold, args.pairs)
        batches.append({
            "questions": [encoder.ids(question["question"]) for question in pairs],
            "passages": [encoder.ids(texts[gold(question)]) for question in pairs],
        })
    # Not the usual 20: this encoder has learnt from these questions, and losses near 0 would compare rounding.
    write("mnrl", {"scale": 5.0, "learning_rate": 2e-5, "batches": batches})

    draw = random.Random(1)
    batches = []
    for _ in range(args.batches):
        questions = distinct(taken, gold, args.questions)
        # The gold passage and K - 1 others, in any order.
        chosen = [draw.sample([gold(question), *draw.sample(range(len(corpus)), args.top_k - 1)], args.top_k)
                  for question in questions]
        pairs = [(question, row) for question, rows in zip(questions, chosen) for row in rows]
        batches.append({
            "prompts": [reader.prompt(question["question"], row) for question, row in pairs],
            "answers": [reader.answer(question["answers"][0]) for question in questions],
            "questions": [encoder.ids(question["question"]) for question in questions],
            "passages": [encoder.ids(texts[row]) for _, row in pairs],
        })
    write("reading", {
        "temperature": 0.5, "learning_rate_encoder": 2e-5, "learning_rate_generator": 1e-4, "batches": batches,
    })

    prompts = [reader.prompt(question["question"], gold(question)) for question in distinct(taken, gold, args.decoded)]
    write("decode", {"new_tokens": args.new_tokens, "prompts": prompts})

    config = json.loads((args.encoder / "config.json").read_text())
    width, inner = config["hidden_size"], config["intermediate_size"]
    write("matmul", {"rows": 32 * 160, "shapes": [[width, width, 4], [width, inner, 1], [inner, width, 1]]})
    settings = {key: value for key, value in vars(args).items() if not isinstance(value, Path)}
    write("settings", settings | {"max_length": encoder.max_length})


def parse():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--shared", type=Path, required=True, help="holds data/nq-qed")
    parser.add_argument("--encoder", type=Path, required=True)
    parser.add_argument("--generator", type=Path, required=True, help="the folder that random_llama.py made")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--passages", type=int, default=0, help="the first N passages are embedded; 0: all")
    parser.add_argument("--batches", type=int, default=16, help="of training steps, taken in turn")
    parser.add_argument("--pairs", type=int, default=32, help="of an mnrl step")
    parser.add_argument("--questions", type=int, default=4, help="of a generator or joint step")
    parser.add_argument("--top-k", type=int, default=5, help="passages a question")
    parser.add_argument("--prompt-tokens", type=int, default=256)
    parser.add_argument("--answer-tokens", type=int, default=8, help="at most, end of sequence included")
    parser.add_argument("--decoded", type=int, default=8, help="prompts that are continued")
    parser.add_argument("--new-tokens", type=int, default=32)
    return parser.parse_args()


def lines(path):
    with path.open() as file:
        return [json.loads(line) for line in file]


def distinct(questions, gold, count):
    """The next questions whose gold passages differ."""
    found = {}
    while len(found) < count:
        question = next(questions)
        found.setdefault(gold(question), question)
    return list(found.values())


class Encoder:
    """Texts to ids of the encoder, cut to the length limit of its folder."""

    def __init__(self, args):
        self.max_length = json.loads((args.encoder / "sentence_bert_config.json").read_text())["max_seq_length"]
        self.tokenizer = Tokenizer.from_file(str(args.encoder / "tokenizer.json"))
        self.tokenizer.no_padding()
        self.tokenizer.enable_truncation(self.max_length)

    def ids(self, text):
        return self.tokenizer.encode(text).ids


class Reader:
    """Prompts of one exact length and answers, in ids of the generator."""

    def __init__(self, args, corpus):
        self.tokenizer = Tokenizer.from_file(str(args.generator / "model" / "tokenizer.json"))
        self.corpus, self.length, self.answer_length = corpus, args.prompt_tokens, args.answer_tokens

    def ids(self, text):
        return self.tokenizer.encode(text, add_special_tokens=False).ids

    def prompt(self, question, row):
        """Begin of sequence, the passage (and what follows it in the corpus, when it is too short), the question."""
        tail = self.ids(f"\nQuestion: {question}\nAnswer:")
        ids = [self.tokenizer.token_to_id("<bos>")]
        ids += self.ids(f"Context: {self.corpus[row]['title']}: {self.corpus[row]['text']}")
        while len(ids) + len(tail) < self.length:
            row = (row + 1) % len(self.corpus)
            ids += self.ids(f" {self.corpus[row]['text']}")
        return ids[: self.length - len(tail)] + tail

    def answer(self, text):
        return self.ids(f" {text}")[: self.answer_length - 1] + [self.tokenizer.token_to_id("<eos>")]


if __name__ == "__main__":
    main()
