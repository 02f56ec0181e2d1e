"""Checkpoints of the Hugging Face Hub: into the zoo's decoder, and back as the stock class.

    model = load_pretrained("EleutherAI/pythia-70m")     # a name on the Hub, or a folder
    logits_BTV = model(tokens_BT)
    save_pretrained(model, "folder")                     # transformers loads the same logits from it

GPT-2 (gpt2.py), GPT-NeoX and Pythia (neox.py) and Llama-shaped models (llama.py, llama_kin.py) are read
and written.
"""

from zoo.hf.families import family_of, stock_family
from zoo.hf.load import Checkpoint, load_pretrained
from zoo.hf.save import save_pretrained

__all__ = ["Checkpoint", "family_of", "load_pretrained", "save_pretrained", "stock_family"]
