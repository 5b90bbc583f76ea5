"""Makes a LoRA adapter with peft on a generator, its weights random but for their size, as if it had been trained.

peft_adapter.py GENERATOR OUT
"""

import sys

import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM

generator, out = sys.argv[1:]
torch.manual_seed(11)
config = LoraConfig(
    task_type="CAUSAL_LM",
    r=6,
    lora_alpha=9,
    lora_dropout=0.0,
    target_modules=["q_proj", "k_proj", "o_proj", "gate_proj", "up_proj"],
)
model = get_peft_model(AutoModelForCausalLM.from_pretrained(generator, torch_dtype=torch.float32), config)
with torch.no_grad():
    for name, parameter in model.named_parameters():
        if "lora_" in name:
            parameter.copy_(torch.randn_like(parameter) * 0.05)
model.save_pretrained(out)
