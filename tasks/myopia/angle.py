"""How the gradient divides (§4.4): what serves the present, what serves the future, and their angle.

    total = myopic + future;   cos = <myopic, future> / (|myopic| |future|)

over all parameters but embeddings. A negative cosine says that the present would rather have other
features than the future asks for.
"""

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from zoo.decoder import Decoder
from zoo.mixers.myopic import MyopicAttention
from zoo.mixers.softmax import SoftmaxAttention


@contextmanager
def gradients_as(model: Decoder, variant: str, beta: float = 0.0) -> Iterator[None]:
    """Inside, backward passes are those of `variant`, whatever the model's own softmax mixers are.

    Raises ValueError for a model of other mixers.
    """
    own = [block.mixer for block in model.blocks]
    try:
        for block, mixer in zip(model.blocks, own):
            if not isinstance(mixer, SoftmaxAttention):
                raise ValueError(f"gradients of {variant}: {type(mixer).__name__} has no such form")
            block.mixer = _sharing(mixer, variant, beta)  # type: ignore[assignment]
        yield
    finally:
        for block, mixer in zip(model.blocks, own):
            block.mixer = mixer  # type: ignore[assignment]


def _sharing(mixer: SoftmaxAttention, variant: str, beta: float) -> MyopicAttention:
    """A myopic mixer on the same weights."""
    with torch.device("meta"):
        twin = MyopicAttention(
            variant=variant,  # type: ignore[arg-type]
            beta=beta,
            width=mixer.project.out_features,
            num_heads=mixer.num_heads,
            num_kv_heads=mixer.num_kv_heads,
            dropout=mixer.dropout,
            bias=mixer.qkv.bias is not None,
        )
    twin.qkv, twin.project = mixer.qkv, mixer.project
    return twin.train(mixer.training)


def gradient_parts(
    model: Decoder, loss: Callable[[], Tensor], *, variant: str = "hidden"
) -> dict[str, float]:
    """Norms of the total, myopic and future gradient and the cosine of the last two, dropout off.

    loss: computes the loss to differentiate. The parameters' .grad is left as it is.
    """
    tables = {id(model.embedding.weight), *map(id, model.position.parameters())}
    parameters = [p for p in model.parameters() if p.requires_grad and id(p) not in tables]
    was_training = model.training
    model.eval()
    try:
        with gradients_as(model, variant, beta=1.0):
            total = torch.autograd.grad(loss(), parameters)
        with gradients_as(model, variant):
            myopic = torch.autograd.grad(loss(), parameters)
    finally:
        model.train(was_training)
    sums = torch.zeros(4, dtype=torch.float64)
    for whole, own in zip(total, myopic):
        future = whole.double() - own.double()
        parts = (whole.double().square(), own.double().square(), future.square(), own * future)
        sums += torch.stack([part.sum() for part in parts]).cpu()
    whole, own, ahead, product = sums.tolist()
    return {
        "norm@total": math.sqrt(whole),
        "norm@myopic": math.sqrt(own),
        "norm@future": math.sqrt(ahead),
        "cosine": product / math.sqrt(own * ahead) if own and ahead else math.nan,
    }
