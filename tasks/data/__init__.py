"""Text in, windows of tokens out: corpora, tokenizers, the cache, packing, order, yardsticks."""
