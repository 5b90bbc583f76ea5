"""The encoder as sentence-transformers builds it, for steps that train it on token ids."""

from common import padded


def load(folder):
    from sentence_transformers import SentenceTransformer

    # eval: no dropout, as in ragtune; it does not stop gradients.
    model = SentenceTransformer(str(folder), device="cpu", model_kwargs={"attn_implementation": "sdpa"}).eval()
    # Loaded with the rest, but no part of a vector.
    for name, parameter in model.named_parameters():
        if ".pooler." in name:
            parameter.requires_grad_(False)
    return model


def vectors(torch, model, sequences):
    """(B, D), pooled and normalised, with gradient."""
    ids, mask = padded(torch, sequences)
    return model({"input_ids": ids, "attention_mask": mask})["sentence_embedding"]
