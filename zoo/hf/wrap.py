"""A run's decoder as a model of transformers in this process: for its pipelines, trainers, harnesses.

model, tokenizer = wrap(load_run("RUN"))
model.generate(**tokenizer("def ", return_tensors="pt"))
"""

from typing import Any

from zoo.decoder import Decoder
from zoo.load import ConfigError, Run


def special_ids(run: Run) -> dict[str, Any]:
    """The special ids: `eos` stands before each document, where texts begin and end."""
    eos = getattr(run.tokenizer, "eos", None)
    return {"bos_token_id": eos, "eos_token_id": eos, "pad_token_id": eos}


def configuration(run: Run, *, zoo: dict[str, Any], **more: Any) -> Any:
    """The ZooConfig of a run; `zoo` is the node that the model is built from."""
    from zoo.hf.modeling_zoo import ZooConfig

    model = decoder_of(run)
    return ZooConfig(
        zoo=zoo,
        vocab_size=model.vocab_size,
        hidden_size=model.width,
        num_hidden_layers=len(model.blocks),
        max_position_embeddings=model.max_length or model.context_length,
        tie_word_embeddings=model.head.weight is model.embedding.weight,
        dtype=str(model.embedding.weight.dtype).removeprefix("torch."),
        **special_ids(run),
        **more,
    )


def decoder_of(run: Run) -> Decoder:
    """The run's model; ConfigError where it is no decoder alone."""
    if not isinstance(run.model, Decoder):
        kind = type(run.model).__name__
        raise ConfigError(
            f"{run.folder}: holds a {kind}, and only decoders are models of transformers"
        )
    return run.model


def tokenizer_of(run: Run) -> Any:
    """The run's tokenizer in transformers' form, None where it has none."""
    convert = getattr(run.tokenizer, "to_transformers", None)
    tokenizer = None if convert is None else convert()
    if tokenizer is not None:
        tokenizer.model_max_length = decoder_of(run).max_length or int(1e30)
    return tokenizer


def wrap(run: Run) -> tuple[Any, Any]:
    """(model, tokenizer): a `PreTrainedModel` around the run's own decoder, weights shared, and its
    tokenizer, None where transformers has no such."""
    from zoo.hf.modeling_zoo import ZooForCausalLM

    config = configuration(run, zoo=run.config["model"])
    return ZooForCausalLM(config, decoder=run.model).eval(), tokenizer_of(run)
