"""The generator as transformers and peft build it, and the RAG-Token loss: shared by generator.py and joint.py."""

from common import padded


def load(folder, dtype="float32", device="cpu"):
    from peft import PeftModel
    from transformers import LlamaForCausalLM

    base = LlamaForCausalLM.from_pretrained(folder / "model", dtype=dtype, attn_implementation="sdpa").to(device)
    return PeftModel.from_pretrained(base, folder / "adapter", is_trainable=True).eval()


def log_probs(torch, model, batch, all_logits=False):
    """log p(answer token | prompt), (B, K, T), and the mask (B, T): each answer after each of its K prompts.

    Prompts of one batch are equally long. Sequences are padded on the right, so that causal attention alone keeps the padding
    from being seen: no mask is given, which is faster. Only the logits of answers are computed unless all are asked for.
    """
    questions = len(batch["answers"])
    passages = len(batch["prompts"]) // questions
    answers = [answer for answer in batch["answers"] for _ in range(passages)]
    start = len(batch["prompts"][0])
    assert all(len(prompt) == start for prompt in batch["prompts"])
    ids, _ = padded(torch, [prompt + answer for prompt, answer in zip(batch["prompts"], answers)])
    targets, mask = padded(torch, answers)
    count = targets.shape[1]
    places = torch.arange(start - 1, start - 1 + count)
    keep = 0 if all_logits else places
    logits = model(input_ids=ids, use_cache=False, logits_to_keep=keep).logits
    if all_logits:
        logits = logits[:, places]
    loss = torch.nn.functional.cross_entropy(logits.float().flatten(0, 1), targets.flatten(), reduction="none")
    return -loss.view(questions, passages, count), mask.view(questions, passages, count)[:, 0]


def rag_token(torch, scores, temperature, log_probs, mask):
    """-mean over questions of sum_t log sum_k softmax(s / temperature)_k p(y_t | x, z_k, y_<t)."""
    prior = torch.log_softmax(scores / temperature, -1)
    mixed = torch.logsumexp(log_probs + prior[:, :, None], 1)
    return -(mixed * mask).sum() / len(scores)
