"""One of two processes: models cut over both, beside the whole ones, in float64. Run by test_processes.py.

python tensor_parallel_job.py RANK FILE CONFIGS   (FILE: where the two meet; CONFIGS: model nodes, JSON)
"""

import json
import sys

import torch
import torch.distributed as dist
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import DTensor

from tasks import tensor_parallel
from zoo.load import build


def gradients(model, tokens, targets, documents):
    loss, losses = model.loss(tokens, targets, documents_BT=documents)
    loss.backward()
    whole = {n: p.grad for n, p in model.named_parameters()}
    whole = {n: g.full_tensor() if isinstance(g, DTensor) else g for n, g in whole.items()}
    return losses, tensor_parallel.reordered(model, whole, whole=True)


def main() -> None:
    rank, place, configs = int(sys.argv[1]), sys.argv[2], json.loads(sys.argv[3])
    dist.init_process_group("gloo", init_method=f"file://{place}", rank=rank, world_size=2)
    mesh = init_device_mesh("cpu", (2,))
    for name, node in configs.items():
        torch.manual_seed(0)
        whole = build(node, key="model").double()
        with torch.no_grad():
            for parameter in whole.parameters():  # no zeros, that would hide a head's own value
                parameter.add_(0.1 * torch.randn_like(parameter))
        model = build(node, key="model").double()
        model.load_state_dict(whole.state_dict())
        tokens = torch.randint(node["vocab_size"], (2, 24))
        targets, documents = tokens.roll(-1, 1), torch.arange(24).repeat(2, 1) // 9
        tensor_parallel.check(model, 2)
        tensor_parallel.cut(model, mesh)
        held = sum(
            (p.to_local() if isinstance(p, DTensor) else p).numel() for p in model.parameters()
        )
        expected, found = (gradients(m, tokens, targets, documents) for m in (whole, model))
        torch.testing.assert_close(found[0], expected[0], rtol=1e-10, atol=1e-12)
        assert found[1].keys() == expected[1].keys()
        for key, gradient in expected[1].items():
            # A number added to all of a head's scores, FIRE's last bias, changes nothing.
            assert gradient.abs().max() > 0 or "mlp.2.bias" in key, f"{name}: {key} is not reached"
            difference = (found[1][key] - gradient).abs().max()
            assert difference <= 1e-10 * gradient.abs().max() + 1e-14, (
                f"{name}: {key} is off by {difference}"
            )
        print(name, held, sum(p.numel() for p in whole.parameters()))
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
