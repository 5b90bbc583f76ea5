"""decode: greedy continuation of a batch of prompts by transformers' generate with its cache; no token ends an answer."""

from common import Line, arguments, read, torch_on_cpu


def main():
    args = arguments(__doc__)
    torch = torch_on_cpu()
    from transformers import LlamaForCausalLM

    line = Line("decode", "transformers", "tokens")
    inputs = read(args, "decode.json")
    model = LlamaForCausalLM.from_pretrained(args.generator / "model", dtype="float32", attn_implementation="sdpa").eval()
    model.generation_config.eos_token_id = None
    prompts = torch.tensor(inputs["prompts"])
    found = {}

    def once(_):
        found["written"] = model.generate(
            input_ids=prompts, attention_mask=torch.ones_like(prompts), max_new_tokens=inputs["new_tokens"],
            do_sample=False, num_beams=1, use_cache=True, pad_token_id=0,
        )[:, prompts.shape[1]:]

    line.measure(args, prompts.shape[0] * inputs["new_tokens"], once)
    line.print(written=found["written"].tolist())


if __name__ == "__main__":
    main()
