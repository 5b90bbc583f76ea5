"""Makes the generator of the measurements: a Llama of random weights with a tokenizer of its own, and a LoRA adapter.

Writes OUT/model (safetensors f32, 100 M parameters by default) and OUT/adapter (peft, rank 16 on every projection, B not zero so
that outputs depend on all of it). The tokenizer is a byte-level BPE learnt from the corpus, so that the vocabulary has the size of
a real one: the output layer is a large part of the work. The same arguments give the same files.

Run: python benches/peers/random_llama.py --corpus corpus.jsonl --out DIR
"""

import argparse
import json
from pathlib import Path

from common import torch_on_cpu

SPECIAL = ["<pad>", "<bos>", "<eos>"]


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--corpus", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--hidden", type=int, default=768)
    parser.add_argument("--layers", type=int, default=12)
    parser.add_argument("--heads", type=int, default=12)
    parser.add_argument("--key-value-heads", type=int, default=4)
    parser.add_argument("--intermediate", type=int, default=2048)
    parser.add_argument("--vocabulary", type=int, default=32000)
    parser.add_argument("--rank", type=int, default=16)
    args = parser.parse_args()
    torch = torch_on_cpu()
    from peft import LoraConfig, get_peft_model
    from transformers import LlamaConfig, LlamaForCausalLM

    tokenizer = learn_tokenizer(args)
    torch.manual_seed(0)
    config = LlamaConfig(
        hidden_size=args.hidden, num_hidden_layers=args.layers, num_attention_heads=args.heads,
        num_key_value_heads=args.key_value_heads, intermediate_size=args.intermediate, vocab_size=len(tokenizer),
        # Wide enough that attention is not even: a mistake in it would show in the losses.
        initializer_range=args.hidden**-0.5, max_position_embeddings=512, rms_norm_eps=1e-5, tie_word_embeddings=True,
        pad_token_id=0, bos_token_id=1, eos_token_id=2,
    )
    model = LlamaForCausalLM(config)
    model.save_pretrained(args.out / "model")
    tokenizer.save_pretrained(args.out / "model")
    print(f"{model.num_parameters() / 1e6:.1f} M parameters, {len(tokenizer)} tokens")

    projections = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
    lora = LoraConfig(task_type="CAUSAL_LM", r=args.rank, lora_alpha=2 * args.rank, target_modules=projections)
    adapted = get_peft_model(model, lora)
    with torch.no_grad():
        for name, parameter in adapted.named_parameters():
            if "lora_B" in name:
                parameter.normal_(0, 0.01)
    adapted.save_pretrained(args.out / "adapter")


def learn_tokenizer(args):
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=args.vocabulary, special_tokens=SPECIAL, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    with args.corpus.open() as lines:
        texts = [" ".join(json.loads(line)[key] for key in ("title", "text")) for line in lines]
    tokenizer.train_from_iterator(texts, trainer)
    names = dict(zip(("pad_token", "bos_token", "eos_token"), SPECIAL))
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, **names)


if __name__ == "__main__":
    main()
