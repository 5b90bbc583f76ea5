"""Makes what benches/gpu.sh measures on, all of it random and none of it downloaded: models and token ids.

OUT/encoder    a BERT as a sentence-transformers folder (f32, mean pooling, unit length)
OUT/generator  a Llama in `model` (stored in bf16) and a LoRA adapter in `adapter` (peft, on every projection, B not zero)
OUT/inputs     embed.json, mnrl.json and reading.json, as benches/peers/inputs.py writes them

The same arguments give the same files.

Run: python benches/peers/gpu_inputs.py --out DIR --encoder 100m --generator 1b
"""

import argparse
import json
import random
from pathlib import Path

from gpu_common import torch

# Width, layers, heads, feed-forward width, vocabulary.
ENCODERS = {"tiny": (64, 2, 4, 128, 600), "100m": (768, 12, 12, 3072, 30522)}
# Width, layers, heads, heads of keys and values, feed-forward width, vocabulary.
GENERATORS = {
    "tiny": (64, 2, 4, 2, 128, 600),
    "1b": (2048, 16, 32, 8, 8192, 32000),
    "3b": (3072, 28, 24, 8, 8192, 32000),
    "8b": (4096, 32, 32, 8, 14336, 32000),
}
PROJECTIONS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--encoder", choices=ENCODERS, default="100m")
    parser.add_argument("--generator", choices=GENERATORS, default="1b")
    parser.add_argument("--sequence", type=int, default=512, help="tokens of a prompt with answer; the most of a passage")
    parser.add_argument("--passages", type=int, default=4096, help="to embed")
    parser.add_argument("--pairs", type=int, default=32, help="of an mnrl step")
    parser.add_argument("--questions", type=int, default=4, help="of a generator or joint step")
    parser.add_argument("--top-k", type=int, default=5, help="passages a question")
    parser.add_argument("--batches", type=int, default=4, help="of training steps, taken in turn")
    parser.add_argument("--rank", type=int, default=16)
    args = parser.parse_args()
    settings = json.dumps({key: value for key, value in vars(args).items() if key != "out"})
    made = args.out / "settings.json"
    if made.is_file() and made.read_text() == settings:
        return
    torch.manual_seed(0)
    encoder(args)
    generator(args)
    inputs(args, random.Random(0))
    made.write_text(settings)


