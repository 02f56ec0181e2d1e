"""Next-token loss from hidden states without (tokens, vocabulary) logits: `op`."""
