"""A generator in transformers, with or without an adapter in peft: the answers ragtune gave, word for word, and, against
another folder that should be the same model, log-probabilities to 1e-4.

Prompts are made here from prompt.json and the passage that ragtune retrieved first; nothing of ragtune is used.
"""

import argparse
import json
import pathlib

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

parser = argparse.ArgumentParser()
parser.add_argument("corpus")
parser.add_argument("questions")
parser.add_argument("--model", required=True)
parser.add_argument("--adapter")
parser.add_argument("--scores", required=True, help="what ragtune eval --scores wrote, for one passage a question")
parser.add_argument("--same-as", help="a folder that should hold the same model")
parser.add_argument("--unlike", help="scores of another model: some answer must differ")
parser.add_argument("--answer-tokens", type=int, default=16)
options = parser.parse_args()


def lines(path):
    with open(path, encoding="utf-8") as file:
        return [json.loads(line) for line in file]


def load(folder, adapter=None):
    model = AutoModelForCausalLM.from_pretrained(folder, torch_dtype=torch.float32)
    if adapter:
        from peft import PeftModel

        model = PeftModel.from_pretrained(model, adapter)
    return model.eval()


passages = {passage["id"]: passage for passage in lines(options.corpus)}
questions = {question["id"]: question["question"] for question in lines(options.questions)}
template = json.loads((pathlib.Path(options.model) / "prompt.json").read_text())
tokenizer = AutoTokenizer.from_pretrained(options.model)
model = load(options.model, options.adapter)
other = load(options.same_as) if options.same_as else None
end = model.generation_config.eos_token_id
end = end if isinstance(end, list) else [end]


def prompt(score):
    passage = passages[score["retrieved"][0]]
    text = template.get("instruction", "") + template["passage"].replace("{title}", passage["title"]).replace(
        "{text}", passage["text"]
    )
    text += template["question"].replace("{question}", questions[score["id"]])
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    return ([tokenizer.bos_token_id] if template["bos"] else []) + ids


scores = lines(options.scores)
compared, largest = 0, 0.0
with torch.no_grad():
    for score in scores:
        ids = prompt(score)
        if len(ids) > template["max_prompt_tokens"]:
            continue  # ragtune shortened it
        answer, sequence = [], torch.tensor([ids])
        while len(answer) < options.answer_tokens:
            token = int(model(sequence).logits[0, -1].argmax())
            if token in end:
                break
            answer.append(token)
            sequence = torch.cat([sequence, torch.tensor([[token]])], dim=1)
        expected = tokenizer.decode(answer, skip_special_tokens=True).strip()
        assert score["prediction"] == expected, f"{score['id']}: {score['prediction']!r}, expected {expected!r}"
        if other is not None:
            ours, theirs = (torch.log_softmax(one(sequence).logits, -1) for one in (other, model))
            largest = max(largest, (ours - theirs).abs().max().item())
        compared += 1
assert compared >= 10, f"only {compared} of {len(scores)} prompts were short enough"
assert largest <= 1e-4, f"log-probabilities differ by {largest}"
if options.unlike:
    others = {score["id"]: score["prediction"] for score in lines(options.unlike)}
    assert any(others[score["id"]] != score["prediction"] for score in scores), "the adapter changes no answer"
said = f", log-probabilities differ by at most {largest:.1e}" if other is not None else ""
print(f"  {pathlib.Path(options.adapter or options.model).name}: {compared} answers equal{said}")