def tokenizer(vocabulary, special, ends):
    """Whole words w0, w1, ...: random texts need no others. `ends` are put around a text."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors

    words = {word: id for id, word in enumerate([*special, *(f"w{i}" for i in range(vocabulary - len(special)))])}
    made = Tokenizer(models.WordLevel(words, unk_token=special[1]))
    made.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    if ends:
        first, last = ends
        made.post_processor = processors.TemplateProcessing(
            single=f"{first} $A {last}", special_tokens=[(first, words[first]), (last, words[last])])
    return made


def encoder(args):
    from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

    hidden, layers, heads, inner, vocabulary = ENCODERS[args.encoder]
    out = args.out / "encoder"
    config = BertConfig(hidden_size=hidden, num_hidden_layers=layers, num_attention_heads=heads, intermediate_size=inner,
                        vocab_size=vocabulary, max_position_embeddings=args.sequence)
    BertModel(config, add_pooling_layer=False).save_pretrained(out)
    names = dict(pad_token="[PAD]", unk_token="[UNK]", cls_token="[CLS]", sep_token="[SEP]", mask_token="[MASK]")
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer(vocabulary, list(names.values()), ("[CLS]", "[SEP]")), **names).save_pretrained(out)

    def write(name, value):
        (out / name).parent.mkdir(exist_ok=True)
        (out / name).write_text(json.dumps(value))

    package = "sentence_transformers.models"
    write("modules.json", [{"idx": i, "name": str(i), "path": path, "type": f"{package}.{kind}"} for i, (path, kind) in
                           enumerate([("", "Transformer"), ("1_Pooling", "Pooling"), ("2_Normalize", "Normalize")])])
    write("sentence_bert_config.json", {"max_seq_length": args.sequence, "do_lower_case": False})
    write("1_Pooling/config.json", {"word_embedding_dimension": hidden, "pooling_mode_mean_tokens": True})
    (out / "2_Normalize").mkdir(exist_ok=True)


def generator(args):
    from peft import LoraConfig, get_peft_model
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    hidden, layers, heads, key_heads, inner, vocabulary = GENERATORS[args.generator]
    config = LlamaConfig(
        hidden_size=hidden, num_hidden_layers=layers, num_attention_heads=heads, num_key_value_heads=key_heads,
        intermediate_size=inner, vocab_size=vocabulary, max_position_embeddings=max(512, args.sequence),
        # Wide enough that attention is not even: a mistake in it would show in the losses.
        initializer_range=hidden**-0.5, rms_norm_eps=1e-5, tie_word_embeddings=True, pad_token_id=0, bos_token_id=2,
        eos_token_id=3)
    torch.set_default_dtype(torch.bfloat16)
    model = LlamaForCausalLM(config)
    torch.set_default_dtype(torch.float32)
    model.save_pretrained(args.out / "generator" / "model")
    names = dict(pad_token="<pad>", unk_token="<unk>", bos_token="<bos>", eos_token="<eos>")
    PreTrainedTokenizerFast(tokenizer_object=tokenizer(vocabulary, list(names.values()), None),
                            **names).save_pretrained(args.out / "generator" / "model")
    print(f"{model.num_parameters() / 1e6:.0f} M parameters")
    adapted = get_peft_model(model, LoraConfig(
        task_type="CAUSAL_LM", r=args.rank, lora_alpha=2 * args.rank, target_modules=PROJECTIONS))
    with torch.no_grad():
        for name, parameter in adapted.named_parameters():
            if "lora_B" in name:
                parameter.normal_(0, 0.01)
    adapted.save_pretrained(args.out / "generator" / "adapter")


def inputs(args, draw):
    words, tokens = ENCODERS[args.encoder][4] - 5, GENERATORS[args.generator][5] - 4
    answer = min(8, args.sequence // 4)

    def length(most):
        """Like passages of an encyclopaedia: most are of a middle length, some reach the limit."""
        return max(4, min(most, int(draw.lognormvariate(4.9, 0.6))))

    def word_ids(count):
        return [2, *(5 + draw.randrange(words) for _ in range(count - 2)), 3]

    def token_ids(count):
        return [4 + draw.randrange(tokens) for _ in range(count)]

    def write(name, value):
        (args.out / "inputs" / f"{name}.json").write_text(json.dumps(value))

    def text(count):
        return " ".join(f"w{draw.randrange(words)}" for _ in range(count))

    (args.out / "inputs").mkdir(parents=True, exist_ok=True)
    write("embed", {"passages": [text(length(args.sequence - 2)) for _ in range(args.passages)],
                    "questions": [text(12) for _ in range(64)], "gold": []})
    write("mnrl", {"scale": 5.0, "learning_rate": 2e-5, "batches": [
        {"questions": [word_ids(16) for _ in range(args.pairs)],
         "passages": [word_ids(args.sequence) for _ in range(args.pairs)]} for _ in range(args.batches)]})
    prompts = args.questions * args.top_k
    write("reading", {
        "temperature": 0.5, "learning_rate_encoder": 2e-5, "learning_rate_generator": 1e-4, "batches": [
            {"prompts": [[2, *token_ids(args.sequence - answer - 1)] for _ in range(prompts)],
             "answers": [[*token_ids(answer - 1), 3] for _ in range(args.questions)],
             "questions": [word_ids(16) for _ in range(args.questions)],
             "passages": [word_ids(length(args.sequence)) for _ in range(prompts)]} for _ in range(args.batches)]})


if __name__ == "__main__":
    main()
